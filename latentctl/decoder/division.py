"""How the samples of a cache are divided in parts, shards and tasks, also after it has grown.

A cache grows by further shards: those that are sealed keep their names, bytes and rows. What a
finished cache had at each seal is in its manifest: rows of a map-style data set, or parts of a
stream. The rows that were added to a map-style data set are a part of their own, whose shards begin
anew, so that the last shard of the part before may have fewer samples.
"""

from __future__ import annotations

__all__ = ["Division", "sizes_at_seals"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CacheError
from ..latents.shards import FORMAT, Key, find_shards, read_notes
from ..storage.files import MANIFEST, read_manifest, well_formed


@dataclass(frozen=True)
class Division:
    """The division of a data set.

    Arguments:
        streaming: Whether it is a stream, whose rows are not counted.
        shard_size: Samples of a shard.
        sizes: Rows, or parts of a stream, at each seal, and now.

    Example:
        >>> grown = Division(False, 4, (10, 17))
        >>> grown.parts, grown.rows(1), grown.shards(0), grown.task((1, 0)), grown.first((1, 1))
        (2, range(10, 17), 3, '3', 14)
    """

    streaming: bool
    shard_size: int
    sizes: tuple[int, ...]

    @property
    def unit(self) -> str:
        """What of an identity is counted."""
        return "parts" if self.streaming else "length"

    @property
    def parts(self) -> int:
        """The number of parts."""
        return self.sizes[-1] if self.streaming else len(self.sizes)

    def rows(self, part: int) -> range:
        """The rows of one part of a map-style data set."""
        return range((0, *self.sizes)[part], self.sizes[part])

    def shards(self, part: int) -> int:
        """The number of shards of one part of a map-style data set."""
        return -(-len(self.rows(part)) // self.shard_size)

    def first(self, key: Key) -> int:
        """The first sample of a shard; of a stream, counted from the beginning of its part."""
        before = 0 if self.streaming else self.rows(key[0]).start
        return before + key[1] * self.shard_size

    def task(self, key: Key) -> str:
        """The task that a shard is of: a shard, or a part of a stream that has several."""
        part, number = key
        if self.streaming and self.parts > 1:
            return str(part)
        return str(sum(self.shards(before) for before in range(part)) + number)

    def identity(self, whole: Mapping[str, Any], part: int) -> dict[str, Any]:
        """The identity that the data set had when a part was encoded."""
        piece = part
        if self.streaming:
            piece = next(number for number, size in enumerate(self.sizes) if part < size)
        rows = [] if self.streaming else [str(size - 1) for size in self.sizes[: piece + 1]]
        samples = {row: whole["samples"][row] for row in {"0", *rows}}
        found = {**whole, "samples": samples, self.unit: self.sizes[piece]}
        found.pop("pieces", None)  # which a cache has that has grown
        return {**found, "pieces": list(self.sizes[:piece])} if piece else found


def sizes_at_seals(folder: Path, unit: str) -> list[int]:
    """What a cache had at each seal, the last one included; empty if there is none.

    Without a manifest it is what the job of the last shard says.
    """
    found: Any = None
    try:
        found = read_manifest(folder / MANIFEST, FORMAT, CacheError, "")
    except (CacheError, OSError):  # an error of its own, later
        last = list(find_shards(folder).values())[-1:]
        notes = read_notes(last[0][0]) if last else None
        found = None if notes is None else notes.get("job")
    with well_formed(folder, CacheError):
        sizes = [*found.get("pieces", ()), found.get(unit)] if found else []
        return sizes if all(type(size) is int for size in sizes) else []

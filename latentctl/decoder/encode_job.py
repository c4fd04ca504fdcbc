"""One encoding of a data set into a cache: its tasks, how it is resumed, and how it is finished."""

from __future__ import annotations

__all__ = ["EncodeJob"]

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CacheError
from ..latents import shards
from ..latents.manifest import Listing, quickly_verified, read_manifest
from ..progress import progress_bar
from ..storage.files import MANIFEST, well_formed
from .dataset import BadSample, SampleReader, Source
from .division import Division
from .encode_identity import DIVISION, OtherJobError, differences
from .encode_seal import commit, intact_entries
from .encode_shard import ShardEncoder
from .reading import Request, read
from .shares import Share

logger = logging.getLogger(__name__)


@dataclass
class EncodeJob:
    """The making of one cache, whose tasks any process does in any order.

    A task is a shard; of a stream in several parts it is a part, so that a part is read once.
    """

    reader: SampleReader
    folder: Path
    identity: dict[str, Any]
    batch_size: int
    skip: bool
    workers: int = 0
    present: dict[shards.Key, bool] = field(default_factory=dict)  # finished: does its part end?

    def finished(self) -> tuple[dict[str, Any], Listing] | None:
        """The manifest and the listing of a complete and unchanged cache, else None."""
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            manifest, _ = read_manifest(self.folder)
            if self._grows(manifest):
                return None
            # how it was divided matters only for a cache that is to be completed
            whole = self.identity
            self._check({**manifest, **{key: whole[key] for key in DIVISION}}, whole)
            found = quickly_verified(self.folder)
        except OtherJobError:
            raise
        except CacheError as error:
            logger.warning("%s Completing it now.", error)
            return None
        with well_formed(self.folder / MANIFEST, CacheError):
            if manifest["skipped"] and not self.skip:
                raise BadSample(**manifest["skipped"][0])
        return found

    def missing(self) -> dict[str, list[shards.Key]]:
        """Task -> its shards that are not there; the next one only where more may follow."""
        self._look()
        last, ended = dict[int, int](), set[int]()
        for (part, number), ends in self.present.items():
            last[part] = max(number, last.get(part, -1))
            ended |= {part} if ends else set()
        found: dict[str, list[shards.Key]] = {}
        source = self.reader.source
        for part in range(self.division.parts):
            count = last.get(part, -1) + (1 if part in ended else 2)
            if not source.streaming:
                count = self.division.shards(part)
            for key in ((part, number) for number in range(count)):
                if key not in self.present:
                    found.setdefault(self.division.task(key), []).append(key)
        return found

    def _look(self) -> None:
        """Look for finished shards, which are not encoded again."""
        present: dict[shards.Key, bool] = {}
        for key, paths in self._found().items():
            if key in self.present:
                present[key] = self.present[key]
                continue
            for path in paths:
                if (notes := self._notes(path)) is None:
                    logger.warning("%s is truncated or corrupted: it is encoded again.", path)
                    path.unlink(missing_ok=True)
                else:
                    present[key] = bool(notes.get("last"))
        self.present = present

    def _notes(self, path: Path) -> dict[str, Any] | None:
        """The notes of a shard of this job; None if it is truncated, or its notes corrupted."""
        notes = shards.read_notes(path)
        try:
            if notes is not None:
                self._check_shard(notes)
        except CacheError:
            if shards.verify_shard(path) is not None:
                raise
            return None
        return notes

    def _check_shard(self, notes: dict[str, Any]) -> None:
        self._check(notes.get("job", {}), self.division.identity(self.identity, notes["part"]))

    def _check(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        with well_formed(self.folder, CacheError):
            other = differences(found, wanted)
        if other:
            raise OtherJobError(
                f"The cache in {self.folder} is another: {other}. Choose another folder, or "
                f"delete this one."
            )

    @functools.cached_property
    def division(self) -> Division:
        """How the data set is divided."""
        streaming = self.reader.source.streaming
        now = self.identity["parts" if streaming else "length"]
        sizes = (*self.identity.get("pieces", ()), now)
        return Division(streaming, int(self.identity["shard_size"]), sizes)

    @property
    def _size(self) -> int:
        return self.division.shard_size

    def _found(self) -> dict[shards.Key, list[Path]]:
        """The shard files of this job; those of a growth that was given up are of none."""
        found = shards.find_shards(self.folder)
        return {key: paths for key, paths in found.items() if key[0] < self.division.parts}

    def _grows(self, manifest: dict[str, Any]) -> bool:
        """Whether a finished cache is the one that this job extends."""
        sizes = self.division.sizes
        if len(sizes) == 1 or manifest.get(self.division.unit) != sizes[-2]:
            return False
        before = {**self.identity, self.division.unit: sizes[-2]}
        before.pop("pieces")
        self._check({**manifest, **{key: before[key] for key in DIVISION}}, before)
        return True

    def run(self, share: Share, progress: bool) -> None:
        """Encode the shards of this process that are missing, by reading the data set once."""
        source, tasks = self.reader.source, self.missing()
        if self.present:
            logger.info("%s: resuming after %d finished shards.", self.folder, len(self.present))
        with progress_bar(source.length, "Encode", "sample", progress=progress) as bar:
            bar.update(min(self._size * len(self.present), source.length or 0))
            parts = {part for keys in tasks.values() for part, _ in keys}
            for part in sorted(parts) if source.parts == 1 else ():
                self._walk(part, share, bar)
            for task in tasks if source.parts > 1 else ():
                if share.take(task):
                    with _holding(share, task):
                        self._walk(int(task), share, bar)

    def _walk(self, part: int, share: Share, bar: Any) -> None:
        """Encode the shards of one part that are missing and this process's."""
        reader, taken = self.reader.of_part(part), list[str]()
        dtype = getattr(torch, self.identity["dtype"])
        encoder: ShardEncoder | None = None
        try:
            for batch in read(
                self._requests(reader.source, part, share, taken), reader, self.workers
            ):
                key = batch.request.key
                if encoder is None:
                    first = self.division.first(key)
                    encoder = ShardEncoder(reader, first, self._size, self.skip, dtype)
                encoder.add(batch)
                share.beat(self.division.task(key))
                bar.update(len(batch.request.indices))
                if batch.request.last:
                    self._write(key, encoder)
                    encoder = None
                    if taken:
                        share.finish(taken.pop(0))
        except BaseException:
            for task in taken:
                share.release(task)
            raise

    def _write(self, key: shards.Key, encoder: ShardEncoder) -> None:
        job = self.division.identity(self.identity, key[0])
        tensors, notes = encoder.shard()  # local: not in memory beside the next one
        shards.write_shard(self.folder, key, tensors, {"job": job, **notes})

    def _requests(
        self, source: Source, part: int, share: Share, taken: list[str]
    ) -> Iterator[Request]:
        """The batches of the shards of one part that are missing and this process's."""
        size = self._size
        for number in self._numbers(part):
            key = (part, number)
            start, task = self.division.first(key), self.division.task(key)
            if not source.has(start) and start != source.length:
                return
            several = self.reader.source.parts > 1  # the part is the task, and was taken
            if key not in self.present and (several or share.take(task)):
                taken += [] if several else [task]
                yield from self._batches(source, key)
            else:
                source.has(start + size - 1)  # reads a stream past a shard that is not encoded
            if source.length is not None and start + size > source.length:
                return  # a stream that ends with a whole shard has an empty one after it

    def _batches(self, source: Source, key: shards.Key) -> Iterator[Request]:
        first, size = self.division.first(key), self._size
        for start in range(first, first + size, self.batch_size):
            stop = min(start + self.batch_size, first + size)
            rows = list[Any]()
            if source.streaming:
                for index in range(start, stop):
                    if not source.has(index):
                        break
                    rows.append(source[index])
            # the length of a stream is known once its end was seen
            limit = source.length if source.streaming else self.division.rows(key[0]).stop
            end = stop if limit is None else min(stop, limit)
            ends = end == limit
            last = ends or stop == first + size
            indices = range(start, max(start, end))
            yield Request(key, indices, rows if source.streaming else None, last, ends)
            if last:
                return

    def _numbers(self, part: int) -> Iterable[int]:
        missing = [n for keys in self.missing().values() for p, n in keys if p == part]
        if not self.reader.source.streaming:
            return missing
        ended = any(ends for (p, _), ends in self.present.items() if p == part)
        return range(max(missing, default=-1) + 1) if ended else itertools.count()

    def seal(self) -> list[str]:
        """Write the manifest, after the hash and the range of every shard were verified.

        Returns:
            The tasks of shards that are missing, or were corrupted and are removed; none if the
            cache is finished.
        """
        missing = list(self.missing())
        entries = intact_entries(self.folder, self._found(), len(self.division.sizes) > 1)
        missing += [self.division.task(key) for key, entry in entries.items() if entry is None]
        if not missing:
            whole = [entry for entry in entries.values() if entry is not None]
            with well_formed(self.folder, CacheError):
                for entry in whole:
                    self._check_shard(entry)
                source = self.reader.source
                length = source.length if source.parts == 1 else None
                commit(self.folder, whole, self.identity, length, self.skip)
        return missing


@contextlib.contextmanager
def _holding(share: Share, task: str) -> Iterator[None]:
    """A block in which a task is done that was taken; it is given back if the block fails."""
    try:
        yield
    except BaseException:
        share.release(task)
        raise
    share.finish(task)

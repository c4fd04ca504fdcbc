"""One encoding of a data set into a cache: its tasks, how it is resumed, and how it is finished."""

from __future__ import annotations

__all__ = ["EncodeJob"]

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CacheError, InputError
from ..latents import shards
from ..latents.manifest import Listing, quickly_verified, read_manifest, write_manifest
from ..progress import progress_bar
from ..storage.files import MANIFEST, well_formed
from .dataset import BadSample, SampleReader, Source
from .encode_identity import DIVISION, OtherJobError, differences
from .encode_shard import ShardEncoder
from .reading import Request, read
from .shares import Share

logger = logging.getLogger(__name__)

HASHING = 8  # threads


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
            # how it was divided matters only for a cache that is to be completed
            self._check({**manifest, **{key: self.identity[key] for key in DIVISION}})
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
        for part in range(source.parts):
            count = last.get(part, -1) + (1 if part in ended else 2)
            if not source.streaming:
                count = -(-int(source.length or 0) // self._size)
            for number in range(count):
                if (part, number) not in self.present:
                    found.setdefault(self._task(part, number), []).append((part, number))
        return found

    def _look(self) -> None:
        """Look for finished shards, which are not encoded again."""
        present: dict[shards.Key, bool] = {}
        for key, paths in shards.find_shards(self.folder).items():
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
                self._check(notes.get("job", {}))
        except CacheError:
            if shards.verify_shard(path) is not None:
                raise
            return None
        return notes

    def _check(self, found: dict[str, Any]) -> None:
        with well_formed(self.folder, CacheError):
            other = differences(found, self.identity)
        if other:
            raise OtherJobError(
                f"The cache in {self.folder} is another: {other}. Choose another folder, or "
                f"delete this one."
            )

    @property
    def _size(self) -> int:
        return int(self.identity["shard_size"])

    def _task(self, part: int, number: int) -> str:
        return str(part if self.reader.source.parts > 1 else number)

    def run(self, share: Share, progress: bool) -> None:
        """Encode the shards of this process that are missing, by reading the data set once."""
        source, tasks = self.reader.source, self.missing()
        if self.present:
            logger.info("%s: resuming after %d finished shards.", self.folder, len(self.present))
        with progress_bar(source.length, "Encode", "sample", progress=progress) as bar:
            bar.update(min(self._size * len(self.present), source.length or 0))
            if source.parts == 1 and tasks:
                self._walk(0, share, bar)
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
                    first = key[1] * self._size
                    encoder = ShardEncoder(reader, first, self._size, self.skip, dtype)
                encoder.add(batch)
                share.beat(self._task(*key))
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
        tensors, notes = encoder.shard()  # local: not in memory beside the next one
        shards.write_shard(self.folder, key, tensors, {"job": self.identity, **notes})

    def _requests(
        self, source: Source, part: int, share: Share, taken: list[str]
    ) -> Iterator[Request]:
        """The batches of the shards of one part that are missing and this process's."""
        size = self._size
        for number in self._numbers(part):
            start, task = number * size, self._task(part, number)
            if not source.has(start) and start != source.length:
                return
            several = self.reader.source.parts > 1  # the part is the task, and was taken
            if (part, number) not in self.present and (several or share.take(task)):
                taken += [] if several else [task]
                yield from self._batches(source, (part, number))
            else:
                source.has(start + size - 1)  # reads a stream past a shard that is not encoded
            if source.length is not None and start + size > source.length:
                return  # a stream that ends with a whole shard has an empty one after it

    def _batches(self, source: Source, key: shards.Key) -> Iterator[Request]:
        first, size = key[1] * self._size, self._size
        for start in range(first, first + size, self.batch_size):
            stop = min(start + self.batch_size, first + size)
            rows = list[Any]()
            if source.streaming:
                for index in range(start, stop):
                    if not source.has(index):
                        break
                    rows.append(source[index])
            # the length of a stream is known once its end was seen
            end = stop if source.length is None else min(stop, source.length)
            ends = end == source.length
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
        found = shards.find_shards(self.folder)
        with ThreadPoolExecutor(HASHING) as pool:
            entries = dict(zip(found, pool.map(_first_intact, found.values()), strict=True))
        missing += [self._task(*key) for key, entry in entries.items() if entry is None]
        if not missing:
            with well_formed(self.folder, CacheError):
                self._commit({key: entry for key, entry in entries.items() if entry is not None})
        return missing

    def _commit(self, found: dict[shards.Key, shards.Entry]) -> None:
        total, entries, skipped = 0, list[shards.Entry](), list[dict[str, Any]]()
        for entry in found.values():
            self._check(entry["job"])
            start = total
            total += entry["stop"] - entry["start"]
            for record in entry["skipped"]:
                skipped.append({**record, "index": start + record["index"] - entry["start"]})
            entries.append({**entry, "start": start, "stop": total})
        length = self.reader.source.length
        if self.reader.source.parts == 1 and length is not None and total != length:
            raise CacheError(
                f"The data set has {length} samples now, and the shards of {self.folder} end at "
                f"{total}: it changed in between. Delete this cache."
            )
        if skipped and not self.skip:
            raise BadSample(**skipped[0])
        if not any(entry["rows"] for entry in entries):
            raise InputError(
                f"None of the {total} samples can be used. "
                + (f"Sample {skipped[0]['index']}: {skipped[0]['reason']}" if skipped else "")
            )
        if skipped:
            message = "%d of %d samples were skipped; %s lists them."
            logger.warning(message, len(skipped), total, self.folder / MANIFEST)
        errors = [entry["errors"] for entry in found.values()]
        bound = {key: max(e.get(key, 0.0) for e in errors) for key in sorted(set().union(*errors))}
        content = {**self.identity, "length": total, "skipped": skipped, "errors": bound}
        write_manifest(self.folder, entries, content)


def _first_intact(paths: list[Path]) -> shards.Entry | None:
    """The entry of the first file whose bytes have the hash in its name; others are removed."""
    for path in paths:
        if entry := shards.read_entry(path):
            return entry
        logger.warning("%s is truncated or corrupted: it is encoded again.", path)
        path.unlink(missing_ok=True)
    return None


@contextlib.contextmanager
def _holding(share: Share, task: str) -> Iterator[None]:
    """A block in which a task is done that was taken; it is given back if the block fails."""
    try:
        yield
    except BaseException:
        share.release(task)
        raise
    share.finish(task)

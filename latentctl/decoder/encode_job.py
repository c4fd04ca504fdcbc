"""One encoding of a data set into a cache: its identity, its shards, and how it is resumed.

The identity is plain JSON in every shard and in the manifest: the decoder's fingerprint, the names
of the labels, the length of the data set if known, a hash of its first sample and, unless it is a
stream, of its last one, and the size of a shard. A cache of another identity is never overwritten.
"""

from __future__ import annotations

__all__ = ["EncodeJob", "identify"]

import hashlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CacheError, InputError, NonFiniteError
from ..latents import shards
from ..progress import progress_bar
from ..storage.files import MANIFEST, well_formed
from .dataset import BadSample, Sample, SampleReader

logger = logging.getLogger(__name__)


class _OtherJobError(CacheError):
    """An intact cache of another identity."""


def identify(reader: SampleReader, shard_size: int) -> dict[str, Any]:
    """The identity of an encoding."""
    length, hashes = reader.source.length, {}
    for index in {0, 0 if length is None else length - 1}:
        try:
            sample = reader(index)
        except BadSample:
            hashes[str(index)] = "bad"
            continue
        digest = hashlib.sha256(f"{sample.x.dtype}{tuple(sample.x.shape)}".encode())
        for values in (sample.x.contiguous(), sample.labels):
            digest.update(values.cpu().numpy().tobytes())
        hashes[str(index)] = digest.hexdigest()[:16]
    return {
        "format": shards.FORMAT,
        "fingerprint": reader.decoder.fingerprint(),
        "names": list(reader.names),
        "length": length,
        "samples": hashes,
        "shard_size": shard_size,
    }


def _differences(found: dict[str, Any], job: dict[str, Any]) -> str:
    if not found.keys() >= job.keys() or found["format"] != job["format"]:
        return "it was not made by encode_dataset of this version"
    parts = []
    if found["fingerprint"] != job["fingerprint"]:
        parts.append("it was made by another decoder")
    if found["names"] != job["names"]:
        parts.append(f"it has labels {found['names']} and this call asks for {job['names']}")
    lengths = found["length"], job["length"]
    if None not in lengths and lengths[0] != lengths[1]:
        parts.append(f"it has {lengths[0]} samples and this data set {lengths[1]}")
    if any(found["samples"].get(key, hashed) != hashed for key, hashed in job["samples"].items()):
        parts.append("its samples or labels differ (another data set or transform)")
    if found["shard_size"] != job["shard_size"]:
        parts.append(f"it was begun with shard_size={found['shard_size']}, not {job['shard_size']}")
    return "; ".join(parts)


@dataclass(frozen=True)
class EncodeJob:
    """The part of process `rank` of `world` in making one cache."""

    reader: SampleReader
    folder: Path
    identity: dict[str, Any]
    rank: int
    world: int
    batch_size: int
    skip: bool

    def finished(self) -> dict[str, Any] | None:
        """The manifest of a complete and intact cache, else None."""
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            manifest = shards.read_manifest(self.folder)
            # the shard size matters only for a cache that is to be completed
            self._check({**manifest, "shard_size": self.identity["shard_size"]})
            manifest = shards.verified_manifest(self.folder)
        except _OtherJobError:
            raise
        except CacheError as error:
            logger.warning("%s Completing it now.", error)
            return None
        with well_formed(self.folder / MANIFEST, CacheError):
            if manifest["skipped"] and not self.skip:
                raise BadSample(**manifest["skipped"][0])
        return manifest

    def done(self) -> set[int]:
        """The intact shards of this process, which are not encoded again."""
        done: set[int] = set()
        for number, paths in shards.find_shards(self.folder).items():
            for path in paths if self._mine(number) else ():
                if (notes := shards.read_entry(path)) is None:
                    logger.warning("%s is truncated or corrupted: it is encoded again.", path)
                    continue
                self._check(notes.get("job", {}))
                done.add(number)
        if done:
            logger.info("%s: resuming after %d finished shards.", self.folder, len(done))
        return done

    def _check(self, found: dict[str, Any]) -> None:
        with well_formed(self.folder, CacheError):
            other = _differences(found, self.identity)
        if other:
            raise _OtherJobError(
                f"The cache in {self.folder} is another: {other}. Choose another folder, or "
                f"delete this one."
            )

    def _mine(self, number: int) -> bool:
        return number % self.world == self.rank

    def run(self, done: set[int], progress: bool) -> None:
        """Encode the shards of this process that are not done."""
        source, size, number = self.reader.source, int(self.identity["shard_size"]), 0
        with progress_bar(source.length, "Encode", "sample", progress=progress) as bar:
            while source.has(start := number * size):
                if self._mine(number) and number not in done:
                    self._run_shard(number, range(start, start + size), bar)
                else:
                    source.has(start + size - 1)  # reads a stream past a shard that is not encoded
                    bar.update(min(size, (source.length or start + size) - start))
                number += 1

    def _run_shard(self, number: int, indices: range, bar: Any) -> None:
        rows, skipped = 0, list[dict[str, Any]]()
        shard: shards.Shard = {
            "mean": torch.empty(0, *self.reader.decoder.latent_shape),
            "index": torch.empty(0, dtype=torch.long),
        }
        samples = self._samples(indices, skipped, bar)
        while batch := list(itertools.islice(samples, self.batch_size)):
            encoded = self._encode(batch, skipped)
            if encoded is None:
                continue
            if not rows:
                shard = {k: v.new_empty(len(indices), *v.shape[1:]) for k, v in encoded.items()}
            for key, value in encoded.items():
                shard[key][rows : rows + len(value)] = value
            rows += len(encoded["index"])
        stop = min(indices.stop, self.reader.source.length or indices.stop)
        notes = {"job": self.identity, "start": indices.start, "stop": stop, "skipped": skipped}
        shards.write_shard(self.folder, number, {k: v[:rows] for k, v in shard.items()}, notes)

    def _samples(self, indices: range, skipped: list[Any], bar: Any) -> Iterator[Sample]:
        for index in indices:
            if not self.reader.source.has(index):
                return
            try:
                yield self.reader(index)
            except BadSample as error:
                self._bad(error, skipped)
            bar.update()

    def _encode(self, batch: list[Sample], skipped: list[dict[str, Any]]) -> shards.Shard | None:
        """The encodings of a batch without the samples that have none; None if no one has."""
        try:
            posterior = self.reader.decoder.encode(torch.stack([sample.x for sample in batch]))
        except NonFiniteError as error:
            if not error.rows:
                raise
            for row in error.rows:
                sample = batch[row]
                reason = "its encoding is not finite."
                self._bad(BadSample(sample.index, sample.file, reason), skipped)
            good = [sample for row, sample in enumerate(batch) if row not in error.rows]
            return self._encode(good, skipped) if good else None
        encoded = {
            "mean": posterior.mean.cpu(),
            "index": torch.tensor([sample.index for sample in batch]),
        }
        if posterior.std is not None:
            encoded["std"] = posterior.std.cpu()
        if self.reader.names:
            encoded["labels"] = torch.stack([sample.labels for sample in batch])
        return encoded

    def _bad(self, error: BadSample, skipped: list[dict[str, Any]]) -> None:
        if not self.skip:
            raise error
        logger.warning("Skipped: %s", error)
        skipped.append(error.record)

    def commit(self) -> None:
        """Write the manifest, after the hash and the range of every shard were verified."""
        size, total = int(self.identity["shard_size"]), int(self.reader.source.length or 0)
        found, entries = shards.find_shards(self.folder), list[shards.Entry]()
        for number, start in enumerate(range(0, total, size)):
            entry = next(filter(None, map(shards.read_entry, found.get(number, ()))), None)
            if entry is None:
                raise CacheError(
                    f"Shard {number} of {self.folder} is missing or corrupted. Run the same call "
                    f"again: it encodes this shard again."
                )
            if entry["stop"] != min(start + size, total):
                raise CacheError(
                    f"The data set has {total} samples now, and shard {number} of {self.folder} "
                    f"ends at {entry['stop']}: it changed in between. Delete this cache."
                )
            entries.append(entry)
        skipped = [record for entry in entries for record in entry["skipped"]]
        if skipped and not self.skip:
            raise BadSample(**skipped[0])
        if not any(entry["rows"] for entry in entries):
            raise InputError(
                f"None of the {total} samples can be used. Sample {skipped[0]['index']}: "
                f"{skipped[0]['reason']}"
            )
        if skipped:
            message = "%d of %d samples were skipped; %s lists them."
            logger.warning(message, len(skipped), total, self.folder / MANIFEST)
        content = {**self.identity, "length": total, "skipped": skipped}
        shards.write_manifest(self.folder, entries, content)

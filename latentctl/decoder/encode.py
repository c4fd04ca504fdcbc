r"""Encoding a data set once, into a cache that survives kills and bad samples.

Samples :math:`kn \ldots (k+1)n - 1` are shard :math:`k`, written as soon as it is full and owned
by process :math:`k \bmod P`. So the cache is the same whatever the number of processes, memory is
bounded by a shard and its serialised form, and a run that was killed goes on after the last
finished shard. What decides that a shard belongs to the job is in the shard itself: the decoder's
fingerprint, the labels, the length of the data set, and a hash of its first and last sample.
"""

from __future__ import annotations

__all__ = ["encode_dataset"]

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..errors import AdapterError, CacheError, InputError
from ..latents.latents import Latents, open_cache
from ..latents.shards import (
    FORMAT,
    Shard,
    ShardFile,
    find_shards,
    read_manifest,
    read_notes,
    verified_manifest,
    verify_shard,
    write_manifest,
    write_shard,
)
from ..storage.folder import MANIFEST
from .dataset import BadSample, Sample, SampleReader, Source
from .decoder import Decoder
from .encode_job import differences, sample_hashes

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def encode_dataset(
    decoder: Decoder,
    dataset: Any,
    path: str | Path,
    *,
    attributes: Sequence[str] | None = None,
    image_column: str = "image",
    batch_size: int = 64,
    shard_size: int = 4096,
    accelerator: Accelerator | None = None,
    on_bad_sample: Literal["raise", "skip"] = "raise",
    transform: Callable[[Any], Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Latents:
    """The posterior and the labels of every sample, in a cache at `path`.

    A finished cache of the same job is read, not made again; an unfinished or damaged one is
    completed, shard by shard. Labels are read as they are: one class only is no error here.

    Arguments:
        decoder: A decoder with an encoder, on the device that encodes.
        dataset: Map-style (`__len__` and `__getitem__`) or a stream (`__iter__`). Rows are
            mappings, pairs `(x, labels)` or `x`, as `latentctl.latents.samples` has it.
        path: Folder of the cache, the same for all processes.
        attributes: Names of the label columns; of pairs, a name for every label. None: no labels.
        image_column: Where a mapping has its sample.
        batch_size: Samples that are encoded together.
        shard_size: Samples per file. No more than two shards are in memory at a time.
        accelerator: Whose processes share the work. If not given, those of `accelerate launch`.
        on_bad_sample: "raise" with index, file and reason; or "skip", which counts the sample and
            records it in the manifest.
        transform: Applied to `x` (images as PIL) before it becomes a tensor `sample_shape`.
            torch's CPU generator is seeded for each sample, so that random crops come out alike.
        seed: Seed of `transform`.
        progress: Show a bar on the main process.

    Returns:
        The cache, memory-mapped. Rows are in the order of the data set.

    Raises:
        AdapterError: If the decoder has no encoder.
        CacheError: If `path` holds a cache of another decoder, data set or other labels, or the
            disk is full. Finished shards stay in both cases.
        InputError: If a sample is bad, or there is none.
        UnknownNameError: If a column does not exist; the message has the nearest names.

    Example:
        >>> import tempfile, latentctl
        >>> from torch import nn
        >>> model = nn.ModuleDict({"encoder": nn.Linear(3, 2), "decoder": nn.Linear(2, 3)})
        >>> decoder = Decoder(model, lambda m, z: m["decoder"](z),
        ...                   lambda m, x: latentctl.decoder.Posterior(m["encoder"](x)),
        ...                   latent_shape=(2,), sample_shape=(3,), value_range=None)
        >>> encode_dataset(decoder, torch.ones(5, 3), tempfile.mkdtemp(), progress=False)
        Latents(5 x (2,), no std, no labels)
    """
    if not decoder.can_encode:
        raise AdapterError(f"{decoder.name} has no encoder. Pass latentctl.wrap(..., encode=...).")
    if on_bad_sample not in ("raise", "skip"):
        raise InputError(f'on_bad_sample is "raise" or "skip", not {on_bad_sample!r}.')
    if batch_size < 1 or shard_size < 1:
        raise InputError(f"Sizes must be >= 1: batch {batch_size}, shard {shard_size}.")
    names = (attributes,) if isinstance(attributes, str) else tuple(attributes or ())
    if len(set(names)) != len(names):
        raise InputError(f"Attributes must be unique, these are {', '.join(names)}.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file. Choose a folder.")
    rank, world, wait = _processes(accelerator)
    source = Source(dataset, image_column)
    if not source.has(0):
        raise InputError("The data set is empty.")
    reader = SampleReader(decoder, source, names, image_column, transform, seed)
    job = {
        "format": FORMAT,
        "fingerprint": decoder.fingerprint(),
        "names": list(names),
        "length": source.length,
        "samples": sample_hashes(reader),
        "shard_size": shard_size,
    }
    encoding = _Encoding(reader, folder, job, rank, world, batch_size, on_bad_sample == "skip")
    manifest = encoding.finished()
    done = set() if manifest else encoding.done()
    wait()  # nobody writes before everybody has looked
    if manifest is None:
        encoding.run(done, progress and rank == 0)
        wait()
        if rank == 0:
            encoding.commit()
        wait()
        manifest = read_manifest(folder)
    return open_cache(folder, manifest)


def _processes(accelerator: Accelerator | None) -> tuple[int, int, Callable[[], Any]]:
    if accelerator is None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, lambda: None
    from accelerate import PartialState

    state = PartialState() if accelerator is None else accelerator
    return state.process_index, state.num_processes, state.wait_for_everyone


@dataclass(frozen=True)
class _Encoding:
    """One process's part in making one cache."""

    reader: SampleReader
    folder: Path
    job: dict[str, Any]
    rank: int
    world: int
    batch_size: int
    skip: bool

    def finished(self) -> dict[str, Any] | None:
        """The manifest if the cache is complete and whole, None if there is something to do."""
        if not (self.folder / MANIFEST).exists():
            return None
        try:
            manifest = read_manifest(self.folder)
            # a whole cache may have shards of any size, only to complete one they must agree
            self._check({**manifest, "shard_size": self.job["shard_size"]})
            manifest = verified_manifest(self.folder)
        except _OtherJobError:
            raise
        except CacheError as error:
            logger.warning("%s Completing it now.", error)
            return None
        if manifest["skipped"] and not self.skip:
            raise BadSample(**manifest["skipped"][0])
        return manifest

    def done(self) -> set[int]:
        """The intact shards of this process, which need not be encoded."""
        done: set[int] = set()
        for number, paths in find_shards(self.folder).items():
            for path in paths if self._mine(number) else ():
                notes = read_notes(path)
                if notes is None or verify_shard(path) is None:
                    logger.warning("%s is cut or altered: it is encoded again.", path)
                    continue
                self._check(notes.get("job", {}))
                done.add(number)
        if done:
            logger.info("%s: %d shards are finished, going on.", self.folder, len(done))
        return done

    def _check(self, found: dict[str, Any]) -> None:
        if other := differences(found, self.job):
            raise _OtherJobError(
                f"The cache in {self.folder} is another: {other}. Choose another folder, or "
                f"delete this one."
            )

    def _mine(self, number: int) -> bool:
        return number % self.world == self.rank

    def run(self, done: set[int], progress: bool) -> None:
        """Encode the shards of this process that are not done."""
        from tqdm.auto import tqdm

        source, size, number = self.reader.source, int(self.job["shard_size"]), 0
        with tqdm(total=source.length, desc="Encode", unit="sample", disable=not progress) as bar:
            while source.has(start := number * size):
                if self._mine(number) and number not in done:
                    self._run_shard(number, range(start, start + size), bar)
                else:
                    source.has(start + size - 1)  # reads a stream past a shard that is not wanted
                    bar.update(min(size, (source.length or start + size) - start))
                number += 1

    def _run_shard(self, number: int, indices: range, bar: Any) -> None:
        source, skipped = self.reader.source, list[dict[str, Any]]()
        shard: Shard = {
            "mean": torch.empty(0, *self.reader.decoder.latent_shape),
            "index": torch.empty(0, dtype=torch.long),
        }
        rows, index = 0, indices.start
        while index in indices and source.has(index):
            first, batch = index, list[Sample]()
            while len(batch) < self.batch_size and index in indices and source.has(index):
                try:
                    batch.append(self.reader(index))
                except BadSample as error:
                    self._bad(error, skipped)
                index += 1
            encoded = self._encode(batch, skipped) if batch else {}
            if encoded and not rows:
                shard = {k: v.new_empty(len(indices), *v.shape[1:]) for k, v in encoded.items()}
            for key, value in encoded.items():
                shard[key][rows : rows + len(value)] = value
            rows += len(encoded.get("index", ()))
            bar.update(index - first)
        notes = {"job": self.job, "start": indices.start, "stop": index, "skipped": skipped}
        write_shard(self.folder, number, {k: v[:rows] for k, v in shard.items()}, notes)

    def _encode(self, batch: list[Sample], skipped: list[dict[str, Any]]) -> Shard:
        posterior = self.reader.decoder.encode(torch.stack([sample.x for sample in batch]))
        encoded = {
            "mean": posterior.mean.cpu(),
            "index": torch.tensor([sample.index for sample in batch]),
        }
        good = torch.isfinite(encoded["mean"].flatten(1)).all(1)
        if posterior.std is not None:
            encoded["std"] = posterior.std.cpu()
            good &= torch.isfinite(encoded["std"].flatten(1)).all(1)
        if self.reader.names:
            encoded["labels"] = torch.stack([sample.labels for sample in batch])
        for sample, fine in zip(batch, good.tolist(), strict=True):
            if not fine:
                self._bad(
                    BadSample(sample.index, sample.file, "its encoding is not finite."), skipped
                )
        return {key: value[good] for key, value in encoded.items()}

    def _bad(self, error: BadSample, skipped: list[dict[str, Any]]) -> None:
        if not self.skip:
            raise error
        logger.warning("Skipped: %s", error)
        skipped.append(error.record)

    def commit(self) -> None:
        """Write the manifest, after every shard's hash and range were checked."""
        size, total = int(self.job["shard_size"]), int(self.reader.source.length or 0)
        files: list[ShardFile] = []
        skipped: list[dict[str, Any]] = []
        found = find_shards(self.folder)
        for number, start in enumerate(range(0, total, size)):
            for path in found.get(number, []):
                digest, notes = verify_shard(path), read_notes(path)
                if digest and notes:
                    break
            else:
                raise CacheError(f"Shard {number} of {self.folder} is missing or damaged.")
            if notes["stop"] != min(start + size, total):
                raise CacheError(
                    f"The data set has {total} samples now, and shard {number} of {self.folder} "
                    f"ends at {notes['stop']}: it changed in between. Delete this cache."
                )
            files.append(ShardFile(path.name, digest, start, notes["stop"], notes["rows"]))
            skipped += notes["skipped"]
        if skipped and not self.skip:
            raise BadSample(**skipped[0])
        if not any(file.rows for file in files):
            raise InputError(
                f"None of the {total} samples can be used. Sample {skipped[0]['index']}: "
                f"{skipped[0]['reason']}"
            )
        if skipped:
            logger.warning(
                "%d of %d samples were skipped; %s lists them.",
                len(skipped),
                total,
                self.folder / MANIFEST,
            )
        write_manifest(self.folder, files, {**self.job, "length": total, "skipped": skipped})


class _OtherJobError(CacheError):
    """A cache that is whole, but not the one that is asked for: it must not be overwritten."""

"""The encoding of one shard: a batch at a time, without the samples that cannot be used."""

from __future__ import annotations

__all__ = ["ShardEncoder"]

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError, NonFiniteError
from ..latents import shards
from .dataset import BadSample, Sample, SampleReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes the samples of a reader.

    Arguments:
        reader: The samples of one part of a data set.
        batch_size: Samples that are encoded together.
        skip: Leave samples out that cannot be used, instead of raising.
        report: Called with the number of samples that were read since the last call.
        dtype: Type in which means and stds are stored.
    """

    reader: SampleReader
    batch_size: int
    skip: bool
    report: Callable[[int], Any]
    dtype: torch.dtype = torch.float32

    def __call__(self, indices: range) -> tuple[shards.Shard, dict[str, Any]]:
        """The tensors of the samples `indices`, and notes: their range and those left out."""
        rows, skipped, errors = 0, list[dict[str, Any]](), dict[str, float]()
        shard: shards.Shard = {
            "mean": torch.empty(0, *self.reader.decoder.latent_shape, dtype=self.dtype),
            "index": torch.empty(0, dtype=torch.long),
        }
        samples = self._samples(indices, skipped)
        while batch := list(itertools.islice(samples, self.batch_size)):
            self.report(len(batch))
            encoded = self._encode(batch, skipped)
            if encoded is None:
                continue
            self._round(encoded, errors)
            if not rows:
                shard = {k: v.new_empty(len(indices), *v.shape[1:]) for k, v in encoded.items()}
            for key, value in encoded.items():
                shard[key][rows : rows + len(value)] = value
            rows += len(encoded["index"])
        length = self.reader.source.length  # of a stream it is known once its end was seen
        stop = indices.stop if length is None else min(indices.stop, length)
        notes = {"start": indices.start, "stop": stop, "last": stop == length, "skipped": skipped}
        notes["errors"] = errors
        shard = {key: value[:rows] for key, value in shard.items()}
        return {**shard, "index": shard["index"] - indices.start}, notes

    def _samples(self, indices: range, skipped: list[dict[str, Any]]) -> Iterator[Sample]:
        for index in indices:
            if not self.reader.source.has(index):
                return
            try:
                yield self.reader(index)
            except BadSample as error:
                self._bad(error, skipped)
                self.report(1)

    def _encode(self, batch: list[Sample], skipped: list[dict[str, Any]]) -> shards.Shard | None:
        """The encodings of a batch without the samples that have none; None if no one has."""
        try:
            posterior = self.reader.decoder.encode(torch.stack([sample.x for sample in batch]))
        except NonFiniteError as error:
            if not error.rows:
                raise
            for row in error.rows:
                sample, part = batch[row], self.reader.part
                reason = "its encoding is not finite."
                self._bad(BadSample(sample.index, sample.file, reason, part), skipped)
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

    def _round(self, encoded: shards.Shard, errors: dict[str, float]) -> None:
        """Means and stds in the type in which they are stored, and the largest error of each."""
        for key in ("mean", "std"):
            if self.dtype == torch.float32 or key not in encoded:
                continue
            value = encoded[key]
            encoded[key] = value.to(self.dtype)
            error = float((encoded[key].float() - value).abs().max())
            if error == float("inf"):
                raise InputError(
                    f"The {key} of a sample is {float(value.abs().max()):.3g}, beyond the range of "
                    f'float16. Take dtype="bfloat16" or "float32".'
                )
            errors[key] = max(error, errors.get(key, 0.0))

    def _bad(self, error: BadSample, skipped: list[dict[str, Any]]) -> None:
        if not self.skip:
            raise error
        logger.warning("Skipped: %s", error)
        skipped.append(error.record)

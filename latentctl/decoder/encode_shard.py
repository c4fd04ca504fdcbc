"""The encoding of shards from batches, without the samples that cannot be used."""

from __future__ import annotations

__all__ = ["ShardEncoder"]

import logging
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError, NonFiniteError
from ..latents import shards
from .dataset import BadSample, SampleReader
from .reading import Batch

logger = logging.getLogger(__name__)


@dataclass
class ShardEncoder:
    """One shard, as far as its batches were added.

    Arguments:
        reader: Where the samples are from.
        start: The first sample.
        size: The largest number of samples.
        skip: Leave samples out that cannot be used, instead of raising.
        dtype: Type in which means and stds are stored.
    """

    reader: SampleReader
    start: int
    size: int
    skip: bool
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.rows, self.stop, self.ends = 0, self.start, False
        self.skipped, self.errors = list[dict[str, Any]](), dict[str, float]()
        self.tensors: shards.Shard = {
            "mean": torch.empty(0, *self.reader.decoder.latent_shape, dtype=self.dtype),
            "index": torch.empty(0, dtype=torch.long),
        }

    def add(self, batch: Batch) -> None:
        """Encode a batch."""
        for record in batch.bad:
            self._bad(record)
        self.stop, self.ends = batch.request.indices.stop, batch.request.ends
        encoded = self._encode(batch)
        if encoded is None:
            return
        self._round(encoded)
        if not self.rows:
            self.tensors = {k: v.new_empty(self.size, *v.shape[1:]) for k, v in encoded.items()}
        for key, value in encoded.items():
            self.tensors[key][self.rows : self.rows + len(value)] = value
        self.rows += len(encoded["index"])

    def shard(self) -> tuple[shards.Shard, dict[str, Any]]:
        """The tensors, and notes: the range of samples, those left out, and the errors."""
        found = {key: value[: self.rows] for key, value in self.tensors.items()}
        notes: dict[str, Any] = {"start": self.start, "stop": self.stop, "last": self.ends}
        notes |= {"skipped": self.skipped, "errors": self.errors}
        return {**found, "index": found["index"] - self.start}, notes

    def _encode(self, batch: Batch) -> shards.Shard | None:
        """The encodings of a batch without the samples that have none; None if no one has."""
        if not len(batch.index):
            return None
        try:
            posterior = self.reader.decoder.encode(batch.x)
        except NonFiniteError as error:
            if not error.rows:
                raise
            for row in error.rows:
                index, reason = int(batch.index[row]), "its encoding is not finite."
                self._bad({"index": index, "file": batch.files[row], "reason": reason})
            return self._encode(batch.without(error.rows))
        encoded = {"mean": posterior.mean.cpu(), "index": batch.index, "content": batch.content}
        if posterior.std is not None:
            encoded["std"] = posterior.std.cpu()
        if self.reader.names:
            encoded["labels"] = batch.labels
        return encoded

    def _round(self, encoded: shards.Shard) -> None:
        """Means and stds in the type in which they are stored; records the largest errors."""
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
            self.errors[key] = max(error, self.errors.get(key, 0.0))

    def _bad(self, record: dict[str, Any]) -> None:
        error = BadSample(**record, part=self.reader.part)
        if not self.skip:
            raise error
        logger.warning("Skipped: %s", error)
        self.skipped.append(record)

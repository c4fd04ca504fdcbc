"""Reading a data set in batches, by loader workers while the device encodes.

The requests for batches are made in the main process, which also reads the rows of a stream; a
worker reads the rows of a map-style data set, decodes pictures and applies the transform. Batches
come in the order of the requests.
"""

from __future__ import annotations

__all__ = ["Batch", "Request", "read"]

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError, UnknownNameError
from ..latents.shards import Key
from .dataset import BadSample, Sample, SampleReader

AHEAD = 4  # batches of each worker that are read ahead


@dataclass(frozen=True)
class Request:
    """Samples `indices` of shard `key`, and their rows if they are those of a stream."""

    key: Key
    indices: range
    rows: list[Any] | None
    last: bool  # of the shard
    ends: bool = False  # is it the end of the data set, or of a part?


@dataclass(frozen=True)
class Batch:
    """The samples of a request that can be used, and records of the others."""

    request: Request
    index: Tensor
    files: list[str | None]
    x: Tensor
    labels: Tensor
    content: Tensor
    bad: list[dict[str, Any]]

    def without(self, rows: Sequence[int]) -> Batch:
        """The batch without some of its rows."""
        kept = torch.tensor([row for row in range(len(self.index)) if row not in rows]).long()
        files = [self.files[row] for row in kept.tolist()]
        parts = {name: getattr(self, name)[kept] for name in ("index", "x", "labels", "content")}
        return replace(self, files=files, **parts)


class _Batches(Dataset[Batch]):
    """The batch of each request."""

    def __init__(self, reader: SampleReader) -> None:
        self.reader = reader

    def __getitem__(self, request: Any) -> Batch:
        samples, bad = list[Sample](), list[dict[str, Any]]()
        for place, index in enumerate(request.indices):
            try:
                samples.append(
                    self.reader(index)
                    if request.rows is None
                    else self.reader.read(index, request.rows[place])
                )
            except BadSample as error:
                bad.append(error.record)
        shape = (0, *self.reader.decoder.sample_shape)
        return Batch(
            replace(request, rows=None),
            torch.tensor([sample.index for sample in samples]).long(),
            [sample.file for sample in samples],
            torch.stack([sample.x for sample in samples]) if samples else torch.empty(shape),
            torch.stack([s.labels for s in samples]) if samples else torch.empty(0),
            torch.stack([s.content for s in samples]) if samples else torch.empty(0),
            bad,
        )


class _Returning(Dataset[Any]):
    """The batches, and errors as what they say: one cannot be sent from a worker as it is."""

    def __init__(self, batches: _Batches) -> None:
        self.batches = batches

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.batches[request]
        except UnknownNameError as error:
            return str(error)


def read(requests: Iterable[Request], reader: SampleReader, workers: int) -> Iterator[Batch]:
    """The batches of requests, in order.

    Raises:
        UnknownNameError: If a row has not the columns that were asked for; an `InputError` if it
            was read by a worker.
    """
    batches = _Batches(reader)
    if not workers:
        yield from map(batches.__getitem__, requests)
        return
    fork = "fork" in multiprocessing.get_all_start_methods()
    loader = DataLoader(
        _Returning(batches),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD,
        worker_init_fn=_leave_signals,
        multiprocessing_context="fork" if fork else None,
    )
    for batch in loader:
        if isinstance(batch, str):
            raise InputError(batch)
        yield batch


def _leave_signals(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's

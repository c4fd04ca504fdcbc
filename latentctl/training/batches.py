"""Which samples a step sees, and how they come to it.

The order is a function of the seed and the epoch, and the place of a batch in it a function of the
step: a resumed run goes on with the very next sample, on any number of processes.
"""

from __future__ import annotations

__all__ = ["SampleOrder", "micro_batches", "seed_global"]

import functools
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..random import generator, permutation


class SampleOrder:
    """The order in which all processes together visit the data.

    Epoch after epoch is shuffled anew and laid end to end; step `k` takes the places
    `k * batch_size ... (k + 1) * batch_size - 1`. No sample is dropped at the end of an epoch, and
    a data set smaller than a batch comes round several times within it.

    Arguments:
        samples: Size of the data set.
        batch_size: Samples a step, over all processes.
        seed: The user's seed.

    Example:
        >>> order = SampleOrder(3, 2, seed=0)
        >>> sorted(torch.cat([order(step) for step in range(3)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, samples: int, batch_size: int, *, seed: int) -> None:
        self.samples, self.batch_size = samples, batch_size
        # the last epochs only: a batch reaches from one into the next
        self._epoch = functools.lru_cache(2)(lambda e: permutation(samples, seed=seed, epoch=e))

    def __call__(self, step: int) -> Tensor:
        """The samples of step `step`, `(batch_size,)` integers."""
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(first // self.samples, (end - 1) // self.samples + 1)
        places = torch.cat([self._epoch(epoch) for epoch in epochs])
        first -= epochs.start * self.samples
        return places[first : first + self.batch_size]


def micro_batches(
    data: Any, order: SampleOrder, *, seed: int, steps: range, starts: range, num_workers: int = 0
) -> Iterator[Any]:
    """The micro-batches of this process, one after the other.

    What `data` draws from torch's global generator is seeded by the place of the micro-batch, so
    that augmentation neither depends on the number of workers nor on where a run was resumed.

    Arguments:
        data: Has `__getitem__(indices)`.
        order: The order of all samples.
        seed: The user's seed.
        steps: The steps to serve.
        starts: First rows of this process's micro-batches in the global batch; `starts.step` rows
            each.
        num_workers: Processes that read `data`.
    """
    size = starts.step
    places = ((k, start, order(k)[start : start + size]) for k in steps for start in starts)
    loader = DataLoader(
        _Rows(data, seed),
        sampler=places,
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_parent,
        generator=generator(seed, purpose="workers"),
    )
    return iter(loader)


def seed_global(source: torch.Generator, device: torch.device | None = None) -> None:
    """Seed torch's global generators of the CPU and of `device` as `source` was seeded."""
    # not torch.manual_seed, which would seed the other devices of the machine as well
    torch.default_generator.manual_seed(source.initial_seed())
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(source.initial_seed())


class _Rows(Dataset[Any]):
    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.seed = data, seed

    def __getitem__(self, place: tuple[int, int, Tensor]) -> Any:
        step, start, indices = place
        seed_global(generator(self.seed, step, start, "data"))
        return self.data[indices]


def _leave_signals_to_parent(worker: int) -> None:
    # Ctrl-C reaches the whole process group, and the last step still needs its batch
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

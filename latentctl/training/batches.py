"""The samples of each step, as a function of the seed and the step.

A resumed run continues with the next sample, on any number of processes.
"""

from __future__ import annotations

__all__ = ["SampleOrder", "micro_batches", "rows_of_process", "seed_global"]

import functools
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from ..random import generator, permutation

if TYPE_CHECKING:
    from accelerate import Accelerator


class SampleOrder:
    """The samples of each step, over all processes.

    Every epoch is shuffled anew, and epochs follow each other without a gap: step `k` takes the
    positions `k * batch_size ... (k + 1) * batch_size - 1`. No sample is dropped at the end of an
    epoch, and a data set smaller than a batch is repeated within it.

    Example:
        >>> order = SampleOrder(3, 2, seed=0)
        >>> sorted(torch.cat([order(step) for step in range(3)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, samples: int, batch_size: int, *, seed: int) -> None:
        self.samples, self.batch_size = samples, batch_size
        # of the last epochs only: a batch may extend from one into the next
        self._epoch = functools.lru_cache(2)(lambda e: permutation(samples, seed=seed, epoch=e))

    def __call__(self, step: int) -> Tensor:
        """The samples of step `step`, `(batch_size,)` integers."""
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        epochs = range(first // self.samples, (end - 1) // self.samples + 1)
        places = torch.cat([self._epoch(epoch) for epoch in epochs])
        first -= epochs.start * self.samples
        return places[first : first + self.batch_size]


def rows_of_process(batch_size: int, accumulation: int, accelerator: Accelerator) -> list[range]:
    """The rows of the global batch in each micro-batch of this process.

    They are divided as equally as possible into pairs of rows, 0 and 1, 2 and 3, ..., so that a
    loss may compare the two of a pair; into single rows where there are too few pairs.

    Raises:
        InputError: If there are fewer rows than micro-batches.
    """
    parts = accumulation * accelerator.num_processes
    if batch_size < parts:
        raise InputError(
            f"batch_size {batch_size} is the batch of a whole step, and "
            f"{accelerator.num_processes} processes x {accumulation} micro-batches need a row "
            f"each: take at least {parts}."
        )
    unit = 2 if batch_size >= 2 * parts else 1
    ends = [batch_size // unit * part // parts * unit for part in range(parts)] + [batch_size]
    first = accumulation * accelerator.process_index
    return [range(ends[part], ends[part + 1]) for part in range(first, first + accumulation)]


def micro_batches(
    data: Any,
    order: SampleOrder,
    *,
    seed: int,
    steps: range,
    parts: Sequence[range],
    num_workers: int = 0,
) -> Iterator[Any]:
    """The micro-batches of this process, with `parts` as `rows_of_process` gives them.

    What `data` draws from torch's global generator is seeded by step and first row, so that
    augmentation depends neither on the number of workers nor on where a run was resumed.
    """
    places = ((k, rows.start, order(k)[rows.start : rows.stop]) for k in steps for rows in parts)
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
    # Ctrl-C is sent to the whole process group, and the last step still needs its batch
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

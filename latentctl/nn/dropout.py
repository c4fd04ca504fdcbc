"""Dropout whose masks are functions of the sample, on any number of processes and threads."""

from __future__ import annotations

__all__ = ["Dropout", "rows_of_batch"]

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..random import noise


@dataclass
class _Rows:
    seed: int
    step: int
    start: int
    count: int
    calls: int = 0


_ROWS: ContextVar[_Rows | None] = ContextVar("rows", default=None)


@contextmanager
def rows_of_batch(*, seed: int, step: int, start: int, count: int) -> Iterator[None]:
    """In a block, `Dropout` of this thread works on rows `start ... start + count - 1` of a batch.

    `latentctl.training.fit` evaluates every loss in such a block.

    Arguments:
        seed: The seed of the run.
        step: Number of the step.
        start: First row within the batch of all processes.
        count: Number of rows.
    """
    token = _ROWS.set(_Rows(seed, step, start, count))
    try:
        yield
    finally:
        _ROWS.reset(token)


class Dropout(nn.Dropout):
    r"""Dropout, :math:`x \mapsto m \odot x / (1 - p)` in training mode, with masks by sample.

    In a block of `rows_of_batch` the mask of a row is a function of `(seed, step, row)` and of how
    many dropouts the block has evaluated before. It does not depend on torch's global generator.
    An input of `n` times as many rows as the block has is taken as `n` blocks of rows, one after
    the other, as by `torch.cat`. Outside of such a block it is `nn.Dropout`.

    Arguments:
        p: Share of entries set to zero, in [0, 1).

    Example:
        >>> layer, x = Dropout(0.5), torch.ones(4, 8)
        >>> with rows_of_batch(seed=0, step=7, start=0, count=4):
        ...     whole = layer(x)
        >>> with rows_of_batch(seed=0, step=7, start=2, count=2):
        ...     half = layer(x[2:])
        >>> torch.equal(whole[2:], half)
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = _ROWS.get()
        if rows is None or not self.training or not self.p:
            return super().forward(input)
        keep = _uniform(rows, input) >= self.p
        return input * keep.to(input.device) / (1 - self.p)


def _uniform(rows: _Rows, x: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) in the shape of `x`, on the CPU."""
    blocks, rest = divmod(len(x), rows.count)
    blocks, count = (1, len(x)) if rest else (blocks, rows.count)
    drawn = []
    for _ in range(blocks):
        purpose = f"dropout {rows.calls}"
        place = {"seed": rows.seed, "step": rows.step}
        drawn.append(noise(rows.start, count, x.shape[1:], uniform=True, purpose=purpose, **place))
        rows.calls += 1
    return torch.cat(drawn) if blocks > 1 else drawn[0]

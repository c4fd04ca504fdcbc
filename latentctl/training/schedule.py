"""Turn, learning rate and random numbers as functions of the step.

So are the samples (`training.batches`): a run that resumes at step `k` does what an uninterrupted
run does at step `k`, on any number of processes.

References:
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2023), whose
    | code seeds every step anew https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

__all__ = ["LR_SCHEDULERS", "Step", "lr_factor", "whose_turn"]

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..random import noise

LR_SCHEDULERS = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Step:
    """The step of a loss, from which it draws its random numbers.

    Row `i` of a draw depends on `(seed, index, purpose, start + i)` alone, so that a step has the
    same numbers on any number of processes and micro-batches. Two draws of one `purpose` are equal:
    give each its own.

    Arguments:
        seed: The seed of the run.
        index: Number of the step, from 0, over all players.
        start: First row of this micro-batch within the global batch.
        count: Rows of this micro-batch.
        total: Rows of the global batch.
        device: Device of the draws.

    Example:
        >>> whole = Step(seed=0, index=7, start=0, count=8, total=8)
        >>> half = Step(seed=0, index=7, start=4, count=4, total=8)
        >>> torch.equal(whole.normal(3)[4:], half.normal(3))
        True
    """

    seed: int
    index: int
    start: int
    count: int
    total: int
    device: torch.device | str = "cpu"

    def normal(self, *shape: int, purpose: str = "noise") -> Tensor:
        """N(0, 1), `(count, *shape)`."""
        return self._rows(shape, purpose, uniform=False)

    def uniform(self, *shape: int, purpose: str = "uniform") -> Tensor:
        """U(0, 1), `(count, *shape)`."""
        return self._rows(shape, purpose, uniform=True)

    def integers(self, high: int, purpose: str = "integers") -> Tensor:
        """Uniform integers in `0 ... high - 1`, `(count,)`."""
        # a float32 has 24 random bits, too few for a large `high`: two have 48
        coarse, fine = self.uniform(2, purpose=purpose).cpu().double().unbind(1)
        return ((coarse + fine * 2**-24) * high).long().to(self.device)

    def _rows(self, shape: tuple[int, ...], purpose: str, *, uniform: bool) -> Tensor:
        place: dict[str, Any] = {"seed": self.seed, "step": self.index, "purpose": purpose}
        return noise(self.start, self.count, shape, uniform=uniform, **place).to(self.device)


def whose_turn(turns: Sequence[int], step: int) -> tuple[int, int]:
    """The number of the player whose turn `step` is, and how many steps it has made before.

    Example:
        >>> [whose_turn([2, 1], step) for step in range(6)]
        [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1)]
    """
    ends = list(itertools.accumulate(turns))
    rounds, place = divmod(step, ends[-1])
    player = bisect.bisect_right(ends, place)
    return player, (rounds + 1) * turns[player] + place - ends[player]


def lr_factor(kind: str, step: int, total: int, *, warmup: int = 0, elapsed: float = 0.0) -> float:
    """The factor of the learning rate at `step`.

    It rises linearly over the first `warmup` steps, and then stays (`constant`) or falls to zero at
    the end of the run (`linear`, `cosine`).

    Arguments:
        kind: One of `LR_SCHEDULERS`.
        step: Finished steps of all players.
        total: Steps of the whole run.
        warmup: Steps of the rise.
        elapsed: Share of the time budget that is used, in [0, 1]; it counts if it exceeds
            `step / total`.

    Example:
        >>> [lr_factor("linear", step, 6, warmup=2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    warm = min(warmup / total, 1.0)
    by_step = (step - warmup) / (total - warmup) if warm < 1 else 0.0
    by_time = (elapsed - warm) / (1 - warm) if warm < 1 else 0.0
    done = min(max(by_step, by_time, 0.0), 1.0)
    if kind == "linear":
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if kind == "cosine" else 1.0

"""One rule: a trial of whether it takes a batch or one sample, and its rewards of samples.

A call of a user's function may raise, or return something else than numbers in [0, 1]. Neither
ends the work: the sample has no reward, and a `Fault` with the reason.
"""

from __future__ import annotations

__all__ = ["Fault", "Reward", "Rule"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..errors import InputError

ROUNDING = 1e-6  # tolerance of [0, 1]
TOLERANCE = 1e-4  # of rewards of one sample in batches of different sizes
COMPARED = 16  # samples of the trial that are scored in other ways, too
TRIALS = 4  # pairs that are tried where a whole batch raises
FEW = 64  # samples after which more failures than rewards end the work

Reward: TypeAlias = Callable[[Any], Any]
"""From samples `(B, *sample_shape)` to rewards `(B,)`, or from one sample to its reward."""


@dataclass(frozen=True)
class Fault:
    """Why a sample has no reward."""

    kind: str
    """The type of the exception, or of the value."""
    message: str
    """What happened, in words."""


class Rule:
    """A named reward, with the number of samples that it scored and failed on.

    Arguments:
        name: Its name.
        reward: The function. Each call gets a copy of the samples, which it may write to.
        batched: Whether it takes a batch; None decides it by a trial.
    """

    def __init__(self, name: str, reward: Reward, batched: bool | None = None) -> None:
        self.name, self.reward, self.batched = name, reward, batched
        self.scored = 0
        """Samples so far, with a reward or without."""
        self.failed = 0
        """Those without a reward."""

    def __call__(self, x: Tensor) -> tuple[Tensor, dict[int, Fault]]:
        """Rewards `(B,)` of samples, NaN where there is a fault, and the faults by row.

        Raises:
            InputError: If the rule fails on every sample so far, or on most of many; or if it does
                not give a sample the same reward in a batch and alone.
        """
        found: list[float] | Fault | None = None
        if self.batched is None:
            self.batched, found = self._trial(x)
        elif self.batched:
            found = self._call(x, (len(x),))
        if not isinstance(found, list):
            # a batch that fails is scored sample by sample
            rows = x.split(1) if self.batched else x.unbind()
            each = [self._call(row, (), (1,)) for row in rows]
        else:
            each = [[value] for value in found]
        faults = {i: fault for i, one in enumerate(each) if (fault := _fault(one)) is not None}
        values = [torch.nan if isinstance(one, Fault) else one[0] for one in each]
        scores = torch.tensor(values).clamp(0, 1)
        scores[list(faults)] = torch.nan
        self._count(len(x), list(faults.values()))
        return scores, faults

    def _count(self, scored: int, faults: Sequence[Fault]) -> None:
        self.scored += scored
        self.failed += len(faults)
        if self.failed == self.scored or (self.scored >= FEW and self.failed > self.scored / 2):
            raise InputError(
                f"The rule {self.name!r} gave no reward for {self.failed} of {self.scored} "
                f"samples: {faults[0].message}. A rule returns a number in [0, 1] for a sample, or "
                f"one for each of a batch."
            )

    def _call(self, x: Tensor, *shapes: tuple[int, ...]) -> list[float] | Fault:
        """What a call returns, if it has one of the shapes."""
        try:
            output = self.reward(x.clone())
        except Exception as error:  # whatever a user's function raises
            kind = type(error).__name__
            return Fault(kind, f"it raised {kind}: {error}")
        try:
            values = torch.as_tensor(output).detach().cpu()
        except Exception:  # whatever a user's object raises on its conversion to numbers
            values = torch.zeros((), dtype=torch.complex64)
        if values.is_complex():
            kind = type(output).__name__
            return Fault(kind, f"it returned a {kind}, not numbers")
        if (shape := tuple(values.shape)) not in shapes:
            return Fault("shape", f"it returned numbers of shape {shape}, not {shapes[0]}")
        numbers: list[float] = values.double().flatten().tolist()
        return numbers

    def _trial(self, x: Tensor) -> tuple[bool | None, list[float] | Fault | None]:
        """Whether the rule takes a batch, None where x does not tell; its rewards of x if known.

        A rule of one sample may also return numbers for a batch, wrong ones. So a batch is
        compared with its samples in batches of one, and with its samples alone.
        """
        whole = self._call(x, (len(x),))
        alone = whole
        for part in (x, *x.split(2)[:TRIALS]):
            together = whole if part is x else self._call(part, (len(part),))
            if isinstance(together, Fault):
                alone = self._call(part[0], ()) if isinstance(alone, Fault) else alone
                continue
            rows = _telling(together)
            values = [[together[row]] for row in rows]
            inside = [self._call(part[row : row + 1], (1,), ()) for row in rows]
            single = [self._call(part[row], ()) for row in rows]
            same, same_alone = _agree(values, inside), _agree(values, single)
            takes_one = not all(isinstance(one, Fault) for one in single)
            if same and same_alone is False:
                raise InputError(self._contradiction(values, single, "alone"))
            if same is False and not takes_one:
                raise InputError(self._contradiction(values, inside, "in a batch of one"))
            if same or takes_one:
                undecided = len(part) == 1 and takes_one
                return (None if undecided else bool(same)), whole if same else None
        takes_one = isinstance(whole, Fault) and not isinstance(alone, Fault)
        return (False if takes_one else None), None if takes_one else whole

    def _contradiction(self, values: _Found, others: _Found, how: str) -> str:
        first, second = next(
            (a[0], b[0])
            for a, b in zip(values, others, strict=True)
            if not isinstance(a, Fault) and not isinstance(b, Fault) and _agree([a], [b]) is False
        )
        return (
            f"The rule {self.name!r} gives a sample {first:g} in a batch, and {second:g} {how}. "
            f"Pass CountedRewards(..., vectorised=False) if it takes one sample, or "
            f"vectorised=True if it takes a batch."
        )


_Found: TypeAlias = Sequence["list[float] | Fault"]


def _fault(found: list[float] | Fault) -> Fault | None:
    """Why one sample has no reward, or None if it has one."""
    if isinstance(found, Fault):
        return found
    (value,) = found
    if -ROUNDING <= value <= 1 + ROUNDING:
        return None
    if value != value:
        return Fault("nan", "it returned nan")
    return Fault("range", f"it returned {value:g}, which is not in [0, 1]: scale it")


def _telling(values: Sequence[float]) -> list[int]:
    """Rows to compare: those of the smallest and the largest reward, and others evenly spread."""
    known = [i for i, value in enumerate(values) if _fault([value]) is None]
    extremes = [choose(known, key=lambda i: values[i]) for choose in (min, max)] if known else []
    spread = torch.linspace(0, len(values) - 1, min(len(values), COMPARED)).long().tolist()
    return list(dict.fromkeys([*extremes, *spread]))


def _agree(values: _Found, others: _Found) -> bool | None:
    """Whether two rewards of each sample agree; None if there is nothing to compare."""
    pairs = [
        (a[0], b[0])
        for a, b in zip(values, others, strict=True)
        if not isinstance(a, Fault) and not isinstance(b, Fault)
        if _fault(a) is None and _fault(b) is None
    ]
    return all(abs(a - b) < TOLERANCE for a, b in pairs) if pairs else None

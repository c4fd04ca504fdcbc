"""Doses: the share of a move at which the evaluator sees the probability that is asked for.

`Smiling=0.7` means that the evaluator says 0.7. A critic's 0.7 is another matter, and how far a
move has to go differs from sample to sample. So such a request moves a sample as for
`Smiling=True`, or `False` if it smiles more already, and the share of that move is found by false
position on the evaluator's log-odds (the Illinois method), in four or five evaluations on average.
Requests of several attributes, or with `where`, are left to the controller, since one share cannot
meet several probabilities.
"""

from __future__ import annotations

__all__ = ["dosable", "dosed", "fractions", "tolerance", "too_far", "whole_targets"]

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ..critics import Critic, PixelCritic

TOLERANCE = 0.05  # of a probability that is asked for, at most
CLOSE = 0.2  # share of the tolerance at which the search ends
ROUNDS = 12

_OfRows: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def fractions(target: Tensor) -> Tensor:
    """Targets between 0 and 1, `(B, K)` booleans."""
    return (target > 0) & (target < 1)


def too_far(probability: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Whether a probability that is asked for is missed by more than the tolerance, `(B,)`."""
    error = (probability - target).abs()
    return (fractions(target) & (error > tolerance(threshold) + 1e-6)).any(1)


def dosable(target: Tensor, where: Critic | None) -> Tensor:
    """Rows that ask for one probability and nothing else, `(B,)` booleans."""
    one = (~torch.isnan(target)).sum(1) == 1
    return one & fractions(target).any(1) & (where is None)


def whole_targets(target: Tensor, rows: Tensor, before: Tensor) -> Tensor:
    """Targets `(B, K)` in which those of `rows` are 1, or 0 where there is more already."""
    whole = torch.where(torch.isnan(target), target, (target > before).to(target))
    return torch.where(rows[:, None], whole, target)


def dosed(
    z: Tensor,
    moved: Tensor,
    target: Tensor,
    before: Tensor,
    evaluator: PixelCritic,
    strength: float,
    threshold: float,
) -> Tensor:
    """Latents on the way from `z` to `moved` at which the evaluator sees the target.

    Arguments:
        z: Latents before the move, `(B, *latent_shape)`.
        moved: After a move of this strength towards the whole target.
        target: One probability in each row, `(B, K)`.
        before: What the evaluator sees before the move, `(B, K)`.
        evaluator: The evaluator.
        strength: Share of the dose that is kept.
        threshold: Of the request, on which the tolerance depends.
    """
    end = torch.lerp(z, moved, 1 / strength)
    wanted, place = target.nan_to_num(-1).max(1)
    goal, column = wanted.logit(), place[:, None]
    close = CLOSE * tolerance(threshold)

    def beyond(share: Tensor, rows: Tensor) -> Tensor:
        """Log-odds beyond the wanted ones."""
        point = torch.lerp(z[rows], end[rows], _like(share, z))
        return evaluator.score(point).gather(1, column[rows])[:, 0] - goal[rows]

    def is_far(beyond: Tensor, rows: Tensor) -> Tensor:
        return ((beyond + goal[rows]).sigmoid() - wanted[rows]).abs() > close

    below = before.gather(1, column)[:, 0].logit(eps=1e-6) - goal
    share = _crossing(beyond, is_far, below)
    return torch.lerp(z, end, _like(strength * share, z))


def _crossing(beyond: _OfRows, is_far: _OfRows, below: Tensor) -> Tensor:
    """The shares `(B,)` at which `beyond` changes its sign, and otherwise the better of 0 and 1.

    Arguments:
        beyond: Values `(R,)` at shares `(R,)` of some rows.
        is_far: Whether values of some rows are not near enough to 0.
        below: The values at 0.
    """
    rows = torch.arange(len(below), device=below.device)
    low, high = torch.zeros_like(below), torch.ones_like(below)
    above, moved = beyond(high, rows), torch.zeros_like(rows)  # 1: the low end, -1: the high one
    share = (above.abs() <= below.abs()).to(below)
    crossed = below.sign() != above.sign()
    share[crossed] = 1.0
    rows = rows[crossed & is_far(above, rows)]
    for _ in range(ROUNDS):
        if not len(rows):
            break
        near, far, under, over, last = (v[rows] for v in (low, high, below, above, moved))
        here = near + (far - near) * under / (under - over)
        found = beyond(here, rows)
        left = found.sign() == under.sign()
        share[rows] = here
        low[rows], high[rows] = torch.where(left, here, near), torch.where(left, far, here)
        # the value of an end that stays a second time counts half
        below[rows] = torch.where(left, found, torch.where(last < 0, under / 2, under))
        above[rows] = torch.where(left, torch.where(last > 0, over / 2, over), found)
        moved[rows] = 2 * left.long() - 1
        rows = rows[is_far(found, rows)]
    return share


def _like(share: Tensor, z: Tensor) -> Tensor:
    return share.view(-1, *[1] * (z.ndim - 1))


def tolerance(threshold: float) -> float:
    """Error of a probability that is asked for, up to which a request holds."""
    return min(TOLERANCE, 1 - threshold)

"""Doses: the share of a move at which the evaluator sees the probability that is asked for.

`Smiling=0.7` means that the evaluator says 0.7. A critic's 0.7 is another matter, and how far a
move has to go differs from sample to sample. So such a request moves a sample as for
`Smiling=True`, or `False` if it smiles more already, and the share of that move is found by
bisection, with ten evaluations of the evaluator. Requests of several attributes, or with `where`,
are left to the controller, since one share cannot meet several probabilities.
"""

from __future__ import annotations

__all__ = ["dosable", "dosed", "fractions", "too_far", "whole_targets"]

import torch
from torch import Tensor

from ..critics import Critic, PixelCritic

TOLERANCE = 0.05  # of a probability that is asked for, at most
BISECTIONS = 8


def fractions(target: Tensor) -> Tensor:
    """Targets between 0 and 1, `(B, K)` booleans."""
    return (target > 0) & (target < 1)


def too_far(probability: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Whether a probability that is asked for is missed by more than the tolerance, `(B,)`."""
    error = (probability - target).abs()
    return (fractions(target) & (error > min(TOLERANCE, 1 - threshold) + 1e-6)).any(1)


def dosable(target: Tensor, where: Critic | None) -> Tensor:
    """Rows that ask for one probability and nothing else, `(B,)` booleans."""
    one = (~torch.isnan(target)).sum(1) == 1
    return one & fractions(target).any(1) & (where is None)


def whole_targets(target: Tensor, rows: Tensor, before: Tensor) -> Tensor:
    """Targets `(B, K)` in which those of `rows` are 1, or 0 where there is more already."""
    whole = torch.where(torch.isnan(target), target, (target > before).to(target))
    return torch.where(rows[:, None], whole, target)


def dosed(
    z: Tensor, moved: Tensor, target: Tensor, evaluator: PixelCritic, strength: float
) -> Tensor:
    """Latents on the way from `z` to `moved` at which the evaluator sees the target.

    Arguments:
        z: Latents before the move, `(B, *latent_shape)`.
        moved: After a move of this strength towards the whole target.
        target: One probability in each row, `(B, K)`.
        evaluator: The evaluator.
        strength: Share of the dose that is kept.
    """
    end = torch.lerp(z, moved, 1 / strength)
    wanted, place = target.nan_to_num(-1).max(1)

    def seen(share: Tensor) -> Tensor:
        point = torch.lerp(z, end, _like(share, z))
        return evaluator.score(point).sigmoid().gather(1, place[:, None])[:, 0]

    low, high = z.new_zeros(len(z)), z.new_ones(len(z))
    last = seen(high)
    rising = last >= seen(low)
    short = (last < wanted) == rising  # the whole move does not reach it
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = (seen(middle) < wanted) == rising
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    share = torch.where(short, 1.0, (low + high) / 2)
    return torch.lerp(z, end, _like(strength * share, z))


def _like(share: Tensor, z: Tensor) -> Tensor:
    return share.view(-1, *[1] * (z.ndim - 1))

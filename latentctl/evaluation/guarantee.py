r"""A promise about verdicts: of what is accepted, at most a share alpha is wrong.

Scores :math:`s_i` of calibration edits, such as the evaluator's probability of the request, and
whether a judge that no method uses denies them, :math:`w_i`, choose a threshold. For each threshold
:math:`\lambda` of a grid the hypothesis that the risk among accepted edits exceeds alpha is tested,

.. math::
    H_\lambda: P(w = 1 \mid s \ge \lambda) > \alpha, \quad
    p_\lambda = P\big(\mathrm{Bin}(n_\lambda, \alpha) \le k_\lambda\big)

with :math:`n_\lambda` accepted edits of which :math:`k_\lambda` are wrong. The loosest threshold of
a sequence of tests from strict to loose that all reject is kept (learn then test). Several starts
share the error delta. With a probability of at least 1 - delta over calibration edits, the risk of
later ones is at most alpha.

The promise assumes that calibration edits and later ones are exchangeable: the same inputs,
requests, editor and strength, in the same shares. It says nothing of one attribute or one group
alone, and nothing where the judge itself is wrong. What is not accepted is undecided.

References:
    | Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control
    | (Angelopoulos et al., 2021) https://arxiv.org/abs/2110.01052
"""

from __future__ import annotations

__all__ = ["Guarantee"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, ShapeError

GRID = 400  # thresholds between 0 and 1, evenly in log-odds, and 0
STARTS = (0.15, 0.4, 0.8)  # shares of accepted edits at which a sequence of tests begins


@dataclass(frozen=True)
class Guarantee:
    """A threshold from which at most a share `alpha` of accepted verdicts is wrong.

    Example:
        >>> score = torch.linspace(0, 1, 2000)
        >>> wrong = score < 0.5
        >>> promise = Guarantee.fit(score, wrong)
        >>> 0.45 < promise.threshold < 0.5, promise
        (True, Guarantee(at most 5 % of what is accepted is wrong, from 0.492 on; 49 % undecided))
        >>> promise.accepts(torch.tensor([0.2, 0.9]))
        tensor([False,  True])
    """

    threshold: float | None
    """Score from which a verdict is accepted; None where no threshold keeps the promise."""
    alpha: float
    """Largest share of wrong verdicts among the accepted ones."""
    delta: float
    """Probability, over calibration edits, that the promise does not hold."""
    undecided: float
    """Share of calibration edits that are not accepted."""

    @classmethod
    def fit(
        cls, score: Tensor, wrong: Tensor, *, alpha: float = 0.05, delta: float = 0.05
    ) -> Guarantee:
        """The loosest threshold that keeps the promise.

        Arguments:
            score: Of calibration edits, in [0, 1], `(N,)`: the probability of the request for
                "satisfied", one minus it for "unreachable", one minus the largest leakage for
                "clean".
            wrong: Whether a judge denies the verdict, booleans `(N,)`.
            alpha: Largest share of wrong verdicts.
            delta: Probability that the promise does not hold.

        Raises:
            ShapeError: If there is not one verdict for each score.
            InputError: If a score is out of [0, 1], or alpha or delta is no share.
        """
        if score.ndim != 1 or score.shape != wrong.shape or not len(score):
            raise ShapeError(
                f"A guarantee takes scores (N,) and verdicts (N,), these are "
                f"{tuple(score.shape)} and {tuple(wrong.shape)}."
            )
        if not bool(((score >= 0) & (score <= 1)).all()):
            raise InputError("Scores of a guarantee are in [0, 1].")
        for name, value in (("alpha", alpha), ("delta", delta)):
            if not 0 < value < 1:
                raise InputError(f"{name} is a share in (0, 1), it was given as {value:g}.")
        grid = torch.cat([torch.linspace(12, -12, GRID).double().sigmoid(), torch.zeros(1)])
        accepted = score.double() >= grid[:, None]
        counts, errors = accepted.sum(1).tolist(), (accepted & wrong.bool()).sum(1).tolist()
        chosen = None
        for share in STARTS:  # each depends on scores alone
            place = next(n for n, count in enumerate(counts) if count >= share * len(score))
            while place <= GRID and keeps(errors[place], counts[place], alpha, delta):
                chosen = place if chosen is None else max(chosen, place)
                place += 1
        threshold = None if chosen is None else round(float(grid[chosen]), 6)
        share = 1.0 if chosen is None else 1 - float(counts[chosen]) / len(score)
        return cls(threshold, alpha, delta, share)

    def accepts(self, score: Tensor) -> Tensor:
        """Whether verdicts with these scores are accepted, `(N,)` booleans; else undecided."""
        if self.threshold is None:
            return torch.zeros_like(score, dtype=torch.bool)
        return score >= self.threshold

    def __repr__(self) -> str:
        found = "from no score on" if self.threshold is None else f"from {self.threshold:.3g} on"
        return (
            f"Guarantee(at most {100 * self.alpha:g} % of what is accepted is wrong, {found}; "
            f"{100 * self.undecided:.0f} % undecided)"
        )


def keeps(errors: int, count: int, alpha: float, delta: float) -> bool:
    """Whether the hypothesis of a risk above alpha is rejected, at one start's part of delta."""
    return binomial_tail(errors, count, alpha) <= delta / len(STARTS)


def binomial_tail(errors: int, count: int, share: float) -> float:
    """Probability that a binomial variable of `count` trials is at most `errors`.

    Example:
        >>> round(binomial_tail(1, 3, 0.5), 6)
        0.5
    """
    k = torch.arange(errors + 1, dtype=torch.float64)
    n = torch.tensor(float(count), dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return float((ways + k * math.log(share) + (n - k) * math.log1p(-share)).exp().sum())

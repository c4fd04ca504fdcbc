r"""A bound on the errors of a verdict: of what is accepted, at most a share alpha is wrong.

Scores :math:`s_i` of calibration edits, such as the evaluator's probability of the request, and
whether a judge that no method uses denies them, :math:`w_i`, choose a threshold. For each threshold
:math:`\lambda` of a grid the hypothesis that the risk among accepted edits exceeds alpha is tested,

.. math::
    H_\lambda: P(w = 1 \mid s \ge \lambda) > \alpha, \quad
    p_\lambda = P\big(\mathrm{Bin}(n_\lambda, \alpha) \le k_\lambda\big)

with :math:`n_\lambda` accepted edits of which :math:`k_\lambda` are wrong. The loosest threshold of
a sequence of tests from strict to loose that all reject is kept (learn then test). One sequence
begins where 100 edits are accepted, for verdicts that are rare, and three where shares are
accepted; they share the error delta. With a probability of at least 1 - delta over calibration
edits, the risk of later ones that are exchangeable with them is at most alpha.

References:
    | Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control
    | (Angelopoulos et al., 2021) https://arxiv.org/abs/2110.01052
"""

from __future__ import annotations

__all__ = ["Bound"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, ShapeError

GRID = 400  # thresholds between 0 and 1, evenly in log-odds, and 0
RARE = 100  # accepted edits at which the first sequence of tests begins
STARTS = (0.15, 0.4, 0.8)  # shares of accepted edits at which the others begin


@dataclass(frozen=True)
class Bound:
    """A threshold from which at most a share `alpha` of accepted verdicts is wrong.

    Example:
        >>> score = torch.linspace(0, 1, 2000)
        >>> wrong = score < 0.5
        >>> bound = Bound.fit(score, wrong)
        >>> 0.45 < bound.threshold < 0.5, bound
        (True, Bound(at most 5 % of what is accepted is wrong, from 0.492 on; 49 % undecided))
        >>> bound.accepts(torch.tensor([0.2, 0.9]))
        tensor([False,  True])
    """

    threshold: float | None
    """Score from which a verdict is accepted; None where no threshold keeps the bound."""
    alpha: float
    """Largest share of wrong verdicts among the accepted ones."""
    delta: float
    """Probability, over calibration edits, that the bound does not hold."""
    undecided: float
    """Share of calibration edits that are not accepted."""

    @classmethod
    def fit(
        cls,
        score: Tensor,
        wrong: Tensor,
        *,
        alpha: float = 0.05,
        delta: float = 0.05,
        least: float = 0.0,
    ) -> Bound:
        """The loosest threshold that keeps the bound.

        Arguments:
            score: Of calibration edits, in [0, 1], `(N,)`: the probability of the request for
                "satisfied", one minus it for "unreachable", one minus the largest leakage for
                "clean".
            wrong: Whether a judge denies the verdict, booleans `(N,)`.
            alpha: Largest share of wrong verdicts.
            delta: Probability that the bound does not hold.
            least: No threshold is below this score.

        Raises:
            ShapeError: If there is not one verdict for each score.
            InputError: If a score is out of [0, 1], or alpha or delta is no share.
        """
        if score.ndim != 1 or score.shape != wrong.shape or not len(score):
            raise ShapeError(
                f"A bound takes scores (N,) and verdicts (N,), these are "
                f"{tuple(score.shape)} and {tuple(wrong.shape)}."
            )
        if not bool(((score >= 0) & (score <= 1)).all()):
            raise InputError("Scores of a bound are in [0, 1].")
        for name, value in (("alpha", alpha), ("delta", delta)):
            if not 0 < value < 1:
                raise InputError(f"{name} is a share in (0, 1), it was given as {value:g}.")
        floor = torch.tensor([least], dtype=torch.float64)
        grid = torch.cat([torch.linspace(12, -12, GRID).double().sigmoid(), floor])
        grid = grid[grid >= least].sort(descending=True).values
        accepted = score.cpu().double() >= grid[:, None]
        counts, errors = accepted.sum(1).tolist(), (accepted & wrong.cpu().bool()).sum(1).tolist()
        chosen = None
        for start in (RARE, *(share * len(score) for share in STARTS)):  # of scores alone
            place = next((n for n, count in enumerate(counts) if count >= start), len(grid))
            while place < len(grid) and keeps(errors[place], counts[place], alpha, delta):
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
            f"Bound(at most {100 * self.alpha:g} % of what is accepted is wrong, {found}; "
            f"{100 * self.undecided:.0f} % undecided)"
        )


def keeps(errors: int, count: int, alpha: float, delta: float) -> bool:
    """Whether the hypothesis of a risk above alpha is rejected, at one start's part of delta."""
    return binomial_tail(errors, count, alpha) <= delta / (1 + len(STARTS))


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

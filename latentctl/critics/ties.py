r"""Ties: attributes that go together in the data, or exclude each other, whatever the others are.

To hold high cheekbones works against a request for a smile, since hardly any face has one without
the other. Two attributes are tied where the presence of one makes the odds of the other ten times
as high, or as low, all other attributes being equal. The odds ratios :math:`e^{\theta_{ij}}` are
those of the Ising model of the labels :math:`y`, a logistic regression of each label on all others,

.. math::
    \mathrm{logit}\, P(y_i = 1 \mid y_{-i}) = b_i + \sum_{j \ne i} \theta_{ij} y_j, \quad
    \theta_{ij} = \theta_{ji}

at the maximum of the pseudo-likelihood with the prior :math:`\theta_{ij} \sim N(0, 1)`, so that few
samples tie nothing.

References:
    | Statistical Analysis of Non-Lattice Data (Besag, 1975) https://doi.org/10.2307/2987782
    | High-Dimensional Ising Model Selection Using l1-Regularized Logistic Regression
    | (Ravikumar et al., 2010) https://arxiv.org/abs/1010.0311
"""

from __future__ import annotations

__all__ = ["Tie", "find_ties", "read_ties", "tied_to", "ties_in"]

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import InputError, UnknownNameError
from ..latents import Latents
from ..random import permutation
from .log_odds import cross_entropy

FACTOR = 10.0  # from this change of the odds on two attributes are tied
MOST_ROWS = 10_000  # latents that are read


class Scores(Protocol):
    """What of a `Critic` is used here."""

    names: tuple[str, ...]

    def score(self, z: Tensor, *, batch_size: int | None = None) -> Tensor: ...


class Tie(NamedTuple):
    """Two attributes that are tied."""

    first: str
    second: str
    odds: float | None = None
    """Odds ratio: above 1 where they go together, below 1 where one excludes the other; None if
    it is not known."""

    def __str__(self) -> str:
        known = "" if self.odds is None else f" (odds x {self.odds:g})"
        return f"{self.first} and {self.second}{known}"


def find_ties(labels: Tensor, names: Sequence[str], *, factor: float = FACTOR) -> tuple[Tie, ...]:
    """The ties among labels, the strongest first.

    Arguments:
        labels: `(N, K)` in [0, 1], NaN where unknown.
        names: Names of the K columns.
        factor: The least odds ratio of a tie, or one over it.

    Example:
        >>> smiling = (torch.arange(400) % 2).float()
        >>> cheeks = torch.where(torch.arange(400) % 10 == 0, 1 - smiling, smiling)
        >>> hat = (torch.arange(400) % 3 == 0).float()
        >>> labels = torch.stack([smiling, cheeks, hat], 1)
        >>> print(*find_ties(labels, ["Smiling", "High_Cheekbones", "Wearing_Hat"]))
        Smiling and High_Cheekbones (odds x 260)
    """
    theta = log_odds_ratios(labels)
    tied = torch.triu(theta.abs() >= math.log(factor), 1)
    found = [(float(theta[i, j]), names[i], names[j]) for i, j in tied.nonzero().tolist()]
    found.sort(key=lambda one: -abs(one[0]))
    return tuple(Tie(first, second, float(f"{math.exp(t):.2g}")) for t, first, second in found)


def log_odds_ratios(labels: Tensor) -> Tensor:
    """The symmetric parameters of the Ising model of labels, `(K, K)`, with a diagonal of 0."""
    labels = labels.detach().double()
    known = ~torch.isnan(labels)
    mean = labels.nanmean(0).nan_to_num()
    centred = torch.where(known, labels - mean, 0.0)
    count = labels.shape[1]
    free = torch.zeros(count, count, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [free, bias], max_iter=50, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def symmetric() -> Tensor:
        both = free + free.T
        return both - torch.diag(both.diagonal())

    def loss() -> Tensor:
        search.zero_grad()
        theta = symmetric()
        total = cross_entropy(centred @ theta + bias, labels).sum() + theta.square().sum() / 4
        total = total / max(1, len(labels))
        total.backward()
        return total

    with torch.enable_grad():
        search.step(loss)
    return symmetric().detach()


def ties_in(latents: Latents, critic: Scores) -> tuple[Tie, ...]:
    """The ties among the attributes of a critic in the labels of latents.

    In the place of a label that the latents lack stands the probability by the critic.
    """
    rows = latents[permutation(len(latents), seed=0, epoch=0, purpose="ties")[:MOST_ROWS]]
    columns = {name: rows.column(name).cpu() for name in critic.names if name in latents.names}
    if len(columns) < len(critic.names):
        found = critic.score(rows.mean, batch_size=1024).sigmoid().cpu().unbind(1)
        columns = {**dict(zip(critic.names, found, strict=True)), **columns}
    if len(columns) < 2:
        return ()
    return find_ties(torch.stack([columns[name] for name in critic.names], 1), critic.names)


def read_ties(ties: Iterable[Any], names: Sequence[str]) -> tuple[Tie, ...]:
    """Ties from pairs of names, or from such pairs with an odds ratio.

    Raises:
        InputError: If one is neither.
        UnknownNameError: If a name is not among `names`.
    """
    found = []
    for tie in ties:
        if isinstance(tie, str) or len(tie) not in (2, 3) or tie[0] == tie[1]:
            raise InputError(
                f"A tie is a pair of attributes, such as ('Smiling', 'High_Cheekbones'), and "
                f"perhaps their odds ratio; found {tie!r}."
            )
        for name in tie[:2]:
            if name not in names:
                raise UnknownNameError("attribute", name, names)
        found.append(Tie(*tie))
    return tuple(found)


def tied_to(asked: Tensor, ties: Sequence[Tie], names: Sequence[str]) -> Tensor:
    """Attributes that are tied to those that are asked for, and not among them, `(B, K)` booleans.

    Arguments:
        asked: Whether an attribute is asked for, `(B, K)` booleans.
        ties: The ties.
        names: The K attributes.

    Example:
        >>> names = ["Smiling", "Cheekbones", "Hat"]
        >>> asked = torch.tensor([[True, False, False], [False, False, True]])
        >>> tied_to(asked, [Tie("Smiling", "Cheekbones")], names)
        tensor([[False,  True, False],
                [False, False, False]])
    """
    tied = torch.zeros_like(asked)
    for first, second, _ in ties:
        i, j = names.index(first), names.index(second)
        tied[:, j] |= asked[:, i]
        tied[:, i] |= asked[:, j]
    return tied & ~asked

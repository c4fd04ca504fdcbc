r"""What a critic is, and the algebra of critics.

A critic maps `z (B, *latent_shape)` to log-odds `(B,)`. Critics combine as independent events do:

.. math::
    P(a \wedge b) &= P(a) P(b) \\
    P(\neg a) &= 1 - P(a) \\
    P(a \vee b) &= 1 - (1 - P(a)) (1 - P(b))

and `a * w` tempers a critic, :math:`\mathrm{logit} \mapsto w \, \mathrm{logit}`. All of it is
computed on log-odds, so that gradients live where probabilities round to 0 or 1.
"""

from __future__ import annotations

__all__ = ["Critic", "log_odds"]

import abc
import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .named import NamedCritics

MIN_SURPRISE = 1e-30  # keeps the log-odds of a certain event finite, at 69


class Critic(nn.Module, abc.ABC):
    """Log-odds `(B,)` that latents `(B, *latent_shape)` satisfy something.

    Example:
        >>> class Positive(Critic):
        ...     def forward(self, z):
        ...         return z.sum(1)
        >>> a, z = Positive(), torch.tensor([[2.0], [-1.0]])
        >>> p = a.probability(z)
        >>> torch.allclose((a & ~a).probability(z), p * (1 - p))
        True
        >>> torch.equal((~~a)(z), a(z))
        True
    """

    @abc.abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B,)` of `z (B, *latent_shape)`."""

    def probability(self, z: Tensor) -> Tensor:
        """Probabilities `(B,)` in [0, 1]."""
        return torch.sigmoid(self(z))

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that this critic speaks of."""
        children = (c for c in self.children() if isinstance(c, Critic))
        return frozenset[str]().union(*(c.attributes for c in children))

    def of(self, critics: NamedCritics) -> Critic:
        """The same expression over other critics of the same names, such as an auditor's."""
        parts = {n: c.of(critics) for n, c in self.named_children() if isinstance(c, Critic)}
        if not parts:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, **parts}
        return other

    def __and__(self, other: Critic) -> Critic:
        return _And(self, other)

    def __or__(self, other: Critic) -> Critic:
        return ~(~self & ~other)

    def __invert__(self) -> Critic:
        return _Not(self)

    def __mul__(self, weight: float) -> Critic:
        return _Weighted(self, weight)

    __rmul__ = __mul__


class _And(Critic):
    def __init__(self, left: Critic, right: Critic) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, z: Tensor) -> Tensor:
        a, b = self.left(z), self.right(z)
        # 1 / P - 1 = (1 + exp(-a)) (1 + exp(-b)) - 1, which neither rounds nor saturates
        return -torch.logsumexp(torch.stack([-a, -b, -(a + b)]), dim=0)


class _Not(Critic):
    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = -self.critic(z)
        return out


class _Weighted(Critic):
    def __init__(self, critic: Critic, weight: float) -> None:
        super().__init__()
        self.critic, self.weight = critic, float(weight)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.weight * self.critic(z)
        return out


def log_odds(log_p: Tensor) -> Tensor:
    """Log-odds of events with log-probabilities `log_p`; finite, with a gradient, near 0 and 1."""
    surprise = (-log_p).clamp_min(MIN_SURPRISE)
    return -(surprise + torch.log(-torch.expm1(-surprise)))

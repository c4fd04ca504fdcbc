r"""Several named attributes at once: what `AttributeCritic` and `KnowledgeBase` share."""

from __future__ import annotations

__all__ = ["NamedCritics", "cross_entropy"]

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError, UnknownNameError
from ..latents import Covariance
from .base import Critic, log_odds


class NamedCritics(nn.Module, abc.ABC):
    """Log-odds `(B, K)` that latents `(B, *latent_shape)` have K named attributes."""

    names: tuple[str, ...]
    latent_shape: tuple[int, ...]
    posterior_std: Tensor
    """Mean posterior standard deviation of the latents it was fitted on, `(*latent_shape)`."""
    covariance: Covariance | None
    """How those latents vary together; None where that is taken for the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.covariance = None

    @abc.abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""

    def probability(self, z: Tensor) -> Tensor:
        """Probabilities `(B, K)`."""
        return torch.sigmoid(self(z))

    def index(self, name: str) -> int:
        """Column of an attribute; `UnknownNameError` with the nearest names otherwise."""
        if name not in self.names:
            raise UnknownNameError("attribute", name, self.names)
        return self.names.index(name)

    def __getitem__(self, name: str) -> Critic:
        """The critic of one attribute."""
        self.index(name)
        return _Head(self, name)

    def match(self, y: Tensor) -> Critic:
        r"""The critic of a whole target `y (B, K)` or `(1, K)`, NaN = free.

        .. math:: \log P = \sum_k y_k \log p_k + (1 - y_k) \log (1 - p_k)

        For targets 0 and 1 this is the conjunction; a target between them is a value to keep.
        """
        if y.ndim != 2 or y.shape[1] != len(self.names):
            raise ShapeError(
                f"A target has a column for each of the {len(self.names)} attributes, this one "
                f"is {tuple(y.shape)}."
            )
        return _Match(self, y)


class _Head(Critic):
    """One attribute of an `AttributeCritic`."""

    def __init__(self, critic: NamedCritics, name: str) -> None:
        super().__init__()
        self.critic, self.name = critic, name

    @property
    def attributes(self) -> frozenset[str]:
        return frozenset({self.name})

    def of(self, critics: NamedCritics) -> Critic:
        return critics[self.name] if self.name in critics.names else self

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.critic(z)
        return logits[:, self.critic.index(self.name)]


class _Match(Critic):
    """A whole target of an `AttributeCritic`."""

    def __init__(self, critic: NamedCritics, y: Tensor) -> None:
        super().__init__()
        self.critic, self.y = critic, y

    @property
    def attributes(self) -> frozenset[str]:
        asked = (~torch.isnan(self.y)).any(0)
        return frozenset(n for n, a in zip(self.critic.names, asked, strict=True) if a)

    def of(self, critics: NamedCritics) -> Critic:
        return critics.match(self.y) if critics.names == self.critic.names else self

    def forward(self, z: Tensor) -> Tensor:
        return log_odds(-cross_entropy(self.critic(z), self.y.to(z.device)).sum(1))


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats of each target, `(B, K)`; 0 where the target is free."""
    known = ~torch.isnan(y)
    target = torch.where(known, y, torch.zeros_like(y)).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(known, entropy, torch.zeros_like(entropy))

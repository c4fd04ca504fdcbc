r"""Attribute critics: one network, a named head for each attribute.

Trained by cross-entropy on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["AttributeCritic", "cross_entropy"]

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, ShapeError, UnknownNameError
from ..fit import Player, Step, fit
from ..latents import Latents
from ..nets import Scorer
from ..random import seeded
from .base import Critic, log_odds


class AttributeCritic(nn.Module):
    r"""Log-odds `(B, K)` of named attributes, one network with `K` heads.

    Trained by cross-entropy on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.

    Example:
        >>> critic = AttributeCritic((8,), ["Smiling", "Male"], width=16)
        >>> z = torch.zeros(5, 8)
        >>> critic(z).shape, critic["Male"](z).shape
        (torch.Size([5, 2]), torch.Size([5]))
        >>> both = critic["Smiling"] & ~critic["Male"]
        >>> same = critic.match(torch.tensor([[1.0, 0.0]]))
        >>> torch.allclose(both(z), same(z))
        True
    """

    posterior_std: Tensor
    """Mean posterior standard deviation of the latents it was fitted on, `(*latent_shape)`."""

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str],
        *,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.names = tuple(names)
        self.config = {
            "latent_shape": list(latent_shape),
            "names": list(names),
            "width": width,
            "depth": depth,
            "dropout": dropout,
        }
        self.net = Scorer(latent_shape, len(names), width=width, depth=depth, dropout=dropout)
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        logits: Tensor = self.net(z)
        return logits

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

    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats per known label, on one sample of each posterior."""
        if batch.labels is None:
            raise InputError("An AttributeCritic learns from labels; these latents have none.")
        z = batch.sample(step.normal(*self.latent_shape))
        entropy = cross_entropy(self(z), batch.labels)
        known = ~torch.isnan(batch.labels)
        return entropy.sum() / known.sum().clamp_min(1), {}

    @classmethod
    def fit(
        cls,
        latents: Latents,
        *,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.3,
        max_train_steps: int = 1500,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
        **options: Any,
    ) -> AttributeCritic:
        """A critic of every label of `latents`; `options` go to `latentctl.fit.fit`.

        Raises:
            InputError: If there are no labels, or an attribute has one class only.
        """
        check_classes(latents)
        with seeded(seed, "attribute critic"):
            critic = cls(
                latents.latent_shape, latents.names, width=width, depth=depth, dropout=dropout
            )
        critic.net.trunk.standardise(*latents.moments())
        critic.posterior_std.copy_(latents.posterior_std())
        optimizer = torch.optim.AdamW(
            critic.parameters(), lr=learning_rate, weight_decay=weight_decay
        )
        player = Player("attributes", critic, critic.loss, optimizer)
        options = {"lr_scheduler": "cosine", "progress": False, **options}
        fit(
            player,
            latents,
            max_train_steps=max_train_steps,
            batch_size=batch_size,
            seed=seed,
            **options,
        )
        return critic.eval()


class _Head(Critic):
    """One attribute of an `AttributeCritic`."""

    def __init__(self, critic: AttributeCritic, name: str) -> None:
        super().__init__()
        self.critic, self.name = critic, name

    @property
    def attributes(self) -> frozenset[str]:
        return frozenset({self.name})

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.critic(z)
        return logits[:, self.critic.index(self.name)]


class _Match(Critic):
    """A whole target of an `AttributeCritic`."""

    def __init__(self, critic: AttributeCritic, y: Tensor) -> None:
        super().__init__()
        self.critic, self.y = critic, y

    @property
    def attributes(self) -> frozenset[str]:
        asked = (~torch.isnan(self.y)).any(0)
        return frozenset(n for n, a in zip(self.critic.names, asked, strict=True) if a)

    def forward(self, z: Tensor) -> Tensor:
        return log_odds(-cross_entropy(self.critic(z), self.y).sum(1))


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats of each target, `(B, K)`; 0 where the target is free."""
    known = ~torch.isnan(y)
    target = torch.where(known, y, torch.zeros_like(y)).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(known, entropy, torch.zeros_like(entropy))


def check_classes(latents: Latents) -> None:
    """Raises an `InputError` where a label has one class only, or where there is none."""
    if latents.labels is None:
        raise InputError("An AttributeCritic learns from labels; these latents have none.")
    for name, column in zip(latents.names, latents.labels.unbind(1), strict=True):
        known = column[~torch.isnan(column)]
        if len(known) == 0 or bool((known > 0.5).all()) or bool((known <= 0.5).all()):
            found = "no known value" if len(known) == 0 else f"only {float(known[0]):g}"
            raise InputError(
                f"Attribute {name!r} has {found} in {len(column)} samples, so there is nothing to "
                f"learn. Leave it out, or bring samples of both classes."
            )

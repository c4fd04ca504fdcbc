r"""Attribute critics: one network, a named head for each attribute.

Trained by cross-entropy on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["AttributeCritic"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents
from ..latents.covariance import default_rank
from ..random import seeded
from ..training import Step
from .base import cross_entropy
from .network import NetworkCritic


class AttributeCritic(NetworkCritic, kind="attributes"):
    r"""Log-odds `(B, K)` of named attributes, one network with `K` heads.

    Trained by cross-entropy on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.
        smooth: Whether units are SiLU, whose slopes vary, rather than rectified; for a critic
            that learns gradients (`latentctl.teach`).
        rank: Leading directions of the latents' covariance that edits measure their way by, 0 for
            none; see `latentctl.latents.Covariance`.

    Example:
        >>> critic = AttributeCritic((8,), ["Smiling", "Male"], width=16)
        >>> z = torch.zeros(5, 8)
        >>> critic(z).shape, critic["Male"](z).shape
        (torch.Size([5, 2]), torch.Size([5, 1]))
        >>> both = critic["Smiling"] & ~critic["Male"]
        >>> same = critic.match(torch.tensor([[1.0, 0.0]]))
        >>> torch.allclose(both(z), same(z))
        True
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str],
        *,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.0,
        smooth: bool = False,
        rank: int = 0,
    ) -> None:
        super().__init__(
            latent_shape,
            names,
            1,
            width=width,
            depth=depth,
            dropout=dropout,
            smooth=smooth,
            rank=rank,
        )

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        logits: Tensor = self.net(z)
        return logits

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
        rank: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> AttributeCritic:
        """A critic of every label of `latents`.

        Arguments:
            latents: Encodings with labels in [0, 1], NaN where unknown.
            width: Units of each layer.
            depth: Number of layers.
            dropout: Share of units dropped while training.
            rank: As above; by default 512 for a grid, or half of its size, and 0 for a vector.
            seed: Decides every random number.
            options: Of the training, as in `NetworkCritic.learn`.

        Raises:
            InputError: If there are no labels, or an attribute has one class only.
        """
        check_classes(latents)
        shape, names = latents.latent_shape, latents.names
        rank = default_rank(shape) if rank is None else rank
        with seeded(seed, "attribute critic"):
            critic = cls(shape, names, width=width, depth=depth, dropout=dropout, rank=rank)
        return critic.learn(latents, name="attributes", seed=seed, **options)


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

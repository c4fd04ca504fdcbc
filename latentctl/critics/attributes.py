r"""Attribute critics: one network, a named head for each attribute.

Trained by cross-entropy on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["AttributeCritic"]

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents
from ..latents.covariance import default_rank
from ..random import seeded
from ..training import Step
from .log_odds import cross_entropy
from .network import NetworkCritic, require_labels


class AttributeCritic(NetworkCritic, kind="attributes"):
    """Log-odds `(B, K)` of named attributes, one network with `K` heads.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.
        smooth: Use SiLU, whose derivative is continuous, instead of ReLU; for a critic whose
            gradients are fitted (`latentctl.distill`).
        rank: Leading directions of the latents' covariance in which edits are measured, 0 for no
            covariance; see `latentctl.latents.Covariance`.
        ties: Pairs of attributes that are tied, see `Critic.ties`; `fit` finds them in the labels.

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

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        logits: Tensor = self.net(z)
        return logits

    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats per known label, on one sample of each posterior."""
        labels = require_labels(batch, "An AttributeCritic")
        entropy = cross_entropy(self(batch.sample(step.normal(*self.latent_shape))), labels)
        return entropy.sum() / (~torch.isnan(labels)).sum().clamp_min(1), {}

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
            options: Of the training, as in `NetworkCritic.fit_network`.

        Raises:
            InputError: If there are no labels, or an attribute has one class only.
        """
        check_classes(latents)
        shape = latents.latent_shape
        sizes: dict[str, Any] = {"width": width, "depth": depth, "dropout": dropout}
        rank = default_rank(shape) if rank is None else rank
        with seeded(seed, "attribute critic"):
            critic = cls(shape, latents.names, rank=rank, **sizes)
        return critic.fit_network(latents, name="attributes", seed=seed, **options)


def check_classes(latents: Latents) -> None:
    """Raises an `InputError` where there is no label, or one has a single class."""
    labels = require_labels(latents, "An AttributeCritic")
    for name, column in zip(latents.names, labels.unbind(1), strict=True):
        known = column[~torch.isnan(column)]
        if len(known) == 0 or bool((known > 0.5).all()) or bool((known <= 0.5).all()):
            found = "no known value" if len(known) == 0 else f"only {float(known[0]):g}"
            raise InputError(
                f"Attribute {name!r} has {found} in {len(column)} samples, so there is nothing to "
                f"learn. Leave it out, or bring samples of both classes."
            )

r"""Attribute critics: one network, a named head for each attribute.

Trained by cross-entropy on samples of the posterior, :math:`z = \mu + \sigma \epsilon`, of vectors
against adversarial moves of them (`critics.robust`).

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["AttributeCritic"]

import functools
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
from .robust import adversarial_moves

ROBUSTNESS = 0.15  # of a critic of vectors
DROPOUT = 0.3  # of one that is not robust


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

    def loss(
        self, batch: Latents, step: Step, radius: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, 0 for an unknown label, on one sample of each posterior.

        Arguments:
            batch: Encodings with labels.
            step: The step of the training.
            radius: Largest length of the adversarial moves of the samples; 0 for none.
        """
        labels = require_labels(batch, "An AttributeCritic")
        z = batch.sample(step.normal(*self.latent_shape))
        if radius:
            z = z + adversarial_moves(self, z, labels, radius, step)
        # a mean over known ones would weigh rows by the process that they are on
        return cross_entropy(self(z), labels).mean(), {}

    @classmethod
    def fit(
        cls,
        latents: Latents,
        *,
        width: int = 512,
        depth: int = 2,
        dropout: float | None = None,
        smooth: bool = True,
        rank: int | None = None,
        robustness: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> AttributeCritic:
        """A critic of every label of `latents`.

        Arguments:
            latents: Encodings with labels in [0, 1], NaN where unknown.
            width: Units of each layer.
            depth: Number of layers.
            dropout: Share of units dropped while training; by default 0, and 0.3 without
                adversarial moves.
            smooth: Use SiLU instead of ReLU.
            rank: As above; by default 512 for a grid, or half of its size, and 0 for a vector.
            robustness: Largest length of the adversarial moves, as a share of the root mean square
                distance of the latents from their mean; by default 0.15, and 0 for a grid. It
                costs one more evaluation and gradient a step.
            seed: Decides every random number.
            options: Of the training, as in `NetworkCritic.fit_network`.

        Raises:
            InputError: If there are no labels, an attribute has one class only, or `robustness` is
                negative.
        """
        check_classes(latents)
        shape = latents.latent_shape
        if robustness is None:
            robustness = 0.0 if len(shape) > 1 else ROBUSTNESS
        if not robustness >= 0:
            raise InputError(f"robustness is at least 0, it was given as {robustness:g}.")
        if dropout is None:
            dropout = 0.0 if robustness else DROPOUT
        sizes: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "dropout": dropout,
            "smooth": smooth,
        }
        rank = default_rank(shape) if rank is None else rank
        radius = robustness * float(latents.moments()[1].square().sum().sqrt())
        with seeded(seed, "attribute critic"):
            critic = cls(shape, latents.names, rank=rank, **sizes)
        loss = functools.partial(critic.loss, radius=radius)
        return critic.fit_network(latents, loss, name="attributes", seed=seed, **options)


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

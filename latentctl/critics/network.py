r"""A critic that is one network with named outputs, fitted on cached latents.

Trained by AdamW on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.
"""

from __future__ import annotations

__all__ = ["NetworkCritic"]

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..latents import Covariance, Latents
from ..nn.trunk import ScoreNet
from ..training import Step, train
from .base import Critic

if TYPE_CHECKING:
    from typing_extensions import Self


class NetworkCritic(Critic):
    """A critic of named attributes over one network.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes.
        heads: Outputs of the network for each name.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.
        smooth: Whether units are SiLU, whose slopes vary, rather than rectified.
        rank: Leading directions of the latents' covariance that are kept one by one; 0 for none.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str],
        heads: int,
        *,
        width: int,
        depth: int,
        dropout: float,
        smooth: bool = False,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.names = tuple(names)
        sizes: dict[str, Any] = {"width": width, "depth": depth, "dropout": dropout}
        if smooth:
            sizes["smooth"] = True
        self.config = {"latent_shape": list(latent_shape), "names": list(names), **sizes}
        if rank:
            self.config["rank"] = rank
            self.covariance = Covariance(latent_shape, rank)
        self.net = ScoreNet(latent_shape, heads * len(names), **sizes)
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    @abc.abstractmethod
    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what to log."""

    def fit_statistics(self, latents: Latents, *, seed: int = 0) -> None:
        """Sets the moments and the covariance from the latents that it is fitted on."""
        self.net.trunk.standardise(*latents.moments())
        self.posterior_std.copy_(latents.posterior_std())
        if self.covariance is not None:
            self.covariance.learn(latents, seed=seed)

    def learn(
        self,
        latents: Latents,
        *,
        name: str,
        max_train_steps: int = 1500,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Trains on latents, in place, by AdamW.

        Arguments:
            latents: Encodings with labels.
            name: Its name in the log.
            max_train_steps: Steps of training.
            batch_size: Latents in a step.
            learning_rate: Peak learning rate; it falls by a cosine.
            weight_decay: Decoupled weight decay.
            seed: Decides every random number.
            options: Further arguments of `latentctl.training.fit`.
        """
        self.fit_statistics(latents, seed=seed)
        train(
            self,
            self.loss,
            latents,
            name=name,
            max_train_steps=max_train_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
            **{"lr_scheduler": "cosine", **options},
        )
        return self

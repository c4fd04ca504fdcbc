r"""One network with named heads, fitted on cached latents: what two critics share.

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
from ..training import Player, Step, fit
from .base import Critic

if TYPE_CHECKING:
    from typing_extensions import Self


class NetworkCritic(Critic):
    """Named critics over one network.

    Arguments:
        latent_shape: Shape of one latent.
        names: What the heads are of.
        heads: Heads of each name.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.
        smooth: Whether units are SiLU, whose slopes vary, rather than rectified.
        rank: Leading directions of the latents' covariance that are known one by one; 0 for none.
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
        """The loss of a batch, and what is to be logged of it."""

    def fit_statistics(self, latents: Latents, *, seed: int = 0) -> None:
        """Takes the moments of the latents that it is to be fitted on."""
        self.net.trunk.standardise(*latents.moments())
        self.posterior_std.copy_(latents.posterior_std())
        if self.covariance is not None:
            self.covariance.learn(latents, seed=seed)

    def learn(
        self,
        latents: Latents,
        *,
        player: str,
        max_train_steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        **options: Any,
    ) -> Self:
        """Trains on latents, in place; `player` names it in the log."""
        self.fit_statistics(latents, seed=seed)
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=learning_rate, weight_decay=weight_decay
        )
        fit(
            Player(player, self, self.loss, optimizer),
            latents,
            max_train_steps=max_train_steps,
            batch_size=batch_size,
            seed=seed,
            **{"lr_scheduler": "cosine", "progress": False, **options},
        )
        return self.eval()

r"""One network with named heads, fitted on cached latents: what two critics share.

Trained by AdamW on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.
"""

from __future__ import annotations

__all__ = ["NamedScorer"]

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..fit import Player, Step, fit
from ..latents import Latents
from ..nets import Scorer
from .named import NamedCritics

if TYPE_CHECKING:
    from typing_extensions import Self


class NamedScorer(NamedCritics):
    """Named critics over one network.

    Arguments:
        latent_shape: Shape of one latent.
        names: What the heads are of.
        heads: Heads of each name.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.
        smooth: Whether units are SiLU, whose slopes vary, rather than rectified.
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
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.names = tuple(names)
        sizes: dict[str, Any] = {"width": width, "depth": depth, "dropout": dropout}
        if smooth:
            sizes["smooth"] = True
        self.config = {"latent_shape": list(latent_shape), "names": list(names), **sizes}
        self.net = Scorer(latent_shape, heads * len(names), **sizes)
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    @abc.abstractmethod
    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what is to be logged of it."""

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
        self.net.trunk.standardise(*latents.moments())
        self.posterior_std.copy_(latents.posterior_std())
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

r"""A critic that is one network with named outputs, fitted on cached latents.

Trained by AdamW on samples of the posterior, :math:`z = \mu + \sigma \epsilon`.
"""

from __future__ import annotations

__all__ = ["NetworkCritic", "require_labels"]

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Covariance, Latents, require_latents
from ..latents.names import attribute_names
from ..nn.trunk import ScoreNet
from ..storage import register_to_config
from ..training import Step, train
from .base import Critic
from .ties import ties_in

if TYPE_CHECKING:
    from typing_extensions import Self

TRAINING: dict[str, Any] = {
    "max_train_steps": 1500,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "lr_scheduler": "cosine",
}


Loss: TypeAlias = Callable[[Latents, Step], tuple[Tensor, dict[str, Tensor]]]


class NetworkCritic(Critic):
    """A critic of named attributes over one network.

    The arguments are those of `AttributeCritic`.
    """

    heads_per_name: ClassVar[int] = 1

    @register_to_config
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
        ties: Sequence[Sequence[Any]] = (),
    ) -> None:
        super().__init__()
        self.latent_shape, self.names = tuple(latent_shape), attribute_names(names)
        if rank:
            self.covariance = Covariance(latent_shape, rank)
        sizes: dict[str, Any] = {"depth": depth, "dropout": dropout, "smooth": smooth}
        self.net = ScoreNet(
            latent_shape, self.heads_per_name * len(self.names), width=width, **sizes
        )
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))
        self.ties = ties

    @abc.abstractmethod
    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what to log."""

    def fit_statistics(self, latents: Latents, *, seed: int = 0) -> None:
        """Sets the moments and the covariance from the latents that it is fitted on."""
        self.net.trunk.standardise(*latents.moments())
        self.posterior_std.copy_(latents.posterior_std())
        if self.covariance is not None:
            self.covariance.learn(latents, seed=seed)

    def fit_network(
        self, latents: Latents, loss: Loss | None = None, *, name: str, seed: int, **options: Any
    ) -> Self:
        """Trains on latents with labels, in place.

        Arguments:
            latents: Encodings with labels.
            loss: As `loss`, which is minimised if none is given.
            name: Its name in the log.
            seed: Decides every random number.
            options: Further arguments of `latentctl.training.train`; by default 1500 steps of
                AdamW on 256 latents, with learning rate 1e-3, falling by a cosine, and weight
                decay 1e-2.
        """
        self.fit_statistics(latents, seed=seed)
        self.ties = ties_in(latents, self)
        train(self, loss or self.loss, latents, name=name, seed=seed, **{**TRAINING, **options})
        return self


def require_labels(latents: Latents, critic: str) -> Tensor:
    """The labels; an `InputError` where there are none."""
    require_latents(latents)
    if latents.labels is None:
        raise InputError(
            f"{critic} learns from labels; these latents have none. Bring data with labels, or "
            f"score samples with latentctl.rewards.prior_rewards."
        )
    return latents.labels

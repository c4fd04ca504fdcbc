r"""Reward critics: what a Python function will say of a decoded latent, and whether it is content.

With rewards :math:`c_k(x) \in [0, 1]` of samples :math:`x \sim p(x \mid z)`, each has two heads,

.. math::
    p_k(z) = P(c_k(x) = 1 \mid z), \qquad r_k(z) = \mathbb{E}[c_k(x) \mid z]

both fitted by cross-entropy, to whether the rule is kept and to the soft target :math:`c_k(x)`. The
paper has the second only. But a mean of 0.95 may be a melody with one wrong note in twenty, or any
of twenty melodies: to ask for a rule is to ask for :math:`p_k`, and :math:`r_k` says how far it is
to there where hardly any sample keeps it.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["RewardCritic", "satisfied"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents
from ..random import seeded
from ..training import Step
from .base import cross_entropy
from .network import NetworkCritic


class RewardCritic(NetworkCritic, kind="rewards"):
    r"""Log-odds `(B, K)` that each of K rules is kept, and the mean reward by each.

    Arguments:
        latent_shape: Shape of one latent.
        names: The rules.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.

    Example:
        >>> critic = RewardCritic((8,), ["c_major", "dense"], width=16)
        >>> z = torch.zeros(5, 8)
        >>> critic(z).shape, critic.reward(z).shape, critic["dense"](z).shape
        (torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str],
        *,
        width: int = 512,
        depth: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(latent_shape, names, 2, width=width, depth=depth, dropout=dropout)

    def heads(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds of :math:`p_k(z)` and of :math:`r_k(z)`, both `(B, K)`."""
        kept, mean = self.net(z).chunk(2, dim=1)
        return kept, mean

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` that `z (B, *latent_shape)` keeps each rule."""
        return self.heads(z)[0]

    def reward(self, z: Tensor) -> Tensor:
        """Mean rewards `(B, K)` in [0, 1] of latents `z (B, *latent_shape)`."""
        return torch.sigmoid(self.heads(z)[1])

    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats per known reward, of both heads."""
        if batch.labels is None:
            raise InputError("A RewardCritic learns from rewards; these latents have none.")
        kept, mean = self.heads(batch.sample(step.normal(*self.latent_shape)))
        known = (~torch.isnan(batch.labels)).sum().clamp_min(1)
        on_kept = cross_entropy(kept, satisfied(batch.labels)).sum() / known
        on_mean = cross_entropy(mean, batch.labels).sum() / known
        return on_kept + on_mean, {"kept": on_kept, "mean": on_mean}

    @classmethod
    def fit(
        cls,
        latents: Latents,
        *,
        width: int = 512,
        depth: int = 3,
        dropout: float = 0.0,
        seed: int = 0,
        **options: Any,
    ) -> RewardCritic:
        """A critic of the rewards of `latents`, as `prior_rewards` makes them.

        Arguments:
            latents: With labels in [0, 1], NaN where a reward is not known.
            width: Units of each layer.
            depth: Number of layers.
            dropout: Share of units dropped while training.
            seed: Decides every random number.
            options: Of the training, as in `NetworkCritic.learn`.

        Raises:
            InputError: If there are no rewards, or a rule has none.
        """
        check_rewards(latents)
        shape, names = latents.latent_shape, latents.names
        with seeded(seed, "reward critic"):
            critic = cls(shape, names, width=width, depth=depth, dropout=dropout)
        return critic.learn(latents, name="rewards", seed=seed, **options)


def satisfied(rewards: Tensor) -> Tensor:
    """1 where a rule is kept, its reward being 1, else 0; NaN stays NaN."""
    return torch.where(torch.isnan(rewards), rewards, (rewards == 1).to(rewards.dtype))


def check_rewards(latents: Latents) -> None:
    """Raises an `InputError` where there are no rewards, or a rule has no known one."""
    if latents.labels is None:
        raise InputError(
            "A RewardCritic learns from rewards; these latents have none. latentctl.prior_rewards "
            "makes some."
        )
    for name, column in zip(latents.names, latents.labels.unbind(1), strict=True):
        if bool(torch.isnan(column).all()):
            raise InputError(f"The reward {name!r} raised for all {len(column)} samples.")

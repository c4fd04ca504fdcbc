r"""Reward critics: predictions of Python functions of the sample that a latent decodes to.

With rewards :math:`c_k(x) \in [0, 1]` of samples :math:`x \sim p(x \mid z)`, each has two heads,

.. math::
    p_k(z) = P(c_k(x) = 1 \mid z), \qquad r_k(z) = \mathbb{E}[c_k(x) \mid z]

both fitted by cross-entropy, to whether the rule is kept and to the soft target :math:`c_k(x)`. The
paper has the second only. But a mean of 0.95 may be a melody with one wrong note in twenty, or any
of twenty melodies. A request for a rule is one for :math:`p_k`; :math:`r_k` has a gradient where
hardly any sample keeps the rule.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
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
from ..storage import register_to_config
from ..training import Step
from .log_odds import cross_entropy
from .network import NetworkCritic, require_labels


class RewardCritic(NetworkCritic, kind="rewards"):
    """Log-odds `(B, K)` that each of K rules is kept, and the mean reward by each.

    Arguments:
        latent_shape: Shape of one latent.
        names: The rules.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped while training.
        ties: Pairs of rules that are tied, see `Critic.ties`.

    Example:
        >>> critic = RewardCritic((8,), ["c_major", "dense"], width=16)
        >>> z = torch.zeros(5, 8)
        >>> critic(z).shape, critic.reward(z).shape, critic["dense"](z).shape
        (torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([5, 1]))
    """

    heads_per_name = 2

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str],
        *,
        width: int = 512,
        depth: int = 3,
        dropout: float = 0.0,
        ties: Sequence[Sequence[Any]] = (),
    ) -> None:
        sizes: dict[str, Any] = {"width": width, "depth": depth, "dropout": dropout}
        super().__init__(latent_shape, names, ties=ties, **sizes)

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

    def select(self, names: Sequence[str]) -> RewardCritic:
        """A critic of some of the rules, with the same outputs."""
        sizes = {key: self.config[key] for key in ("width", "depth", "dropout")}
        ties = [tie for tie in self.ties if {tie.first, tie.second} <= {*names}]
        critic = RewardCritic(self.latent_shape, names, ties=ties, **sizes)
        mine = [self.names.index(name) for name in names]
        rows = mine + [len(self.names) + row for row in mine]
        weights = self.state_dict()
        for key, value in critic.state_dict().items():
            if value.shape != weights[key].shape:  # of the last layer
                weights[key] = weights[key][rows]
        critic.load_state_dict(weights)
        return critic.to(next(self.parameters()).device)

    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats per reward, 0 for unknown ones, of both heads."""
        labels = require_labels(batch, "A RewardCritic")
        kept, mean = self.heads(batch.sample(step.normal(*self.latent_shape)))
        on_kept = cross_entropy(kept, satisfied(labels)).mean()
        on_mean = cross_entropy(mean, labels).mean()
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
            options: Of the training, as in `NetworkCritic.fit_network`.

        Raises:
            InputError: If there are no rewards, or a rule has none.
        """
        unknown = torch.isnan(require_labels(latents, "A RewardCritic")).all(0)
        for name, missing in zip(latents.names, unknown, strict=True):
            if missing:
                raise InputError(f"The reward {name!r} failed for all {len(latents)} samples.")
        sizes: dict[str, Any] = {"width": width, "depth": depth, "dropout": dropout}
        with seeded(seed, "reward critic"):
            critic = cls(latents.latent_shape, latents.names, **sizes)
        return critic.fit_network(latents, name="rewards", seed=seed, **options)


def satisfied(rewards: Tensor) -> Tensor:
    """1 where a rule is kept, its reward being 1, else 0; NaN stays NaN."""
    return torch.where(torch.isnan(rewards), rewards, (rewards == 1).to(rewards.dtype))

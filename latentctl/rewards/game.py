r"""Training of an actor for rules: reward critic, realism critic and actor in turns.

The `RewardCritic` predicts :math:`p_k(z)`, the probability that rule `k` is kept, and
:math:`r_k(z)`, the mean reward, from everything scored so far, half of it from recent rounds. The
realism critic :math:`D` discriminates latents of data (or of the prior) from the actor's. The actor
moves latents to a request :math:`y \in \{0, 1, \mathrm{free}\}^K`, and holds free rules,

.. math::
    L_G = \mathbb{E}_{p(z)} \Big[
        \sum_{k\,\mathrm{requested}} H(y_k, p_k(z')) + |y_k - p_k(z')| \, H(y_k, r_k(z'))
        + h \sum_{k\,\mathrm{free}} \mathrm{KL}(r_k(z) \| r_k(z'))
        + \frac{h}{S} \sum_s \mathrm{KL}(r_s(z) \| r_s(z'))
        - w \log D(z') + \lambda L_\mathrm{dist}(z', z)
        + \frac{t}{d} (\log p(z') - \log p(z))^2
        + v \max\Big(0, 1 - \frac{|z'_1 - z'_2|}{a |z_1 - z_2|}\Big)^2 \Big]

with the cross-entropy :math:`H` and `S` general statistics of samples, which are held, too
(`latentctl.rewards.statistics`). Its targets in the first term are 0.99, not 1, so that the
gradient vanishes where the rule is kept. The term in :math:`t` keeps the prior density of a latent:
without it everything that a rule leaves open drifts to the mode of the prior, and samples lose
diversity. The term in :math:`v` keeps two moves with the same request apart, at a share `a = 0.8`
of the distance of their starts: a rule may narrow where samples are, but they do not end at one
place. Requests are drawn at random, so that one actor serves single rules
and all rules at once.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["RuleGame"]

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..controllers.actor import Actor
from ..controllers.ascent import distance
from ..controllers.request import prior_starts
from ..critics import RealismCritic, RewardCritic
from ..critics.log_odds import cross_entropy
from ..decoder import Prior
from ..latents import Latents
from ..training import Player, Step

REQUESTED, FREE = 0.5, 0.9  # cumulative shares of targets 1 and free; the rest are 0
SINGLE = 1 / 3  # share of the requests for one rule
TARGET = 0.99  # probability of a requested rule beyond which there is no gradient
APART = 0.8  # share of the distance of two starts that their moves keep
WHOLE = 1 / 3  # share of the requests for all rules


@dataclass
class RuleGame:
    """The three players, and the starts and requests of moves.

    Arguments:
        actor: Makes the moves.
        critic: Predicts rewards of the actor's rules, and after them what is always held.
        realism: Discriminates `real` from moves; unconditional.
        real: Encodings of data, or samples of the prior.
        prior: Distribution of the starts.
        encodings: Encodings at which half of the moves start, for edits; None for the prior alone.
        realism_weight: Weight of realism, `w`.
        hold_weight: Weight of holding the rewards of free rules and the statistics, `h`.
        distance_weight: Weight of the distance of a move, `lambda`.
        learning_rate: Of the actor, and three times that of the realism critic.
        critic_learning_rate: Of the reward critic.
        prior_density_weight: Weight of keeping the prior density, `t`.
        variety_weight: Weight of keeping two moves with one request apart, `v`.
        smoothing: Standard deviation of noise on the reward critic's inputs, in latent units, so
            that the actor cannot exploit narrow adversarial maxima.
        ema: Decay of the actor's average.
    """

    actor: Actor
    critic: RewardCritic
    realism: RealismCritic
    real: Latents
    prior: Prior
    encodings: Latents | None = None
    realism_weight: float = 0.1
    hold_weight: float = 5.0
    distance_weight: float = 0.2
    learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    prior_density_weight: float = 0.5
    variety_weight: float = 5.0
    smoothing: float = 0.1
    ema: float = 0.99
    given_up: Collection[tuple[int, ...]] = ()
    """Columns of rules that are not requested together; kept up to date from outside."""

    def __post_init__(self) -> None:
        rate = self.learning_rate
        on_rewards = torch.optim.AdamW(self.critic.parameters(), lr=self.critic_learning_rate)
        on_realism = torch.optim.Adam(self.realism.parameters(), lr=rate / 3, betas=(0.0, 0.9))
        on_actor = torch.optim.Adam(self.actor.net.parameters(), lr=rate, betas=(0.9, 0.99))
        # made once: the moments of the optimizers are kept over the rounds
        self.players = [
            Player("rewards", self.critic, self.reward_loss, on_rewards, turns=3),
            Player("realism", self.realism, self.realism_loss, on_realism),
            Player("actor", self.actor, self.actor_loss, on_actor, turns=2, ema=self.ema),
        ]

    def slow_down(self, share: float) -> None:
        """Sets the actor's learning rate to a share of the first one."""
        self.players[-1].optimizer.param_groups[0]["lr"] = share * self.learning_rate

    def starts(self, step: Step) -> Tensor:
        """Starts of moves, `(count, *latent_shape)`."""
        z = prior_starts(self.prior, step)
        if self.encodings is None:
            return z
        data = _draw(self.encodings, step, "encoding")
        chosen = step.uniform(1, purpose="edit") < 0.5
        return torch.where(chosen.view(-1, *[1] * (z.ndim - 1)), data, z)

    def requests(self, step: Step) -> Tensor:
        """Targets, `(count, K)` of 0, 1 and NaN; rows 0 and 1, 2 and 3, ... have the same ones."""
        draw = step.uniform(len(self.actor.names), purpose="asked")
        some = torch.where(draw < REQUESTED, 1.0, torch.where(draw < FREE, torch.nan, 0.0))
        one = torch.full_like(draw, torch.nan).scatter(1, draw.argmin(1, keepdim=True), 1.0)
        kind = step.uniform(1, purpose="whole")
        y = torch.where(kind < WHOLE, 1.0, torch.where(kind < WHOLE + SINGLE, one, some))
        for group in self.given_up:
            asked = (y[:, list(group)] == 1).all(1, keepdim=True)
            members = torch.full_like(draw, 2.0)
            members[:, list(group)] = draw[:, list(group)]
            # the member that is freed varies, since the draws do
            freed = members == members.amin(1, keepdim=True)
            y = torch.where(asked & freed, torch.nan, y)
        return y[::2].repeat_interleave(2, 0)[: len(y)]

    def reward_loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward critic's loss."""
        std = torch.full_like(batch.mean, self.smoothing)
        return self.critic.loss(Latents(batch.mean, std, batch.labels, batch.names), step)

    def realism_loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The realism critic's loss."""
        with torch.no_grad():
            fake = self.actor(self.starts(step), self.requests(step))
        real = _draw(self.real, step, "real")
        return self.realism.loss(real, fake, step.uniform(*real.shape[1:], purpose="alpha"))

    def actor_loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The actor's loss."""
        z, y = self.starts(step), self.requests(step)
        moved = self.actor(z, y)
        blur = self.smoothing * step.normal(*self.actor.latent_shape, purpose="blur")
        kept, mean = self.critic.heads(moved + blur)
        with torch.no_grad():
            before = self.critic.heads(z)[1]
        drift, rules = _divergence(before, mean), y.shape[1]
        kept, mean = kept[:, :rules], mean[:, :rules]
        missed = (torch.sigmoid(kept) - y).abs().nan_to_num().detach()
        goal = cross_entropy(kept, y.clamp(1 - TARGET, TARGET))
        requested = (goal + missed * cross_entropy(mean, y)).sum(1).mean()
        held = (torch.isnan(y) * drift[:, :rules]).sum(1).mean()
        if drift.shape[1] > rules:
            held = held + drift[:, rules:].mean()
        real = F.softplus(-self.realism(moved)).mean()
        far = distance(moved, z, 1.0).mean()
        logs = {"requested": requested, "held": held, "realism": real, "distance": far}
        density = (self._log_prob(moved) - self._log_prob(z)).square().mean() / z[0].numel()
        loss = requested + self.hold_weight * held + self.realism_weight * real
        loss = loss + self.distance_weight * far + self.prior_density_weight * density
        closer = (1 - _gaps(moved) / (APART * _gaps(z)).clamp_min(1e-6)).clamp_min(0)
        closer = 2 * closer.square().sum() / len(z)
        loss = loss + self.variety_weight * closer
        return loss, logs | {"prior_density": density, "variety": closer}

    def _log_prob(self, z: Tensor) -> Tensor:
        """Log-density of the prior, which may be on another device, in nats, `(B,)`."""
        tensors = self.prior.buffers() if isinstance(self.prior, nn.Module) else iter(())
        device = next((tensor.device for tensor in tensors), z.device)
        return self.prior.log_prob(z.to(device)).to(z.device)


def _draw(latents: Latents, step: Step, purpose: str) -> Tensor:
    """Samples of the posteriors of random rows, `(count, *latent_shape)`."""
    rows = latents[step.integers(len(latents), purpose=purpose)].to(step.device)
    return rows.sample(step.normal(*latents.latent_shape, purpose=f"{purpose} noise"))


def _gaps(z: Tensor) -> Tensor:
    """Distances of rows 0 and 1, 2 and 3, ..., `(B // 2,)`."""
    first, second = z[: len(z) // 2 * 2].flatten(1).unflatten(0, (-1, 2)).unbind(1)
    gaps: Tensor = torch.linalg.vector_norm(first - second, dim=1)
    return gaps


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL divergence in nats of two Bernoulli variables, from log-odds `(B, K)`."""
    p = torch.sigmoid(before)
    on = p * (F.logsigmoid(before) - F.logsigmoid(after))
    return on + (1 - p) * (F.logsigmoid(-before) - F.logsigmoid(-after))

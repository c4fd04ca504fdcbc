r"""Edits by a rule that is a Python function: the first small change that keeps the rule.

From the encoding :math:`z_0` of an input, steps of one length :math:`\delta` descend the gradient
of the loss of a `RewardCritic` on the requested rules,

.. math::
    z_{t+1} = z_t - \delta \, \nabla \ell / |\nabla \ell|, \qquad
    \ell = -\sum_k \log p_k(z_t) + \log r_k(z_t)

and after each step the decoded sample is scored by the rules themselves. A sample is done at the
first step at which they are kept: the critic only gives the direction. An input that keeps the
rules is returned unchanged, and samples that were scored before cost no call.

For inputs that fail, a copy of the critic is trained further on all scored latents, which are where
it was wrong, and the descent starts again, from the encoding and from noise around it. What still
fails is searched for without a gradient (`latentctl.rewards.neighbourhood`).

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["RuleEdit", "edit_by_rule"]

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import RewardCritic
from ..decoder import Decoder, read_samples
from ..errors import InputError, UnknownNameError
from ..progress import progress_bar
from ..random import generator
from ..training import train
from .attempts import Attempts
from .neighbourhood import bring_back, search
from .reward_calls import CountedRewards, Rules
from .rounds import known_labels

REFRESH: dict[str, Any] = {  # training of the critic before a restart
    "max_train_steps": 300,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "lr_scheduler": "cosine",
    "progress": False,
}
COPIES = 2  # starts of an input in a restart
SPREAD = 3.0  # length of a restart's noise, in steps


@dataclass(frozen=True)
class RuleEdit:
    """Edited samples with their receipt."""

    x: Tensor
    """The samples, `(B, *sample_shape)`; of an edit that failed, the best that was found."""

    z: Tensor
    """Their latents, `(B, *latent_shape)`; the encoding where the input is returned unchanged."""

    start: Tensor
    """The encodings of the inputs, `(B, *latent_shape)`."""

    rewards: Tensor
    """Rewards of `x`, `(B, K)` in [0, 1]; NaN where one failed."""

    satisfied: Tensor
    """Whether each requested reward is 1, `(B,)` booleans."""

    steps: Tensor
    """Steps of the descent that found each, `(B,)`; 0 for the reconstruction and for a search."""

    found_by: list[str]
    """How each was found: "input" (unchanged), "descent", "restart" or "search"."""

    names: tuple[str, ...]
    """The rules, in the order of the columns."""

    calls: int
    """Samples that were scored."""


@torch.no_grad()
def edit_by_rule(
    decoder: Decoder,
    critic: RewardCritic,
    rewards: Rules,
    x: Any,
    *,
    rules: str | Sequence[str] | None = None,
    steps: int = 80,
    step_length: float = 0.3,
    restarts: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> RuleEdit:
    """Changes inputs step by step, and stops each as soon as the rules are kept.

    Arguments:
        decoder: The decoder, with an encoder; nothing has to be differentiable.
        critic: Predicts the rewards; best fitted on encodings (`encoding_rewards`). It is not
            changed.
        rewards: The rules: one, several in a list or by name, or `CountedRewards`.
        x: Inputs, `(B, *sample_shape)`, or whatever `latentctl.decoder.read_samples` reads.
        rules: Names of the requested ones; all by default.
        steps: Most steps of a descent.
        step_length: Length of a step in latent units.
        restarts: Further descents of inputs that fail, each with a critic that is trained on all
            that was scored; then a search without a gradient. 0 for the first descent alone.
        seed: Decides every random number of the restarts and of the search.
        progress: Show a bar on the main process.

    Raises:
        InputError: If no rule is requested, no step may be made, or a rule fails for most samples.
        UnknownNameError: If the critic or the rewards lack a rule.

    Edits that are not done when the reward calls end are returned as they are.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 4), decode="forward", encode=lambda x: x)
        >>> critic = RewardCritic((4,), ["high"], width=8)
        >>> high = lambda x: (x > 0).float().mean(1)
        >>> edit_by_rule(decoder, critic, {"high": high}, torch.ones(3, 4), steps=2).x.shape
        torch.Size([3, 4])
    """
    rewards = CountedRewards.of(rewards)
    requested = rewards.requested(rules)
    if not requested or steps < 1 or not step_length > 0 or restarts < 0:
        raise InputError(
            "An edit needs at least one rule, one step, a positive step length, and restarts of 0 "
            "or more."
        )
    for name in requested:
        if name not in critic.names:
            raise UnknownNameError("rule", name, critic.names)
    columns = [rewards.names.index(name) for name in requested]
    heads = [critic.names.index(name) for name in requested]
    calls = rewards.calls
    x = read_samples(x, decoder).to(decoder.device)
    critic.to(decoder.device)
    attempts = Attempts(decoder, rewards, columns, x, decoder.encode(x).mean)
    attempts.score_inputs()
    descent = Descent(attempts, heads, steps, step_length, progress)
    rows = attempts.failing
    descent(critic, rows, attempts.start[rows], "descent")
    for number in range(restarts):
        rows = attempts.failing.repeat_interleave(COPIES)
        if not len(rows):
            break
        critic = _refreshed(critic, attempts, seed + number)
        length = (number + 1) * SPREAD * step_length
        draw = generator(seed, number, purpose="restart")
        descent(critic, rows, _around(attempts.start[rows], length, draw), "restart")
    if restarts and len(attempts.failing):
        search(attempts, _refreshed(critic, attempts, seed + restarts), heads, step_length, seed)
    bring_back(attempts, seed)
    return RuleEdit(
        x=attempts.x,
        z=attempts.z,
        start=attempts.start,
        rewards=attempts.rewards,
        satisfied=attempts.satisfied,
        steps=attempts.steps,
        found_by=attempts.found_by,
        names=rewards.names,
        calls=rewards.calls - calls,
    )


@dataclass(frozen=True)
class Descent:
    """Descents of the critic's loss until the rules are kept."""

    attempts: Attempts
    heads: list[int]
    steps: int
    length: float
    progress: bool

    def __call__(self, critic: RewardCritic, rows: Tensor, z: Tensor, name: str) -> None:
        """From latents `z (n, *latent_shape)` for the inputs `rows`, which may repeat."""
        z = z.clone()
        active = torch.arange(len(rows))
        with progress_bar(self.steps, "Edit", "step", progress=self.progress) as bar:
            for step in range(self.steps + 1):
                if not len(active) or self.attempts.ended:
                    break
                if step:
                    unit = _direction(critic, z[active], self.heads)
                    z[active] -= self.length * unit
                    bar.update()
                kept = self.attempts.score(rows[active], z[active], name, step)
                active = active[: len(kept)]
                # where one of several starts has led to the rules the others are done, too
                active = active[~self.attempts.satisfied[rows[active]]]


def _around(start: Tensor, length: float, draw: torch.Generator) -> Tensor:
    """The first of `COPIES` rows as it is, and the others with noise of a length."""
    noise = torch.randn(start.shape, generator=draw).to(start)
    noise[::COPIES] = 0
    size: float = length / math.sqrt(start[0].numel())
    return start + size * noise


@torch.enable_grad()
def _refreshed(critic: RewardCritic, attempts: Attempts, seed: int) -> RewardCritic:
    """A copy of the critic, trained further on all that was scored."""
    critic, latents = copy.deepcopy(critic), attempts.scored()
    rewards = dict(zip(latents.names, known_labels(latents).unbind(1), strict=True))
    unknown = torch.full((len(latents),), torch.nan)
    labels = torch.stack([rewards.get(name, unknown) for name in critic.names], 1)
    latents = latents.with_labels(labels, critic.names)
    train(critic, critic.loss, latents, name="rewards", seed=seed, **REFRESH)
    return critic


def _direction(critic: RewardCritic, z: Tensor, columns: list[int]) -> Tensor:
    """The unit gradient of the loss of each latent."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        kept, mean = critic.heads(z)
        loss = (F.softplus(-kept) + F.softplus(-mean))[:, columns].sum()
        (gradient,) = torch.autograd.grad(loss, z)
    length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
    unit: Tensor = gradient / length.view(-1, *[1] * (z.ndim - 1))
    return unit

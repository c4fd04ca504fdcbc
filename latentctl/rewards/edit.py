r"""Edits by a rule that is a Python function: the first small change that keeps the rule.

From the encoding :math:`z_0` of an input, steps of one length :math:`\delta` descend the gradient
of the loss of a `RewardCritic` on the requested rules,

.. math::
    z_{t+1} = z_t - \delta \, \nabla \ell / |\nabla \ell|, \qquad
    \ell = -\sum_k \log p_k(z_t) + \log r_k(z_t)

and after each step the decoded sample is scored by the rules themselves. A sample is done at the
first step at which they are kept: the critic only gives the direction. An input that keeps the
rules is returned unchanged, and samples that were scored before cost no call.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["RuleEdit", "edit_by_rule"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import RewardCritic
from ..decoder import Decoder, read_samples
from ..errors import BudgetError, InputError, UnknownNameError
from ..progress import progress_bar
from .reward_calls import CountedRewards, Rules


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
    """Steps of each, `(B,)` integers; 0 if the reconstruction already keeps the rules."""

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
    progress: bool = True,
) -> RuleEdit:
    """Changes inputs step by step, and stops each as soon as the rules are kept.

    Arguments:
        decoder: The decoder, with an encoder; nothing has to be differentiable.
        critic: Predicts the rewards; best fitted on encodings (`encoding_rewards`).
        rewards: The rules: one, several in a list or by name, or `CountedRewards`.
        x: Inputs, `(B, *sample_shape)`, or whatever `latentctl.decoder.read_samples` reads.
        rules: Names of the requested ones; all by default.
        steps: Most steps of a sample.
        step_length: Length of a step in latent units.
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
    requested = (
        [rules] if isinstance(rules, str) else list(rewards.names if rules is None else rules)
    )
    if not requested or steps < 1 or not step_length > 0:
        raise InputError("An edit needs at least one rule, one step, and a positive step length.")
    for name in requested:
        for known in (rewards.names, critic.names):
            if name not in known:
                raise UnknownNameError("rule", name, known)
    columns = [rewards.names.index(name) for name in requested]
    heads = [critic.names.index(name) for name in requested]
    calls = rewards.calls
    x = read_samples(x, decoder).to(decoder.device)
    critic.to(decoder.device)
    start = decoder.encode(x).mean
    best, best_z = x.clone(), start.clone()
    found = torch.full((len(x), len(rewards.names)), torch.nan)
    taken = torch.zeros(len(x), dtype=torch.long)
    active, z, tried = torch.arange(len(x)), start.clone(), x
    with progress_bar(steps, "Edit", "step", progress=progress) as bar:
        for step in range(-1, steps + 1):
            try:
                scores = rewards(tried)
            except BudgetError as error:
                scores = error.found
                active = active[: len(scores)]
            if not len(active):
                break
            # where a reward failed the sum is NaN, which counts as worse than any
            total, old = (part[:, columns].sum(1) for part in (scores, found[active]))
            better = total.nan_to_num(-1) > old.nan_to_num(-1)
            rows = active[better]
            best[rows], best_z[rows] = tried[: len(active)][better], z[rows]
            found[rows], taken[rows] = scores[better], max(step, 0)
            active = active[~(scores[:, columns] == 1).all(1)]
            if not len(active) or step == steps:
                break
            if step >= 0:
                z[active] -= step_length * _direction(critic, z[active], heads)
                bar.update()
            tried = decoder.decode(z[active])
    return RuleEdit(
        x=best,
        z=best_z,
        start=start,
        rewards=found,
        satisfied=(found[:, columns] == 1).all(1),
        steps=taken,
        names=rewards.names,
        calls=rewards.calls - calls,
    )


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

"""Targets `(B, K)` in [0, 1], NaN = free, as networks and losses take them."""

from __future__ import annotations

__all__ = ["free_some", "origins", "round_targets", "target_context"]

from collections.abc import Sequence

import torch
from torch import Tensor

from ..decoder import Prior
from ..nn.trunk import encode_targets
from ..training import Step


def round_targets(y: Tensor) -> Tensor:
    """Fractional targets as the nearer of 0 and 1; free ones stay free."""
    return torch.where(torch.isnan(y), y, y.round())


def target_context(z: Tensor, y: Tensor | None, names: Sequence[str]) -> Tensor | None:
    """What a network conditioned on `names` is told, `(B, 2K)`; all is free if `y` is None."""
    if not names:
        return None
    if y is None:
        y = torch.full((1, len(names)), torch.nan)
    return encode_targets(round_targets(y.to(z.device)).expand(len(z), -1))


def free_some(labels: Tensor | None, step: Step, share: float) -> Tensor | None:
    """Labels as targets, in a `share` of the rows partly freed, in a third of these wholly."""
    if labels is None:
        return None
    partly = step.uniform(1, purpose="partly free") < share
    kept_share = 1.5 * step.uniform(1, purpose="kept") - 0.5
    kept = step.uniform(labels.shape[1], purpose="free") < kept_share
    return torch.where(partly & ~kept, torch.nan, labels)


def origins(prior: Prior, step: Step) -> Tensor:
    """Where the moves of a training step start, `(count, *latent_shape)`."""
    # ~seed: the noise of training is never the noise that a user samples with
    first = step.index * step.total + step.start
    return prior.sample(step.count, seed=~step.seed, start=first).to(step.device)

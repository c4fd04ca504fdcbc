"""The record of an exploration: true rewards of moves, and warnings."""

from __future__ import annotations

__all__ = ["Round", "all_kept", "known_labels", "means", "prior_round", "warn_of_mismatch"]

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..critics.reward import satisfied
from ..latents import Latents
from .reward_calls import CountedRewards

logger = logging.getLogger(__name__)

MISMATCH = 0.1  # difference of predicted and true share that is warned of


@dataclass(frozen=True)
class Round:
    """Rewards of the moves of one round, from fresh starts."""

    number: int
    """0 for the prior itself."""

    calls: int
    """Reward calls so far."""

    reward: dict[str, float]
    """Mean reward of each rule over the moves that requested it; over all samples for the prior."""

    satisfied: dict[str, float]
    """Share of these with a reward of exactly 1."""

    expected: dict[str, float]
    """The critic's mean probability of that, before it was trained on them; NaN for the prior."""

    all_satisfied: float
    """Share that keeps all rules, over the moves that requested all."""

    realism: float
    """Mean probability by the realism critic; NaN for the prior."""

    distinct: float
    """Share of samples that were not scored before, in this round or an earlier one."""

    shift: float
    """Root mean square move of a latent dimension."""


def prior_round(latents: Latents, rewards: CountedRewards, before: int) -> Round:
    """Rewards of the prior; warns of each rule that no sample keeps."""
    found = known_labels(latents)
    everything = torch.ones_like(found, dtype=torch.bool)
    for name, column in zip(latents.names, found.unbind(1), strict=True):
        known = column[~torch.isnan(column)]
        if bool((known < 1).all()):
            reason = (
                "All have the same reward, so it has no gradient: let it rise on the way to 1"
                if bool((known == known[0]).all())
                else "Only its mean reward guides the search. If no round keeps the rule, let the "
                "reward rise more evenly, request less, or score more samples of the prior"
            )
            logger.warning(
                "No sample of the prior keeps %r: of %d the best has %.3g, the mean is %.3g. %s.",
                name,
                len(known),
                known.max(),
                known.mean(),
                reason,
            )
    kept = satisfied(found)
    return Round(
        number=0,
        calls=rewards.calls,
        reward=means(latents.names, found, everything),
        satisfied=means(latents.names, kept, everything),
        expected=dict.fromkeys(latents.names, math.nan),
        all_satisfied=all_kept(kept),
        realism=math.nan,
        distinct=(rewards.calls - before) / len(latents),
        shift=0.0,
    )


def warn_of_mismatch(line: Round) -> None:
    """Warns where the critic predicts what the rewards do not confirm."""
    for name, expected in line.expected.items():
        true = line.satisfied[name]
        if abs(expected - true) > MISMATCH:
            logger.warning(
                "In round %d the critic predicts that %.3f of the moves keep %r, and %.3f do (mean "
                "reward %.3f). Its probabilities are unreliable there. Use more rounds, or more "
                "moves in a round.",
                line.number,
                expected,
                name,
                true,
                line.reward[name],
            )


def known_labels(latents: Latents) -> Tensor:
    return torch.empty(len(latents), 0) if latents.labels is None else latents.labels


def means(names: Sequence[str], values: Tensor, where: Tensor) -> dict[str, float]:
    """Mean of the known values of each column, by name; NaN where there are none."""
    values = torch.where(where, values, torch.nan)
    return dict(zip(names, values.nanmean(0).tolist(), strict=True))


def all_kept(kept: Tensor) -> float:
    return float((kept == 1).all(1).float().mean())

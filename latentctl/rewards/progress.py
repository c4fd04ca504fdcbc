"""The record of an exploration: what moves came to by the true rewards, and what is told aloud."""

from __future__ import annotations

__all__ = ["Round", "all_kept", "known_labels", "means", "prior_round", "warn_of_parting"]

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

PARTING = 0.1  # of the critic's expectation from the truth, worth a warning


@dataclass(frozen=True)
class Round:
    """What the moves of one round from fresh starts came to."""

    number: int
    """0 for the prior itself."""

    calls: int
    """Calls of the rewards until now."""

    reward: dict[str, float]
    """Mean reward by each rule where it was asked for; of the prior, of all."""

    satisfied: dict[str, float]
    """Share with a reward of exactly 1 there."""

    expected: dict[str, float]
    """The critic's mean probability of that, before it learned from them; NaN of the prior."""

    all_satisfied: float
    """Share that keep all rules where all were asked for."""

    realism: float
    """Mean probability by the realism critic; NaN of the prior."""

    distinct: float
    """Share of samples whose content was not seen before, in this round or an earlier one."""

    shift: float
    """Root mean square move of a latent dimension."""


def prior_round(latents: Latents, rewards: CountedRewards, before: int) -> Round:
    """What the prior came to; a warning of each rule that it never keeps."""
    found = known_labels(latents)
    everything = torch.ones_like(found, dtype=torch.bool)
    for name, column in zip(latents.names, found.unbind(1), strict=True):
        known = column[~torch.isnan(column)]
        if bool((known < 1).all()):
            reason = (
                "All get the same reward, so there is nothing to climb: let it rise on the way"
                if bool((known == known[0]).all())
                else "Such a rule is climbed by its mean reward alone. If no round keeps it, let "
                "the reward rise more evenly, ask for less, or score more samples of the prior"
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


def warn_of_parting(line: Round) -> None:
    """Says where the critic expects what the rewards do not confirm."""
    for name, expected in line.expected.items():
        true = line.satisfied[name]
        if abs(expected - true) > PARTING:
            logger.warning(
                "In round %d the critic expects %.3f of the moves to keep %r, the reward says %.3f "
                "(mean reward %.3f). Do not trust its probabilities there; more rounds bring them "
                "together, or more moves in a round.",
                line.number,
                expected,
                name,
                true,
                line.reward[name],
            )


def known_labels(latents: Latents) -> Tensor:
    return torch.empty(len(latents), 0) if latents.labels is None else latents.labels


def means(names: Sequence[str], values: Tensor, where: Tensor) -> dict[str, float]:
    """Mean of what is known in each column, by name; NaN where there is nothing."""
    values = torch.where(where, values, torch.nan)
    return dict(zip(names, values.nanmean(0).tolist(), strict=True))


def all_kept(kept: Tensor) -> float:
    return float((kept == 1).all(1).float().mean())

"""The record of an exploration: true rewards of moves, and warnings."""

from __future__ import annotations

__all__ = [
    "Round",
    "all_kept",
    "difference",
    "known_labels",
    "means",
    "prior_round",
    "spread",
    "warn",
]

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
FEW_DISTINCT, LITTLE_VARIETY = 0.9, 0.7  # below which a collapse is warned of


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

    kept: float
    """Share of the moves that keep all rules that they requested; NaN for the prior."""

    realism: float
    """Mean probability by the realism critic; NaN for the prior."""

    distinct: float
    """Share of different samples in the round."""

    variety: float
    """Difference of two samples of one request over that of two samples of the prior."""

    shift: float
    """Root mean square move of a latent dimension."""

    @property
    def score(self) -> float:
        """What the best round is chosen by: `kept`, times `distinct`, times `variety` up to 1."""
        kept = 0.0 if math.isnan(self.kept) else self.kept
        return kept * self.distinct * min(self.variety, 1.0)


def prior_round(latents: Latents, rewards: CountedRewards, before: int) -> Round:
    """Rewards of the prior; warns of each rule that no sample keeps."""
    found = known_labels(latents)
    everything = torch.ones_like(found, dtype=torch.bool)
    for name, column in zip(latents.names, found.unbind(1), strict=True):
        known = column[~torch.isnan(column)]
        if bool((known < 1).all()) and not bool((known == known[0]).all()):
            logger.warning(
                "No sample of the prior keeps %r: of %d the best has %.3g, the mean is %.3g. Only "
                "its mean reward guides the search. If no round keeps the rule, let the reward "
                "rise more evenly, request less, or score more samples of the prior.",
                name,
                len(known),
                known.max(),
                known.mean(),
            )
    kept = satisfied(found)
    return Round(
        number=0,
        calls=rewards.calls,
        reward=means(latents.names, found, everything),
        satisfied=means(latents.names, kept, everything),
        expected=dict.fromkeys(latents.names, math.nan),
        all_satisfied=all_kept(kept),
        kept=math.nan,
        realism=math.nan,
        distinct=(rewards.calls - before) / len(latents),
        variety=1.0,
        shift=0.0,
    )


def warn(line: Round) -> None:
    """Warns of a collapse, and where the critic predicts what the rewards do not confirm."""
    if line.distinct < FEW_DISTINCT or line.variety < LITTLE_VARIETY:
        logger.warning(
            "The moves of round %d are alike: %.3f of their samples differ, and two of one "
            "request differ %.2f times as much as two of the prior. Raise variety_weight, request "
            "less, or use more rounds.",
            line.number,
            line.distinct,
            line.variety,
        )
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


def difference(x: Tensor, other: Tensor) -> Tensor:
    """Difference of each two samples: of tokens the share that differs, else RMS, `(B,)`."""
    x, other = x.flatten(1), other.flatten(1)
    if not x.is_floating_point():
        return (x != other).float().mean(1)
    return (x - other).float().square().mean(1).sqrt()


def spread(x: Tensor) -> float:
    """Mean difference of samples 0 and 1, 2 and 3, ...; 0 for one sample."""
    return difference(x[: len(x) // 2 * 2 : 2], x[1::2]).sum().item() / max(len(x) // 2, 1)


def all_kept(kept: Tensor) -> float:
    return float((kept == 1).all(1).float().mean())

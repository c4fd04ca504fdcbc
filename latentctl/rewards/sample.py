r"""Samples that keep rules, by calls of the rules alone: nothing is trained.

They have the distribution of the prior given the rules,

.. math:: z \sim p(z \mid c) \propto p(z) \prod_k \, [c_k(g(z)) = 1]

First the prior is sampled, and what keeps the rules is taken: these samples are independent. Where
too few do, chains take over (`latentctl.rewards.chains`). All that they return keeps the rules,
too, but is correlated with the few samples that it comes from.

An `Actor` of `explore` needs one evaluation a sample and no rule, but some of its samples fail, and
they vary less.
"""

from __future__ import annotations

__all__ = ["RuleSamples", "sample_by_rule"]

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..decoder import Decoder, Prior
from ..display import Described, Display, grid, png
from ..errors import InputError
from ..progress import progress_bar
from .chains import BATCH, Base, Chains, Found, Scorer
from .reward_calls import CountedRewards, Rules

logger = logging.getLogger(__name__)

CHAINS = 400  # at least, since a level needs many
DRAWN = 6  # samples of the prior for each chain, before chains are considered
SWEEPS = 4  # between two levels
PACED = 6  # last levels; where their pace does not lead to the rules in time, these are given up
RENEWED = 0.5  # correlation at which chains may end
DIFFERENT = 0.99  # share of different samples at which chains may end
ALIKE = 0.95  # share of different samples below which there is a warning


@dataclass(frozen=True, repr=False)
class RuleSamples(Described):
    """Samples with their receipt."""

    x: Tensor
    """The samples, `(n, *sample_shape)`, different ones first; the best ones where nothing keeps
    the rules, and fewer where the calls end."""

    z: Tensor
    """Their latents, `(n, *latent_shape)`."""

    rewards: Tensor
    """Rewards of `x`, `(n, K)` in [0, 1]; NaN where one failed."""

    satisfied: Tensor
    """Whether each requested reward is 1, `(n,)` booleans."""

    distinct: float
    """Share of different samples."""

    correlation: float
    """Mean correlation of a latent with the one that its chain started from; 0 without chains."""

    share: float
    """Share of the samples of the prior that keep the rules."""

    calls: int
    """Samples that were scored."""

    names: tuple[str, ...]
    """The rules, in the order of the columns."""

    given_up: str
    """Why nothing keeps the rules, in a sentence; empty if something does."""

    display: Display = field(default_factory=Display)
    """Draws the samples."""

    def facts(self) -> dict[str, Any]:
        """What is shown of it."""
        return {
            "samples": len(self.x),
            "keep the rules": f"{float(self.satisfied.float().mean()):.3f}",
            "distinct": f"{self.distinct:.3f}",
            "correlation": f"{self.correlation:.2f}" if self.correlation else None,
            "of the prior": f"{self.share:.3g} keep them",
            "calls": self.calls,
            "given up": self.given_up or None,
        }

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Writes the samples as one PNG image, and makes its folder where needed.

        Arguments:
            path: The file.
            columns: Samples in a row; as near to a square as it gets if not given.

        Raises:
            InputError: If the samples cannot be shown as pictures.
        """
        path = Path(path)
        picture = png(grid(self.display(self.x), columns=columns))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        return path


@torch.no_grad()
def sample_by_rule(
    decoder: Decoder,
    rewards: Rules,
    n: int,
    *,
    rules: str | Sequence[str] | None = None,
    evaluations: int = 100,
    prior: Prior | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RuleSamples:
    """Samples of the prior, given that rules are kept.

    Arguments:
        decoder: The decoder; nothing has to be differentiable.
        rewards: The rules: one, several in a list or by name, or `CountedRewards`.
        n: Number of samples.
        rules: Names of the requested ones; all by default.
        evaluations: Most latents to decode and score for each sample, or for each of 400.
        prior: Distribution of the latents, the decoder's prior by default.
        seed: Decides every random number.
        progress: Show a bar on the main process.

    Raises:
        InputError: If no rule or no sample is requested, a rule fails for most samples, or none
            could be scored.
        UnknownNameError: If there is no rule of a requested name.

    A rule that rises gradually leads to samples that keep it. One that is all or nothing has to be
    kept by some sample of the prior.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> found = sample_by_rule(decoder, {"even": lambda x: (x.std(1) < 0.8).float()}, 8)
        >>> found.x.shape, bool(found.satisfied.all())
        (torch.Size([8, 12]), True)
    """
    counted = CountedRewards.of(rewards)
    requested = counted.requested(rules)
    if not requested or n < 1 or evaluations <= DRAWN:
        raise InputError(
            f"Sampling needs at least one rule, one sample, and {DRAWN + 1} evaluations; found "
            f"{len(requested)}, {n} and {evaluations}."
        )
    prior = decoder.prior if prior is None else prior
    columns = [counted.names.index(name) for name in requested]
    scorer = Scorer(decoder, Base(prior, seed=seed), counted, columns)
    before, count = counted.calls, max(n, CHAINS)
    with progress_bar(count * evaluations, "Search", "sample", progress=progress) as bar:
        found, drawn, share = _drawn(scorer, n, count, evaluations, seed, bar)
        correlation = 0.0
        if int(found.kept.sum()) < n and not scorer.ended:
            chains = Chains(scorer, found, count, seed=seed)
            _walk(chains, count * evaluations - drawn, bar)
            found = Found.together([chains.found, chains.earlier])
            correlation = chains.correlation.mean().item()
    if not len(found):
        raise InputError(f"No sample could be scored: the {counted.max_calls} calls had ended.")
    found = _different_first(found)[:n]
    receipt = RuleSamples(
        x=found.x,
        z=found.z,
        rewards=found.rewards,
        satisfied=found.kept,
        distinct=found.different().float().mean().item(),
        correlation=correlation,
        share=share,
        calls=counted.calls - before,
        names=counted.names,
        given_up=_reason(requested, found, counted.calls - before),
        display=decoder.display,
    )
    _warn(receipt)
    return receipt


def _drawn(
    scorer: Scorer, n: int, count: int, evaluations: int, seed: int, bar: Any
) -> tuple[Found, int, float]:
    """The best `count` samples of the prior, the number drawn, and the share that keeps the rules.

    They are drawn until `n` keep the rules, as long as that is within reach.
    """
    best, drawn, kept = list[Found](), 0, 0
    while kept < n and drawn < count * evaluations and not scorer.ended:
        if drawn >= count * DRAWN and kept * count * evaluations < n * drawn:
            break
        part = scorer(scorer.base.sample(BATCH, seed=seed, start=drawn))
        best = [Found.together([*best, part]).best(count)]
        drawn, kept = drawn + len(part), kept + int(part.kept.sum())
        bar.update(len(part))
    return best[0], drawn, kept / max(drawn, 1)


def _walk(chains: Chains, evaluations: int, bar: Any) -> None:
    """Lets the chains rise to the rules and walk on, until they are renewed or it is of no use."""
    count, levels = len(chains.found), [chains.level]
    sweeps = evaluations // count
    for number in range(1, sweeps + 1):
        if chains.scorer.ended or (chains.level >= 1 and _renewed(chains)):
            return
        chains.sweep()
        bar.update(count)
        if chains.level < 1 and number % SWEEPS == 0:
            chains.rise()
            levels.append(chains.level)
            pace = (levels[-1] - levels[-1 - PACED]) / PACED if len(levels) > PACED else 1.0
            if chains.level + pace * (sweeps - number) / SWEEPS < 1:
                return


def _renewed(chains: Chains) -> bool:
    """Whether the chains differ, and have left the latents that they started from."""
    if chains.correlation.mean() > RENEWED:
        return False
    return bool(chains.found.different().float().mean() >= DIFFERENT)


def _different_first(found: Found) -> Found:
    """What keeps the rules first, and of that different samples first."""
    order = found.value.argsort(descending=True, stable=True)
    found = found[order]
    return found[(found.kept & found.different()).int().argsort(descending=True, stable=True)]


def _reason(requested: Sequence[str], found: Found, calls: int) -> str:
    if bool(found.kept.any()):
        return ""
    rules = " and ".join(repr(name) for name in requested)
    return (
        f"None of {calls} samples keeps {rules}: the best has a mean reward of "
        f"{found.value.max():.3g}. Request less, let the rewards rise more evenly, or raise "
        f"evaluations."
    )


def _warn(receipt: RuleSamples) -> None:
    if receipt.given_up:
        logger.warning("%s", receipt.given_up)
    elif not bool(receipt.satisfied.all()):
        logger.warning(
            "%d of %d samples keep the rules. Raise evaluations, or request less.",
            int(receipt.satisfied.sum()),
            len(receipt.satisfied),
        )
    elif receipt.distinct < ALIKE:
        logger.warning(
            "%.3f of the samples differ: they come from few samples of the prior. Raise "
            "evaluations, or request fewer samples.",
            receipt.distinct,
        )

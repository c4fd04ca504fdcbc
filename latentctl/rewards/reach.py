"""Which rules can be kept, alone, in pairs and all together, as far as the rounds show."""

from __future__ import annotations

__all__ = ["Reach"]

import itertools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PATIENCE = 5  # rounds without a rise after which rules that were never kept are given up
RISE = 0.005  # of the mean reward that counts as one
FEW = 20  # moves of a round that say nothing about a request
KEPT = 0.5  # share of moves from which a rule counts as one that can be kept alone


class Reach:
    """Watches the rewards of the rounds, and gives up what no sample keeps.

    A rule is given up if no sample keeps it and its mean reward no longer rises; at once if its
    rewards are all the same. Two rules, or all together, are given up if each is kept alone and no
    sample keeps them at once.

    Arguments:
        names: The rules.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        every = range(len(names))
        groups: list[tuple[int, ...]] = [(k,) for k in every]
        groups += itertools.combinations(every, 2)
        if len(names) > 2:
            groups.append(tuple(every))
        self.given_up: dict[tuple[int, ...], str] = {}
        """Columns of rules that are no longer requested together, with the reason."""
        self._rewards: dict[tuple[int, ...], list[float]] = {group: [] for group in groups}
        self._alone = [0.0] * len(names)
        self._scored = 0

    @property
    def reasons(self) -> dict[tuple[str, ...], str]:
        """What is given up, by the names of the rules."""
        return {tuple(self.names[k] for k in group): why for group, why in self.given_up.items()}

    @property
    def nothing_left(self) -> bool:
        """Whether each rule is given up by itself."""
        return all((k,) in self.given_up for k in range(len(self.names)))

    def see_prior(self, rewards: Tensor) -> None:
        """Takes the rewards `(n, K)` of samples of the prior."""
        self._scored += len(rewards)
        self._drop_kept(rewards)
        for k, column in enumerate(rewards.unbind(1)):
            known = column[~torch.isnan(column)]
            if len(known) and bool((known == known[0]).all()) and bool(known[0] < 1):
                self._give_up(
                    (k,),
                    f"All {len(known)} samples of the prior have the same reward by "
                    f"{self.names[k]!r}, {known[0]:.3g}: it has no gradient, and is given up. Let "
                    f"it rise on the way to 1, or score more samples of the prior.",
                )

    def see_round(self, rewards: Tensor, requested: Tensor) -> None:
        """Takes the rewards and what was requested of the moves of a round, both `(n, K)`."""
        self._scored += len(rewards)
        self._drop_kept(rewards)
        for k in range(len(self.names)):
            mine = requested[:, k]
            if mine.sum() >= FEW:
                single = mine & (requested.sum(1) == 1)
                mine = single if single.sum() >= FEW else mine
                self._alone[k] = (rewards[mine, k] == 1).float().mean().item()
        for group, means in list(self._rewards.items()):
            asked = requested[:, group].all(1)
            if group in self.given_up or asked.sum() < FEW:
                continue
            least = rewards[asked][:, group].min(1).values
            means.append(least.nanmean().item())
            past, recent = means[:-PATIENCE], means[-PATIENCE:]
            if past and max(recent) <= max(past) + RISE and self._each_is_kept(group):
                self._give_up(group, self._reason(group, max(means)))

    def _drop_kept(self, rewards: Tensor) -> None:
        """Forgets the groups that a sample keeps: they are within reach."""
        kept = rewards == 1
        for group in list(self._rewards):
            if bool(kept[:, group].all(1).any()):
                del self._rewards[group]

    def _each_is_kept(self, group: tuple[int, ...]) -> bool:
        return len(group) == 1 or all(self._alone[k] >= KEPT for k in group)

    def _reason(self, group: tuple[int, ...], mean: float) -> str:
        if len(group) == 1:
            return (
                f"None of {self._scored} samples keeps {self.names[group[0]]!r}, and its mean "
                f"reward no longer rises above {mean:.3g}: it is given up as impossible for this "
                f"decoder. Request less."
            )
        rules = " and ".join(repr(self.names[k]) for k in group)
        shares = " and ".join(f"{self._alone[k]:.2f}" for k in group)
        return (
            f"{rules} are kept by {shares} of the moves that request one of them, but none of "
            f"{self._scored} samples keeps them at once: they contradict each other, and are no "
            f"longer requested together."
        )

    def _give_up(self, group: tuple[int, ...], reason: str) -> None:
        self.given_up[group] = reason
        logger.warning("%s", reason)

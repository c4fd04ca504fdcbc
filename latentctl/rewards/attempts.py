"""What was tried for each input of an edit by rule: the best of it, and all scored latents."""

from __future__ import annotations

__all__ = ["Attempts"]

from collections.abc import Sequence

import torch
from torch import Tensor

from ..decoder import Decoder
from ..errors import BudgetError
from ..latents import Latents
from .reward_calls import CountedRewards
from .rounds import difference


class Attempts:
    """The best sample of each input so far.

    A sample that keeps the rules is better than one that does not. Of two that keep them the one
    that differs less from the input is better, of two that do not the one of higher total reward.

    Arguments:
        decoder: The decoder.
        rewards: The rules.
        columns: Those that are requested.
        x: Inputs, `(B, *sample_shape)`.
        start: Their encodings, `(B, *latent_shape)`.
    """

    def __init__(
        self,
        decoder: Decoder,
        rewards: CountedRewards,
        columns: Sequence[int],
        x: Tensor,
        start: Tensor,
    ) -> None:
        self.decoder, self.counted, self.columns = decoder, rewards, list(columns)
        self.inputs, self.start = x, start
        self.x, self.z = x.clone(), start.clone()
        self.rewards = torch.full((len(x), len(rewards.names)), torch.nan)
        self.steps = torch.zeros(len(x), dtype=torch.long)
        self.found_by = ["input"] * len(x)
        self.ended = False
        """Whether the reward calls have ended."""
        self._keys = torch.full((len(x),), -torch.inf)
        self._latents: list[Tensor] = []
        self._labels: list[Tensor] = []

    @property
    def satisfied(self) -> Tensor:
        """Whether each input has a sample that keeps the requested rules, `(B,)`."""
        return self._keep(self.rewards)

    @property
    def failing(self) -> Tensor:
        """Rows without one; none where the calls have ended."""
        none = torch.empty(0, dtype=torch.long)
        return none if self.ended else (~self.satisfied).nonzero().flatten()

    def score_inputs(self) -> None:
        """Scores the inputs themselves."""
        self._take(torch.arange(len(self.x)), self.start, self.inputs, "input", 0)

    def score(self, rows: Tensor, z: Tensor, found_by: str, step: int = 0) -> Tensor:
        """Scores latents `z (n, *latent_shape)` for the inputs `rows (n,)`, in any number each.

        Returns:
            Whether each keeps the rules, `(n,)`; shorter where the calls end.
        """
        return self._take(rows, z, self.decoder.decode(z), found_by, step)

    def scored(self) -> Latents:
        """All latents that were scored, with their rewards."""
        return Latents(
            torch.cat(self._latents), labels=torch.cat(self._labels), names=self.counted.names
        )

    def keepers(self) -> Tensor:
        """Scored latents that keep the rules, `(N, *latent_shape)`."""
        kept = [self._keep(labels) for labels in self._labels]
        return torch.cat([z[rows] for z, rows in zip(self._latents, kept, strict=True)])

    def _keep(self, rewards: Tensor) -> Tensor:
        return (rewards[:, self.columns] == 1).all(1)

    def _take(self, rows: Tensor, z: Tensor, x: Tensor, found_by: str, step: int) -> Tensor:
        try:
            scores = self.counted(x)
        except BudgetError as error:
            scores, self.ended = error.found, True
        rows, z, x = rows[: len(scores)], z[: len(scores)], x[: len(scores)]
        if found_by != "input":
            self._latents.append(z.cpu())
            self._labels.append(scores)
        kept = self._keep(scores)
        # where a reward failed the sum is NaN, which counts as worse than any
        total = scores[:, self.columns].sum(1).nan_to_num(-1)
        far = difference(x, self.inputs[rows.to(x.device)]).cpu()
        keys = torch.where(kept, len(self.columns) + 1 / (1 + far), total)
        best = self._keys.scatter_reduce(0, rows, keys, "amax")
        wins = ((keys == best[rows]) & (keys > self._keys[rows])).nonzero().flatten()
        # one candidate an input, where several are equally good
        place = torch.full_like(self.steps, -1).scatter_reduce(0, rows[wins], wins, "amax")
        better = (place >= 0).nonzero().flatten()
        chosen = place[better]
        self._keys, self.rewards[better] = best, scores[chosen]
        self.x[better], self.z[better] = x[chosen], z[chosen]
        self.steps[better] = step
        for row in better.tolist():
            self.found_by[row] = found_by
        return kept

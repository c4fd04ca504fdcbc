r"""Markov chains over latents that keep a rule, for rules that few samples of the prior keep.

A proposal preserves the normal distribution :math:`q = \mathcal{N}(\mu, \sigma^2)` of latents,

.. math:: z' = \mu + \sqrt{1 - \beta^2} \, (z - \mu) + \beta \, \sigma \xi, \quad
          \xi \sim \mathcal{N}(0, I)

and is accepted if its rewards reach a level, with the probability
:math:`\min(1, p(z') q(z) / (p(z) q(z')))`, which is 1 where the prior `p` is `q` itself. So the
chains have the distribution :math:`p(z)`, restricted to that level, in any number of dimensions
(preconditioned Crank-Nicolson). Levels rise to the rule: each is what the best half of the
chains reaches, and copies of these replace the others (subset simulation).

References:
    | MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster
    | (Cotter et al., 2013) https://arxiv.org/abs/1202.0709
    | Estimation of small failure probabilities in high dimensions by subset simulation
    | (Au & Beck, 2001) https://doi.org/10.1016/S0266-8920(01)00019-4
"""

from __future__ import annotations

__all__ = ["Chains", "Found", "Scorer"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoder import Decoder, Gaussian, Prior
from ..errors import BudgetError
from ..latents import Latents
from ..random import generator
from .reward_calls import CountedRewards, content_key

BATCH = 256  # latents that are decoded and scored together
SURVIVORS = 0.5  # share of the chains that a level keeps; with fewer, few lineages are left
ACCEPTED = 0.15  # share of the proposals that is aimed at; rarer, longer moves renew faster
FIRST = 0.5  # length of the first proposals
LENGTHS = 0.7  # standard deviation of the logarithm of a proposal's length
MOMENTS = 1024  # samples of a prior that is not Gaussian, for its mean and variance


@dataclass(frozen=True)
class Found:
    """Latents that were scored, and their samples; all on the CPU."""

    z: Tensor
    """`(B, *latent_shape)`"""
    x: Tensor
    """`(B, *sample_shape)`"""
    rewards: Tensor
    """`(B, K)`, NaN where a rule failed"""
    value: Tensor
    """`(B,)`, the mean of the requested rewards; 1 if all are kept, -1 where one failed"""

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: Tensor | slice) -> Found:
        return Found(self.z[rows], self.x[rows], self.rewards[rows], self.value[rows])

    @property
    def kept(self) -> Tensor:
        """Whether all requested rules are kept, `(B,)` booleans."""
        return self.value >= 1

    def best(self, count: int) -> Found:
        """The `count` rows of the highest values, in their order."""
        if len(self) <= count:
            return self
        rows = self.value.argsort(descending=True, stable=True)[:count]
        return self[rows.sort().values]

    def different(self) -> Tensor:
        """Whether no earlier row has the same sample, `(B,)` booleans."""
        first: dict[bytes, int] = {}
        for number, row in enumerate(self.x.contiguous()):
            first.setdefault(content_key(row), number)
        new = torch.zeros(len(self), dtype=torch.bool)
        new[list(first.values())] = True
        return new

    def replaced(self, rows: Tensor, others: Found) -> Found:
        """These with others in the places `rows`."""
        parts = []
        for mine, theirs in zip(_tensors(self), _tensors(others), strict=True):
            parts.append(mine.index_copy(0, rows, theirs))
        return Found(*parts)

    @classmethod
    def together(cls, parts: Sequence[Found]) -> Found:
        """The rows of all."""
        columns = zip(*(_tensors(part) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


class Scorer:
    """Decodes and scores latents, until the calls of the rules end.

    Arguments:
        decoder: The decoder.
        counted: The rules.
        columns: Those that are requested.
    """

    def __init__(self, decoder: Decoder, counted: CountedRewards, columns: list[int]) -> None:
        self.decoder, self.counted, self.columns = decoder, counted, columns
        self.ended = False
        """Whether the calls have ended."""

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Found:
        """What latents `(B, *latent_shape)` decode to, scored; the first ones if the calls end."""
        parts = []
        for part in z.split(BATCH):
            x = self.decoder.decode(part.to(self.decoder.device)).cpu()
            try:
                rewards = self.counted(x)
            except BudgetError as error:
                rewards, self.ended = error.found, True
            size = len(rewards)
            value = rewards[:, self.columns].mean(1).nan_to_num(-1)
            parts.append(Found(part[:size].cpu(), x[:size], rewards, value))
            if self.ended:
                break
        return Found.together(parts)


class Chains:
    """Chains that rise from level to level, and then walk on where the rules are kept.

    Arguments:
        scorer: Scores the proposals.
        found: Samples of the prior, from which the chains start.
        count: Number of chains.
        prior: The prior.
        seed: Decides every random number.
    """

    def __init__(
        self, scorer: Scorer, found: Found, count: int, prior: Prior, *, seed: int
    ) -> None:
        self.scorer, self.prior, self.seed = scorer, prior, seed
        drawn = prior.sample(MOMENTS, seed=~seed)
        self.device = drawn.device
        self.reference = Gaussian.fit(Latents(drawn.cpu()))
        if isinstance(prior, Gaussian):
            self.reference = Gaussian(prior.latent_shape, prior.mean.cpu(), prior.std.cpu())
        self.length, self.sweeps, self.share = FIRST, 0, SURVIVORS
        self.level = found.value.min().item()
        """The value that every chain reaches; 1 if all keep the rules."""
        self.found = found
        self.correlation = torch.ones(len(found))
        """Of each chain with its first latent that kept the rules."""
        self.earlier = found[:0]
        """Latents that kept the rules and that chains have left, as many as there are chains."""
        self._copy(torch.arange(len(found)), count)

    def rise(self) -> None:
        """Raises the level to what the best half of the chains reaches, and copies these.

        Where that is the present level, which many may share where rewards have steps, the next
        call takes half as many.
        """
        best = math.ceil(self.share * len(self.found))
        before, self.level = self.level, self.found.value.topk(best).values[-1].item()
        self.share = SURVIVORS if self.level > before else self.share / 2
        alive = (self.found.value >= self.level).nonzero().flatten()
        self._copy(alive, len(self.found))

    def sweep(self) -> None:
        """One proposal for each chain."""
        draw = generator(self.seed, self.sweeps, purpose="chains")
        z = self.found.z
        length = self.length * (LENGTHS * torch.randn(len(z), generator=draw)).exp()
        length = length.clamp(max=1).view(-1, *[1] * (z.ndim - 1))
        noise, chance = torch.randn(z.shape, generator=draw), torch.rand(len(z), generator=draw)
        remains = (1 - length.square()).sqrt()
        white = remains * self.reference.to_base(z) + length * noise
        proposed = self.scorer(self.reference.from_base(white))
        size = len(proposed)  # smaller where the calls end
        weight = self._weight(proposed.z) - self._weight(z[:size])
        accepted = (proposed.value >= self.level) & (chance[:size].log() <= weight)
        rows = accepted.nonzero().flatten()
        if self.level >= 1:
            self.earlier = Found.together([self.earlier, self.found[rows]])[-len(z) :]
            self.correlation[rows] *= remains.flatten()[rows]
        self.found = self.found.replaced(rows, proposed[rows])
        self.length = min(self.length * math.exp(len(rows) / len(z) - ACCEPTED), 1.0)
        self.sweeps += 1

    def _copy(self, rows: Tensor, count: int) -> None:
        """Has the chains `rows` in random order, as often as there is room."""
        draw = generator(self.seed, self.sweeps, purpose="survivors")
        order = rows[torch.randperm(len(rows), generator=draw)]
        order = order.repeat(-(-count // len(order)))[:count]
        self.found, self.correlation = self.found[order], self.correlation[order]

    def _weight(self, z: Tensor) -> Tensor:
        """Log-density of the prior over that of the proposals, in nats, `(B,)`."""
        if isinstance(self.prior, Gaussian):  # the same one
            return torch.zeros(len(z))
        return self.prior.log_prob(z.to(self.device)).cpu() - self.reference.log_prob(z)


def _tensors(found: Found) -> tuple[Tensor, ...]:
    return found.z, found.x, found.rewards, found.value

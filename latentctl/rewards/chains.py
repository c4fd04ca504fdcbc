r"""Markov chains over latents that keep a rule, for rules that few samples of the prior keep.

A latent is made of white noise, :math:`z = f(e)` with :math:`e \sim \mathcal{N}(0, I)`: by a
Gaussian prior or a flow. A proposal preserves the distribution of the noise,

.. math:: e' = \sqrt{1 - \beta^2} \, e + \beta \, \xi, \quad \xi \sim \mathcal{N}(0, I)

and is accepted if its rewards reach a level. So the chains have the distribution of the prior,
restricted to that level, in any number of dimensions (preconditioned Crank-Nicolson). For a prior
that is no map of noise, such as a mixture, `f` is the Gaussian `q` with its moments, and a proposal
is accepted with the probability :math:`\min(1, p(z') q(z) / (p(z) q(z')))`.

Levels rise to the rule: each is what the best half of the chains reaches, and copies of these
replace the others (subset simulation).

References:
    | MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster
    | (Cotter et al., 2013) https://arxiv.org/abs/1202.0709
    | Estimation of small failure probabilities in high dimensions by subset simulation
    | (Au & Beck, 2001) https://doi.org/10.1016/S0266-8920(01)00019-4
"""

from __future__ import annotations

__all__ = ["Base", "Chains", "Found", "Scorer"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decoder import Decoder, Gaussian, Prior
from ..errors import BudgetError
from ..latents import Latents
from ..random import generator, noise
from .reward_calls import CountedRewards, content_key

BATCH = 256  # latents that are decoded and scored together
SURVIVORS = 0.5  # share of the chains that a level keeps; with fewer, few lineages are left
ACCEPTED = 0.15  # share of the proposals that is aimed at; rarer, longer moves renew faster
FIRST = 0.5  # length of the first proposals
LENGTHS = 0.7  # standard deviation of the logarithm of a proposal's length
MOMENTS = 1024  # samples of a prior that is no map of noise, for its mean and variance


@dataclass(frozen=True)
class Found:
    """Latents that were scored, and their samples; all on the CPU."""

    e: Tensor
    """The noise of the latents, `(B, *latent_shape)`"""
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
        return Found(*(tensor[rows] for tensor in _tensors(self)))

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


class Base:
    """The white noise that latents of a prior are made of.

    Arguments:
        prior: A Gaussian or a flow; or another prior with a density.
        seed: Of the moments of another prior.
    """

    def __init__(self, prior: Prior, *, seed: int) -> None:
        self.prior = prior
        self.flow: Any = prior
        self.exact = hasattr(prior, "from_base")
        drawn = prior.sample(1 if self.exact else MOMENTS, seed=~seed)
        self.latent_shape, self.device = tuple(drawn.shape[1:]), drawn.device
        if not self.exact:
            self.flow = Gaussian.fit(Latents(drawn))

    def sample(self, count: int, *, seed: int, start: int) -> Tensor:
        """The noise of samples `start ... start + count - 1` of the prior."""
        if self.exact:
            return noise(start, count, self.latent_shape, seed=seed, purpose="prior")
        e: Tensor = self.flow.to_base(self.prior.sample(count, seed=seed, start=start))
        return e.cpu()

    def latents(self, e: Tensor) -> Tensor:
        """Latents of noise, both `(B, *latent_shape)`, on the prior's device."""
        z: Tensor = self.flow.from_base(e.to(self.device))
        return z

    def weight(self, z: Tensor) -> Tensor:
        """Log-density of the prior over that of latents of noise, in nats, `(B,)`."""
        if self.exact:
            return torch.zeros(len(z))
        z = z.to(self.device)
        odds: Tensor = self.prior.log_prob(z) - self.flow.log_prob(z)
        return odds.cpu()


class Scorer:
    """Decodes and scores latents, until the calls of the rules end.

    Arguments:
        decoder: The decoder.
        base: The noise of the latents.
        counted: The rules.
        columns: Those that are requested.
    """

    def __init__(
        self, decoder: Decoder, base: Base, counted: CountedRewards, columns: list[int]
    ) -> None:
        self.decoder, self.base, self.counted, self.columns = decoder, base, counted, columns
        self.ended = False
        """Whether the calls have ended."""

    @torch.no_grad()
    def __call__(self, e: Tensor) -> Found:
        """What noise `(B, *latent_shape)` leads to, scored; the first rows if the calls end."""
        parts = []
        for part in e.split(BATCH):
            z = self.base.latents(part)
            x = self.decoder.decode(z.to(self.decoder.device)).cpu()
            try:
                rewards = self.counted(x)
            except BudgetError as error:
                rewards, self.ended = error.found, True
            size = len(rewards)
            value = rewards[:, self.columns].mean(1).nan_to_num(-1)
            parts.append(Found(part[:size], z[:size].cpu(), x[:size], rewards, value))
            if self.ended:
                break
        return Found.together(parts)


class Chains:
    """Chains that rise from level to level, and then walk on where the rules are kept.

    Arguments:
        scorer: Scores the proposals.
        found: Samples of the prior, from which the chains start.
        count: Number of chains.
        seed: Decides every random number.
    """

    def __init__(self, scorer: Scorer, found: Found, count: int, *, seed: int) -> None:
        self.scorer, self.seed = scorer, seed
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
        e = self.found.e
        length = self.length * (LENGTHS * torch.randn(len(e), generator=draw)).exp()
        length = length.clamp(max=1).view(-1, *[1] * (e.ndim - 1))
        fresh, chance = torch.randn(e.shape, generator=draw), torch.rand(len(e), generator=draw)
        remains = (1 - length.square()).sqrt()
        proposed = self.scorer(remains * e + length * fresh)
        size = len(proposed)  # smaller where the calls end
        weight = self.scorer.base.weight
        odds = weight(proposed.z) - weight(self.found.z[:size])
        accepted = (proposed.value >= self.level) & (chance[:size].log() <= odds)
        rows = accepted.nonzero().flatten()
        if self.level >= 1:
            self.earlier = Found.together([self.earlier, self.found[rows]])[-len(e) :]
            self.correlation[rows] *= remains.flatten()[rows]
        self.found = self.found.replaced(rows, proposed[rows])
        self.length = min(self.length * math.exp(len(rows) / len(e) - ACCEPTED), 1.0)
        self.sweeps += 1

    def _copy(self, rows: Tensor, count: int) -> None:
        """Has the chains `rows` in random order, as often as there is room."""
        draw = generator(self.seed, self.sweeps, purpose="survivors")
        order = rows[torch.randperm(len(rows), generator=draw)]
        order = order.repeat(-(-count // len(order)))[:count]
        self.found, self.correlation = self.found[order], self.correlation[order]


def _tensors(found: Found) -> tuple[Tensor, ...]:
    return found.e, found.z, found.x, found.rewards, found.value

r"""What melodies are like, by measures that no critic and no rule has a part in.

    distinct       share of different melodies
    edit distance  fewest tokens to insert, remove or replace between two, over random pairs
    likelihood     nats a token by a model of real melodies: the last tokens predict the next
    told apart     area under the ROC curve of a classifier of real encodings against latents

The model of melodies is interpolated as Witten and Bell do: with c(h) tokens seen after a history
h, of u(h) kinds,

.. math:: p(t \mid h) = \frac{c(h t) + u(h)\, p(t \mid h')}{c(h) + u(h)},

where h' is h without its oldest token. Notes are written as the interval from the note before, so
that a tune is as likely in every key. Its data must not be what the samples are compared with.

References:
    | The Zero-Frequency Problem (Witten & Bell, 1991)
    | https://doi.org/10.1109/18.87000
"""

from __future__ import annotations

__all__ = [
    "NgramModel",
    "diversity",
    "edit_distance",
    "notes_changed",
    "told_apart",
]

import math
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from latentctl_adapters.melody_rewards import HOLD, onsets
from torch import Tensor

from latentctl.errors import InputError
from latentctl.nn.trunk import ScoreNet
from latentctl.random import generator, permutation, seeded

FIRST = 1000  # before the intervals, where a melody begins
PAIRS = 1000


def edit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Levenshtein's distance between rows of `a (B, T)` and of `b (B, T)`, in tokens, `(B,)`."""
    count, steps = a.shape
    places = torch.arange(steps + 1, device=a.device)
    row = places.repeat(count, 1)
    for i in range(steps):
        replaced = row[:, :-1] + (a[:, i, None] != b)
        best = torch.minimum(replaced, row[:, 1:] + 1)
        best = torch.cat([torch.full_like(row[:, :1], i + 1), best], dim=1)
        # an insertion costs one a place, so along the row it is a running minimum
        row = (best - places).cummin(dim=1).values + places
    return row[:, -1]


def diversity(x: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Share of distinct melodies `x (N, T)`, and the mean edit distance of random pairs."""
    draw = generator(seed, purpose="pairs of melodies")
    first = torch.randint(len(x), (PAIRS,), generator=draw)
    second = (first + torch.randint(1, len(x), (PAIRS,), generator=draw)) % len(x)
    distance = edit_distance(x[first], x[second]).float().mean()
    return {"distinct": len(x.unique(dim=0)) / len(x), "edit_distance": distance.item()}


def notes_changed(x: Tensor, original: Tensor) -> Tensor:
    """Notes that are struck in one of two melodies `(B, T)` only, or at another pitch, `(B,)`."""
    now, before = onsets(x), onsets(original)
    return ((now != before) | (now & before & (x != original))).sum(1)


class NgramModel:
    """The likelihood of melodies by what follows what in others.

    Arguments:
        x: Melodies to learn from, `(N, T)`.
        order: Tokens in an n-gram.

    Example:
        >>> up = torch.tensor([[60, 62, 64, 65], [67, 69, 71, 72]])
        >>> model = NgramModel(up, order=2)
        >>> bool(model(up + 1)[0] > model(torch.tensor([[60, 59, 50, 70]]))[0])
        True
    """

    def __init__(self, x: Tensor, order: int = 5) -> None:
        if order < 1 or len(x) == 0:
            raise InputError("A model of melodies needs melodies, and an order of 1 or more.")
        self.order = order
        self.counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for row in x.tolist():
            tokens = _intervals(row)
            for i, token in enumerate(tokens):
                for n in range(min(order, i + 1)):
                    self.counts[tuple(tokens[i - n : i])][token] += 1
        self.kinds = 2 * HOLD + 2  # 255 intervals, a first note, hold, rest

    def __call__(self, x: Tensor) -> Tensor:
        """Mean log-likelihood of a token of each melody `x (B, T)`, in nats, `(B,)`."""
        rows = []
        for row in x.tolist():
            tokens = _intervals(row)
            logs = [self._log_prob(tokens[:i], token) for i, token in enumerate(tokens)]
            rows.append(sum(logs) / len(logs))
        return torch.tensor(rows)

    def _log_prob(self, past: list[int], token: int) -> float:
        chance = 1 / self.kinds
        for n in range(min(self.order, len(past) + 1)):
            seen = self.counts.get(tuple(past[len(past) - n :]))
            if seen is None:
                break
            total, kinds = seen.total(), len(seen)
            chance = (seen[token] + kinds * chance) / (total + kinds)
        return math.log(chance)


def told_apart(real: Tensor, samples: Tensor, *, steps: int = 400, seed: int = 0) -> float:
    """How well a classifier tells latents from real encodings, both `(N, *latent_shape)`.

    The area under the ROC curve on the half of each that it did not learn from: 0.5 if they cannot
    be told apart, 1 if all can.
    """
    with seeded(seed, "told apart"):
        net = ScoreNet(real.shape[1:], 1, width=128, depth=2, dropout=0.2)
    net.trunk.standardise(real.mean(0), real.std(0))
    halves = []
    for z in (real, samples):
        order = permutation(len(z), seed=seed, epoch=0, purpose="told apart")
        halves.append(z[order].split(-(-len(z) // 2)))
    (real_fit, real_test), (samples_fit, samples_test) = halves
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    net.train()
    for step in range(steps):
        draw = generator(seed, step, purpose="told apart")
        for_real = net(real_fit[torch.randint(len(real_fit), (128,), generator=draw)])
        for_other = net(samples_fit[torch.randint(len(samples_fit), (128,), generator=draw)])
        loss = F.softplus(-for_real).mean() + F.softplus(for_other).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        above = net.eval()(real_test) > net(samples_test).mT
    return above.float().mean().item()


def _intervals(row: list[int]) -> list[int]:
    """A melody with its notes as intervals; what is no interval stands above all of them."""
    tokens, before = [], None
    for token in row:
        if token >= HOLD:
            tokens.append(FIRST + token)
            continue
        tokens.append(FIRST if before is None else token - before)
        before = token
    return tokens

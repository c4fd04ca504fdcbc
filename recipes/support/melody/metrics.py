r"""Measures of melodies that are independent of critics and rules.

    distinct        share of different melodies
    edit distance   Levenshtein distance of random pairs, in tokens
    likelihood      nats per token by an n-gram model of real melodies
    classifier AUC  area under the ROC curve of a classifier of real encodings against latents

The n-gram model is interpolated after Witten and Bell: with c(h) tokens observed after a history h,
of u(h) kinds,

.. math:: p(t \mid h) = \frac{c(h t) + u(h)\, p(t \mid h')}{c(h) + u(h)},

where h' is h without its oldest token. Notes are intervals from the note before, so that the
likelihood is the same in every key. Samples are compared to melodies outside the fitted ones.

References:
    | The Zero-Frequency Problem (Witten & Bell, 1991)
    | https://doi.org/10.1109/18.87000
"""

from __future__ import annotations

__all__ = [
    "NgramModel",
    "classifier_auc",
    "diversity",
    "edit_distance",
    "notes_changed",
]

import math
from collections import Counter, defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from latentctl_adapters.melody_rewards import HOLD, onsets
from torch import Tensor

from latentctl.errors import InputError
from latentctl.nn.trunk import ScoreNet
from latentctl.random import generator, permutation, seeded
from latentctl.training import Step, train

FIRST = 1000  # offset of tokens that are no intervals
PAIRS = 1000


def edit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Levenshtein distance between rows of `a (B, T)` and of `b (B, T)`, in tokens, `(B,)`."""
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
    """Notes that start in one of two melodies `(B, T)` only, or at another pitch, `(B,)`."""
    now, before = onsets(x), onsets(original)
    return ((now != before) | (now & before & (x != original))).sum(1)


class NgramModel:
    """The likelihood of melodies by the n-grams of others.

    Arguments:
        x: Melodies to fit, `(N, T)`.
        order: Tokens in an n-gram.

    Example:
        >>> up = torch.tensor([[60, 62, 64, 65], [67, 69, 71, 72]])
        >>> model = NgramModel(up, order=2)
        >>> bool(model(up + 1)[0] > model(torch.tensor([[60, 59, 50, 70]]))[0])
        True
    """

    def __init__(self, x: Tensor, order: int = 5) -> None:
        if order < 1 or len(x) == 0:
            raise InputError("An n-gram model needs melodies, and an order of 1 or more.")
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


def classifier_auc(real: Tensor, samples: Tensor, *, steps: int = 400, seed: int = 0) -> float:
    """Area under the ROC curve of a classifier of latents against real encodings.

    Both are `(N, *latent_shape)`; half of each is held out. 0.5: not distinguishable, 1: separable.
    """
    with seeded(seed, "told apart"):
        net = ScoreNet(real.shape[1:], 1, width=128, depth=2, dropout=0.2)
    net.trunk.standardise(real.mean(0), real.std(0))
    halves = []
    for z in (real, samples):
        order = permutation(len(z), seed=seed, epoch=0, purpose="told apart")
        halves.append(z[order].split(-(-len(z) // 2)))
    (real_fit, real_test), (samples_fit, samples_test) = halves

    def loss(batch: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        rows = step.integers(len(samples_fit), purpose="told apart").cpu()
        other = net(samples_fit[rows].to(batch))
        return F.softplus(-net(batch)).mean() + F.softplus(other).mean(), {}

    options: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 1e-2, "batch_size": 128}
    train(net, loss, real_fit, name="classifier", max_train_steps=steps, seed=seed, **options)
    net.to(real.device)
    with torch.no_grad():
        return (net(real_test) > net(samples_test).mT).float().mean().item()


def _intervals(row: list[int]) -> list[int]:
    """A melody with its notes as intervals; other tokens are offset by `FIRST`."""
    tokens, before = [], None
    for token in row:
        if token >= HOLD:
            tokens.append(FIRST + token)
            continue
        tokens.append(FIRST if before is None else token - before)
        before = token
    return tokens

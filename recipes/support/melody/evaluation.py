"""What `melody_rewards` answers and measures: requests from fresh starts, edits of real tunes."""

from __future__ import annotations

__all__ = ["LEARNED", "answers", "critic_of_edits", "edits_of", "encoded", "measure"]

import math

import torch
from latentctl_adapters.melody_rewards import C_MAJOR, onsets
from torch import Tensor

import latentctl
from latentctl import Decoder, Latents, RewardCritic
from latentctl.random import permutation
from latentctl.rewards import CountedRewards, Exploration, RuleEdit
from latentctl.rewards.reward_calls import Reward

from .data import Melodies
from .metrics import NgramModel, diversity, notes_changed, told_apart

COMPARED = 1000  # melodies of an n-gram likelihood and of a classifier, on each side
LEARNED = 8000  # melodies that the n-gram model learns from
CHUNK = 500


@torch.no_grad()
def encoded(decoder: Decoder, melodies: Melodies, count: int, seed: int) -> Latents:
    """Encodings of some melodies."""
    order = permutation(len(melodies), seed=seed, epoch=0, purpose="encodings")[:count]
    parts = [decoder.encode(melodies[rows]) for rows in order.split(CHUNK)]
    std = [part.std for part in parts if part.std is not None]
    return Latents(torch.cat([p.mean for p in parts]), torch.cat(std) if std else None)


@torch.no_grad()
def answers(
    decoder: Decoder, found: Exploration, count: int, seed: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Latents `(N, D)`, melodies `(N, T)` and starts of each request, from the same starts.

    The requests are nothing (the prior), the first rule, each other rule, and all of them.
    """
    names = found.critic.names
    start = decoder.prior.sample(count, seed=seed)
    asked = {"prior": [], **{name: [name] for name in names}}
    if len(names) > 1:
        asked[" and ".join(names)] = list(names)
    result = {}
    for title, rules in asked.items():
        y = torch.tensor([[1.0 if name in rules else math.nan for name in names]])
        z = found.actor(start, y) if rules else start
        result[title] = (z, torch.cat([decoder.decode(part) for part in z.split(CHUNK)]), start)
    return result


def measure(
    z: Tensor,
    x: Tensor,
    start: Tensor,
    rules: dict[str, Reward],
    real: Tensor,
    model: NgramModel | None,
) -> dict[str, float]:
    """What melodies came to: rewards, and everything that a cheat of them would spoil.

    Arguments:
        z: Latents, `(N, D)`.
        x: Melodies, `(N, T)`.
        start: Latents before the move.
        rules: The rules by name.
        real: Encodings of real melodies, with the posterior's noise, `(M, D)`.
        model: Of the likelihood of melodies.
    """
    scores = CountedRewards(rules)(x)
    row: dict[str, float] = {}
    for name, column in zip(rules, scores.unbind(1), strict=True):
        row[f"{name} reward"] = column.nanmean().item()
        row[f"{name} kept"] = (column == 1).float().mean().item()
    row["all kept"] = (scores == 1).all(1).float().mean().item()
    row |= diversity(x)
    row["likelihood"] = model(x[:COMPARED]).mean().item() if model else math.nan
    row["told apart"] = told_apart(real[:COMPARED], z[:COMPARED])
    row["norm"] = z.norm(dim=1).mean().item()
    row["shift"] = (z - start).square().mean(1).sqrt().mean().item()
    return row


def critic_of_edits(
    decoder: Decoder,
    rewards: CountedRewards,
    encodings: Latents,
    *,
    samples: int = 24_000,
    train_steps: int = 1200,
    seed: int = 0,
) -> RewardCritic:
    """A critic that knows the neighbourhood of encodings, where an actor's critic has not been."""
    count = min(samples, 2 * len(encodings))
    near = latentctl.encoding_rewards(decoder, rewards, encodings, count, seed=seed)
    return RewardCritic.fit(near, dropout=0.2, max_train_steps=train_steps, seed=seed)


def edits_of(
    decoder: Decoder, critic: RewardCritic, rules: dict[str, Reward], tunes: Tensor
) -> dict[str, tuple[RuleEdit, dict[str, float]]]:
    """Edits of real tunes into each rule and into all of them, with their receipts."""
    names = list(rules)
    result = {}
    for asked in [[name] for name in names] + ([names] if len(names) > 1 else []):
        out = latentctl.edit_by_rule(decoder, critic, rules, tunes, rules=asked)
        changed, notes = notes_changed(out.x, tunes).float(), onsets(tunes).sum(1)
        open_ = out.steps > 0
        receipt = {
            "kept before": (CountedRewards(rules)(tunes)[:, [names.index(n) for n in asked]] == 1)
            .all(1)
            .float()
            .mean()
            .item(),
            "kept": out.satisfied.float().mean().item(),
            "changed": changed.mean().item(),
            "share changed": (changed / notes)[open_].median().item() if open_.any() else 0.0,
            "steps": out.steps.float().mean().item(),
            "calls": out.calls / len(tunes),
        }
        if asked == ["c_major"]:
            wrong = onsets(tunes) & ~torch.isin(tunes % 12, torch.tensor(C_MAJOR))
            had = wrong.sum(1)
            some = out.satisfied & (had > 0)
            if some.any():
                receipt["changed / had to"] = (changed / had)[some].median().item()
        result[" and ".join(asked)] = (out, receipt)
    return result

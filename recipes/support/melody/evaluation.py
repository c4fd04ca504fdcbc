"""Evaluation of `melody_rewards`: requests from new samples of the prior, edits of real tunes."""

from __future__ import annotations

__all__ = [
    "answers",
    "critic_of_edits",
    "edits_of",
    "encoded",
    "measure",
    "reconstruction_scores",
    "searched",
]

import math
from collections.abc import Sequence
from itertools import compress

import torch
from latentctl_adapters.melody_rewards import C_MAJOR, onsets
from latentctl_adapters.melody_vae import MelodyVAE
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import latentctl
from latentctl import Decoder, Latents, RewardCritic
from latentctl.random import permutation
from latentctl.rewards import CountedRewards, Exploration, Reward, RuleEdit

from .data import Melodies
from .metrics import NgramModel, classifier_auc, diversity, notes_changed

COMPARED = 1000  # melodies of an n-gram likelihood and of a classifier, on each side
LEARNED = 8000  # melodies to which the n-gram model is fitted
CHUNK = 500  # melodies encoded or decoded at once


def encoded(decoder: Decoder, melodies: Melodies, count: int, seed: int) -> Latents:
    """Encodings of `count` melodies, drawn at random."""
    rows = permutation(len(melodies), seed=seed, epoch=0, purpose="encodings")[:count]
    q = decoder.encode(melodies[rows], batch_size=CHUNK)
    return Latents(q.mean.cpu(), q.std.cpu())


@torch.no_grad()
def answers(
    decoder: Decoder, found: Exploration, count: int, seed: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Latents `(N, D)`, melodies `(N, T)` and starts of each request on the CPU, one start a row.

    The requests are none (the prior), each rule, and all of them.
    """
    names = found.critic.names
    start = decoder.prior.sample(count, seed=seed).to(decoder.device)
    result = {}
    for title, rules in {"prior": list[str](), **_requests(names)}.items():
        y = torch.tensor([[1.0 if name in rules else math.nan for name in names]])
        y = y.to(start)
        z = found.actor(start, y) if rules else start
        x = decoder.decode(z, batch_size=CHUNK)
        result[title] = (z.cpu(), x.cpu(), start.cpu())
    return result


def searched(
    decoder: Decoder, rules: dict[str, Reward], count: int, evaluations: int, seed: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Latents, melodies and again latents of each request, by `sample_by_rule`."""
    result = {}
    for title, names in _requests(list(rules)).items():
        wanted = {name: rules[name] for name in names}
        out = latentctl.sample_by_rule(decoder, wanted, count, evaluations=evaluations, seed=seed)
        result[f"{title}, searched"] = (out.z, out.x, out.z)
    return result


def _requests(names: Sequence[str]) -> dict[str, list[str]]:
    """Each rule, and all of them, by title."""
    requests = {name: [name] for name in names}
    return requests if len(names) == 1 else {**requests, " and ".join(names): list(names)}


def measure(
    z: Tensor,
    x: Tensor,
    start: Tensor,
    rules: dict[str, Reward],
    real: Tensor,
    model: NgramModel | None,
) -> dict[str, float]:
    """Rewards of melodies, and measures that degenerate solutions of the rules would lower.

    Melodies `x (N, T)` are of latents `z (N, D)`, which were at `start` before the move; `real
    (M, D)` are encodings of real melodies with the posterior's noise.
    """
    scores = CountedRewards(rules)(x)
    row: dict[str, float] = {}
    for name, column in zip(rules, scores.unbind(1), strict=True):
        row[f"{name} reward"] = column.nanmean().item()
        row[f"{name} satisfied"] = (column == 1).float().mean().item()
    row["all satisfied"] = (scores == 1).all(1).float().mean().item()
    row |= diversity(x)
    row["likelihood"] = model(x[:COMPARED]).mean().item() if model else math.nan
    row["classifier AUC"] = classifier_auc(real[:COMPARED], z[:COMPARED])
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
    """A critic fitted near encodings, where edits start and the actor's critic has no samples."""
    count = min(samples, 2 * len(encodings))
    near = latentctl.encoding_rewards(decoder, rewards, encodings, count, seed=seed)
    return RewardCritic.fit(near, dropout=0.2, max_train_steps=train_steps, seed=seed)


def edits_of(
    decoder: Decoder, critic: RewardCritic, rules: dict[str, Reward], tunes: Tensor
) -> dict[str, tuple[RuleEdit, dict[str, float]]]:
    """Edits of real tunes towards each rule and towards all of them, with their receipts."""
    names, before = list(rules), CountedRewards(rules)(tunes)
    result = {}
    for requested in [[name] for name in names] + ([names] if len(names) > 1 else []):
        out = latentctl.edit_by_rule(decoder, critic, rules, tunes, rules=requested)
        changed, notes = notes_changed(out.x.cpu(), tunes).float(), onsets(tunes).sum(1)
        moved, kept = out.steps.cpu() > 0, out.satisfied.cpu()
        satisfied = (before[:, [names.index(name) for name in requested]] == 1).all(1)
        receipt = {
            "satisfied before": satisfied.float().mean().item(),
            "satisfied": kept.float().mean().item(),
            "changed": changed.mean().item(),
            "share changed": (changed / notes)[moved].median().item() if moved.any() else 0.0,
            "steps": out.steps.float().mean().item(),
            "calls": out.calls / len(tunes),
            "by restart": _share(out.found_by, kept, "restart"),
            "by search": _share(out.found_by, kept, "search"),
        }
        if requested == ["c_major"]:
            outside = (onsets(tunes) & ~torch.isin(tunes % 12, torch.tensor(C_MAJOR))).sum(1)
            some = kept & (outside > 0)
            if some.any():
                receipt["changed / required"] = (changed / outside)[some].median().item()
        result[" and ".join(requested)] = (out, receipt)
    return result


def _share(found_by: Sequence[str], kept: Tensor, how: str) -> float:
    """Share of all inputs whose edit keeps the rules and was found so."""
    return sum(name == how for name in compress(found_by, kept.tolist())) / len(found_by)


@torch.no_grad()
def reconstruction_scores(model: MelodyVAE, x: Tensor) -> dict[str, float]:
    """Reconstruction of melodies `x (N, steps)` from the mean of their posterior.

    Returns:
        `greedy`, the share of steps that are right; `exact`, the share of melodies without an
        error; `teacher_forced`, the share of right steps given the true tokens before them; `nll`
        and `kl` in nats per melody.
    """
    device = next(model.parameters()).device
    sums = dict.fromkeys(("greedy", "exact", "teacher_forced", "nll", "kl"), 0.0)
    for part in x.split(256):
        part = part.to(device)
        q = model.encode(part)
        right = model.decode(q.mean) == part
        forced = model.logits(part, q.mean).argmax(2) == part
        sums["greedy"] += right.float().mean(1).sum().item()
        sums["exact"] += right.all(1).sum().item()
        sums["teacher_forced"] += forced.float().mean(1).sum().item()
        sums["nll"] -= model.log_prob(part, q.mean).sum().item()
        sums["kl"] += kl_divergence(q, Normal(0.0, 1.0)).sum().item()
    return {name: value / len(x) for name, value in sums.items()}

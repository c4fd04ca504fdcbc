r"""Melodies that obey rules which exist only as Python functions, zero-shot.

    python recipes/melody_rewards.py --pretrained_model_name_or_path VAE --train_data_dir TUNES

No labels and no gradient of the rule: prior samples of a frozen melody VAE are decoded and scored
by plain Python functions, a critic learns from the scores, an actor from the critic, and what the
actor finds is scored again. Then it answers requests, and edits real tunes.

By default there are two rules, as in the paper: all notes in C major, and at least `--dense_notes`
notes. One's own are `--reward FILE.py:FUNCTION` or `MODULE:FUNCTION`, once for each,

    def high(x):
        # x (B, steps), whole numbers: 0 ... 127 strikes a note, 128 holds it, 129 rests
        notes = x < 128
        return (notes & (x >= 72)).sum(1) / notes.sum(1).clamp(min=1)

In `--output_dir`: `report.html` with piano rolls and players, `rolls.png`, `edits.png`, `midi/`,
`wav/`, `results.json`, `config.json` and `pack/`, which `latentctl.Conditional.from_pretrained`
reads.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = [
    "Flags",
    "answers",
    "critic_of_edits",
    "edits_of",
    "encoded",
    "main",
    "measure",
    "rules_of",
]

import dataclasses
import json
import logging
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from command import run
from loading import load_function
from melody_data import Melodies, MelodyDataFlags, load_melodies
from melody_metrics import NgramModel, diversity, notes_changed, told_apart
from melody_report import write_report
from torch import Tensor

import latentctl
from latentctl import CountedRewards, Decoder, Exploration, Latents, RewardCritic, RuleEdit
from latentctl.errors import InputError
from latentctl.random import permutation
from latentctl.rewards import C_MAJOR, Reward, c_major, density, onsets

logger = logging.getLogger(__name__)

DENSE = 0.9  # quantile of the number of notes that the second rule asks for
COMPARED = 1000  # melodies of an n-gram likelihood and of a classifier, on each side
LEARNED = 8000  # melodies that the n-gram model learns from
CHUNK = 500
GIVEN = ("rounds", "prior_samples", "moves", "first_steps", "train_steps", "realism_weight")


@dataclass
class RuleFlags:
    """The rules, and what may be spent on them."""

    reward: tuple[str, ...] = ()
    """Rules of one's own, FILE.py:FUNCTION or MODULE:FUNCTION; C major and density by default."""
    dense_notes: int | None = None
    """Notes that the rule of density asks for; by default the 90th percentile of the data."""
    max_reward_calls: int = 60_000
    """Melodies that the rules are asked of, in training."""
    rounds: int | None = None
    """Rounds of exploration; this and what follows are as `latentctl.explore` has them."""
    prior_samples: int | None = None
    """Samples of the prior that are scored first."""
    moves: int | None = None
    """Moves that are scored in a round."""
    first_steps: int | None = None
    """Steps of training of the critic on the prior."""
    train_steps: int | None = None
    """Steps of training in a round."""
    realism_weight: float | None = None
    """Weight of realism in the actor's loss."""
    edit_samples: int = 12_000
    """Encodings that are scored for the critic of edits, half of them means."""
    edit_train_steps: int = 1200
    """Steps of training of the critic of edits."""


@dataclass
class Flags:
    """Zero-shot rules on a melody VAE."""

    pretrained_model_name_or_path: str | None = None
    """The melody VAE: a folder, or its name on the hub."""
    revision: str | None = None
    """Its revision on the hub."""
    output_dir: str = "outputs/melody_rewards"
    """Where everything goes."""
    seed: int = 0
    """Decides every random number."""
    num_threads: int | None = None
    """CPU threads; what torch takes by default."""
    num_melodies: int = 1000
    """Melodies of each request that are measured."""
    num_edits: int = 500
    """Real test tunes that are edited."""
    max_encodings: int = 12_000
    """Real training melodies that are encoded: realism is likeness to them."""
    rules: RuleFlags = field(default_factory=RuleFlags)
    data: MelodyDataFlags = field(default_factory=MelodyDataFlags)


def rules_of(flags: RuleFlags, real: Tensor) -> dict[str, Reward]:
    """The rules by name; the density is that of melodies `real (N, T)`.

    Raises:
        InputError: If two rules have one name, or a rule is not found.
    """
    if not flags.reward:
        notes = flags.dense_notes
        if notes is None:
            notes = math.ceil(onsets(real).sum(1).float().quantile(DENSE))
        return {"c_major": c_major, "dense": partial(density, notes=notes)}
    rules = {
        source.rpartition(":")[2]: load_function(source, "--reward") for source in flags.reward
    }
    if len(rules) < len(flags.reward):
        raise InputError(f"Two rules of {', '.join(flags.reward)} have one name: rename one.")
    return rules


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
    decoder: Decoder, counted: CountedRewards, encodings: Latents, flags: RuleFlags, seed: int
) -> RewardCritic:
    """A critic that knows the neighbourhood of encodings, where an actor's critic has not been."""
    count = min(flags.edit_samples, 2 * len(encodings))
    near = latentctl.encoding_rewards(decoder, counted, encodings, count, seed=seed)
    steps = flags.edit_train_steps
    return RewardCritic.fit(near, dropout=0.2, max_train_steps=steps, seed=seed)


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


def main(flags: Flags) -> dict[str, Any]:
    logging.basicConfig(format="%(message)s")
    if flags.num_threads:
        torch.set_num_threads(flags.num_threads)
    if flags.pretrained_model_name_or_path is None:
        raise InputError(
            "Which melody VAE? Pass --pretrained_model_name_or_path FOLDER; "
            "recipes/pretrain_melody_vae.py makes one from tunes."
        )
    folder, began = Path(flags.output_dir), time.monotonic()
    decoder = latentctl.load(
        "melody-vae",
        pretrained_model_name_or_path=flags.pretrained_model_name_or_path,
        revision=flags.revision,
    )
    data = dataclasses.replace(flags.data, bars=decoder.sample_shape[0] // 16)
    melodies: dict[str, Melodies] = {}
    if data.train_data_dir:
        melodies = load_melodies(data, flags.seed)
        known = melodies["train"][:]
    else:
        logger.warning("No --train_data_dir: realism is likeness to the prior, nothing is edited.")
        known = decoder.decode(decoder.prior.sample(CHUNK, seed=~flags.seed))
    rules = rules_of(flags.rules, known)
    counted = CountedRewards(rules, max_calls=flags.rules.max_reward_calls)
    encodings = None
    if melodies:
        encodings = encoded(decoder, melodies["train"], flags.max_encodings, flags.seed)
    given = {name: getattr(flags.rules, name) for name in GIVEN}
    options = {name: value for name, value in given.items() if value is not None}
    found = latentctl.explore(decoder, counted, encodings=encodings, seed=flags.seed, **options)
    seconds = {"exploration": time.monotonic() - began}

    # measured on what nobody has seen: fresh starts, and encodings of test tunes
    made = answers(decoder, found, flags.num_melodies, seed=flags.seed + 1)
    held = melodies.get("test")
    model = None
    if held is not None:
        real = encoded(decoder, held, COMPARED, flags.seed)
        real_z = real.sample(torch.randn(real.mean.shape, generator=_draw(flags.seed)))
        model = NgramModel(known[permutation(len(known), seed=0, epoch=0, purpose="n")[:LEARNED]])
    else:
        real_z = decoder.prior.sample(COMPARED, seed=~flags.seed)
    rows = {name: measure(*part, rules, real_z, model) for name, part in made.items()}
    edits: dict[str, tuple[RuleEdit, dict[str, float]]] = {}
    tunes = None
    if held is not None and encodings is not None and flags.num_edits:
        order = permutation(len(held), seed=flags.seed, epoch=0, purpose="edits")
        tunes = held[order[: flags.num_edits]]
        critic = critic_of_edits(decoder, counted, encodings, flags.rules, flags.seed)
        edits = edits_of(decoder, critic, rules, tunes)
    seconds["all"] = time.monotonic() - began
    results = {
        "requests": rows,
        "edits": {name: receipt for name, (_, receipt) in edits.items()},
        "rounds": [dataclasses.asdict(line) for line in found.rounds],
        "reward_calls": counted.calls,
        "known_already": counted.hits,
        "failed": counted.failed,
        "dense_notes": getattr(rules.get("dense"), "keywords", {}).get("notes"),
        "seconds": seconds,
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.asdict(flags)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    conditional = latentctl.condition(decoder, found.critic, found.actor)
    conditional.save_pretrained(folder / "pack")
    shown = {name: (tunes, out.x) for name, (out, _) in edits.items()}
    write_report(folder, config, results, {name: x for name, (_, x, _) in made.items()}, shown)
    print(f"Report: {folder / 'report.html'}")
    return results


def _draw(seed: int) -> torch.Generator:
    return latentctl.generator(seed, purpose="posterior of real melodies")


if __name__ == "__main__":
    run(main, Flags)

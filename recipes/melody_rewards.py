r"""Melodies that satisfy rules given only as Python functions, zero-shot.

    python recipes/melody_rewards.py --pretrained_model_name_or_path VAE --train_data_dir TUNES

There are no labels and no gradients of the rules: prior samples of a frozen melody VAE are decoded
and scored by plain Python functions, a critic is fitted to the scores, an actor follows the critic,
and its moves are scored again. The actor then answers requests, and real tunes are edited. Beside
it, `latentctl.sample_by_rule` searches for melodies of the same requests by calls of the rules.

By default there are two rules, as in the paper: all notes in C major, and at least `--dense_notes`
notes. Others are given by `--reward FILE.py:FUNCTION` or `MODULE:FUNCTION`, once for each:

    def high(x):
        # x (B, steps), integers: 0 ... 127 start a note, 128 holds it, 129 is a rest
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

__all__ = ["Flags", "main"]

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from support.melody.data import Melodies, MelodyDataFlags, load_melodies
from support.melody.evaluation import (
    CHUNK,
    COMPARED,
    LEARNED,
    answers,
    critic_of_edits,
    edits_of,
    encoded,
    measure,
    searched,
)
from support.melody.metrics import NgramModel
from support.melody.report import write_report
from support.melody.rules import RuleFlags, rules_of
from support.run import HubFlags, OutputFlags, run, write_json
from torch import Tensor

import latentctl
from latentctl.errors import InputError
from latentctl.random import generator, permutation
from latentctl.rewards import CountedRewards, RuleEdit

logger = logging.getLogger(__name__)

EXPLORE = ("rounds", "prior_samples", "moves", "first_steps", "train_steps", "realism_weight")


@dataclass
class Flags(OutputFlags):
    """Zero-shot rules on a melody VAE."""

    output_dir: str = "outputs/melody_rewards"  # Folder of all results.
    pretrained_model_name_or_path: str | None = None  # The melody VAE: a folder or a hub id.
    revision: str | None = None  # Its revision on the hub.
    num_melodies: int = 1000  # Melodies of each request that are evaluated.
    num_edits: int = 500  # Real test tunes that are edited.
    max_encodings: int = 12_000  # Training melodies that are encoded, the reference of realism.
    rules: RuleFlags = field(default_factory=RuleFlags)
    data: MelodyDataFlags = field(default_factory=MelodyDataFlags)
    hub: HubFlags = field(default_factory=HubFlags)


def main(flags: Flags) -> dict[str, Any]:
    flags.hub.check()
    seed, rule_flags = flags.seed, flags.rules
    if flags.num_threads:
        torch.set_num_threads(flags.num_threads)
    if flags.pretrained_model_name_or_path is None:
        raise InputError(
            "No melody VAE is named. Pass --pretrained_model_name_or_path FOLDER; "
            "recipes/pretrain_melody_vae.py trains one."
        )
    folder, began = Path(flags.output_dir), time.monotonic()
    decoder = latentctl.load(
        "melody-vae",
        pretrained_model_name_or_path=flags.pretrained_model_name_or_path,
        revision=flags.revision,
    ).to(Accelerator().device)  # where the exploration trains
    data = dataclasses.replace(flags.data, bars=decoder.sample_shape[0] // 16)
    melodies: dict[str, Melodies] = {}
    encodings = None
    if data.train_data_dir:
        melodies = load_melodies(data, seed)
        known = melodies["train"][:]
        encodings = encoded(decoder, melodies["train"], flags.max_encodings, seed)
    else:
        logger.warning("No --train_data_dir: the prior is the reference of realism; no edits.")
        known = decoder.decode(decoder.prior.sample(CHUNK, seed=~seed)).cpu()
    rules = rules_of(rule_flags, known)
    rewards = CountedRewards(rules, max_calls=rule_flags.max_reward_calls)
    critic = None
    if encodings is not None and flags.num_edits:
        # before the exploration, which uses all remaining calls
        critic = critic_of_edits(
            decoder,
            rewards,
            encodings,
            samples=min(rule_flags.edit_samples, rule_flags.max_reward_calls // 3),
            train_steps=rule_flags.edit_train_steps,
            seed=seed,
        )
    given = {name: getattr(rule_flags, name) for name in EXPLORE}
    options = {name: value for name, value in given.items() if value is not None}
    found = latentctl.explore(decoder, rewards, encodings=encodings, seed=seed, **options)
    seconds = {"exploration": time.monotonic() - began}

    # evaluated on held-out data: new starts, and encodings of test tunes
    made = answers(decoder, found, flags.num_melodies, seed=seed + 1)
    real, model = decoder.prior.sample(COMPARED, seed=~seed).cpu(), None
    edits: dict[str, tuple[RuleEdit, dict[str, float]]] = {}
    tunes: Tensor | None = None
    if melodies:
        held = melodies["test"]
        posterior = encoded(decoder, held, COMPARED, seed)
        draw = generator(seed, purpose="posterior of real melodies")
        real = posterior.sample(torch.randn(posterior.mean.shape, generator=draw))
        model = NgramModel(known[permutation(len(known), seed=0, epoch=0, purpose="n")[:LEARNED]])
        if critic is not None:
            order = permutation(len(held), seed=seed, epoch=0, purpose="edits")
            tunes = held[order[: flags.num_edits]]
            edits = edits_of(decoder, critic, rules, tunes)
    beside = {}
    if rule_flags.evaluations:
        count, most = flags.num_melodies, rule_flags.evaluations
        beside = searched(decoder, rules, count, most, seed=seed + 1)
    rows = {name: measure(*part, rules, real, model) for name, part in {**made, **beside}.items()}
    seconds["all"] = time.monotonic() - began
    results = {
        "requests": rows,
        "edits": {name: receipt for name, (_, receipt) in edits.items()},
        "rounds": [dataclasses.asdict(line) for line in found.rounds],
        "best_round": found.best,
        "given_up": {" and ".join(names): why for names, why in found.given_up.items()},
        "reward_calls": rewards.calls,
        "cached_calls": rewards.hits,
        "failed": rewards.failed,
        "dense_notes": getattr(rules.get("dense"), "keywords", {}).get("notes"),
        "seconds": seconds,
    }
    write_json(folder / "config.json", flags)
    write_json(folder / "results.json", results)
    conditional = latentctl.condition(decoder, found.critic, found.actor)
    conditional.save_pretrained(folder / "pack")
    shown = {name: (tunes, out.x.cpu()) for name, (out, _) in edits.items()}
    requests = {name: x for name, (_, x, _) in made.items()}
    write_report(folder, dataclasses.asdict(flags), results, requests, shown)
    flags.hub.push(conditional, flags.output_dir)
    print(f"Report: {folder / 'report.html'}")
    return results


if __name__ == "__main__":
    run(main, Flags)

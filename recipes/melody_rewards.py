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

__all__ = ["Flags", "RuleFlags", "main", "rules_of"]

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
from latentctl_adapters.melody_rewards import c_major, density, onsets
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
)
from support.melody.metrics import NgramModel
from support.melody.report import write_report
from support.models import load_function
from support.run import run
from torch import Tensor

import latentctl
from latentctl.errors import InputError
from latentctl.random import permutation
from latentctl.rewards import CountedRewards, RuleEdit
from latentctl.rewards.reward_calls import Reward

logger = logging.getLogger(__name__)

DENSE = 0.9  # quantile of the number of notes that the second rule asks for
GIVEN = ("rounds", "prior_samples", "moves", "first_steps", "train_steps", "realism_weight")


@dataclass
class RuleFlags:
    """The rules, and what may be spent on them."""

    reward: tuple[str, ...] = ()
    """Rules of one's own, FILE.py:FUNCTION or MODULE:FUNCTION; C major and density by default."""
    dense_notes: int | None = None
    """Notes that the rule of density asks for; by default the 90th percentile of the data."""
    max_reward_calls: int = 80_000
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
    edit_samples: int = 24_000
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
    critic = None
    if encodings is not None and flags.num_edits:
        # before the exploration, which takes all calls that are left
        critic = critic_of_edits(
            decoder,
            counted,
            encodings,
            samples=min(flags.rules.edit_samples, flags.rules.max_reward_calls // 3),
            train_steps=flags.rules.edit_train_steps,
            seed=flags.seed,
        )
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
    if held is not None and critic is not None:
        order = permutation(len(held), seed=flags.seed, epoch=0, purpose="edits")
        tunes = held[order[: flags.num_edits]]
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
    return latentctl.random.generator(seed, purpose="posterior of real melodies")


if __name__ == "__main__":
    run(main, Flags)

"""Samples by rules of different kinds, and what else they change; and edits by four rules.

    LATENTCTL_DATA=... python -m benchmarks.melodies.variety --base FOLDER --seed 0 --rules four

`--rules` names sets of `SETS`, or single rules. A request is one rule of a set, or all of it.
`search` answers each by `sample_by_rule`, `actor` all by the actor of one exploration, both with
their default settings. Beside them stand the prior, and the samples among 4,500 of the prior that
keep the rules. `--edits` edits real test tunes by the rules instead.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
import recipes.support.melody.evaluation as evaluation
from benchmarks.melodies.base import compare
from benchmarks.melodies.kinds import ASIDE, FOUR, IMPOSSIBLE, PAIR, PAPER, SINGLE
from benchmarks.shared.base import data_folder
from benchmarks.shared.run import SeededFlags, report, run, table, write
from latentctl import Decoder
from latentctl.random import permutation
from latentctl.rewards import CountedRewards, Exploration, Reward
from recipes.support.melody.data import MelodyDataFlags, load_melodies
from recipes.support.melody.metrics import diversity

SEARCHED = 4500  # samples of the prior of which those that keep the rules are shown
FEW = 5  # of them that say nothing about their statistics
SETS: dict[str, dict[str, Reward]] = {"four": FOUR, "pair": PAIR, "paper": PAPER}
STATISTICS = ("notes", "range", "interval", "duration")


@dataclass(kw_only=True)
class Flags(SeededFlags):
    base: str
    """The melody VAE."""
    rules: tuple[str, ...] = ("four",)  # Sets, or single rules; one exploration each.
    methods: tuple[str, ...] = ("search", "actor")
    rounds: int = 40  # Of each exploration.
    melodies: int = 1000  # Of each request.
    edits: int = 0  # Test tunes that are edited instead.
    output_dir: Path = Path("outputs/melodies")


def statistics(x: Tensor, prior: Tensor, rules: dict[str, Reward]) -> dict[str, float]:
    """The share that keeps the rules, variety, and means, of melodies `x` and over the prior's."""
    kept = torch.stack([rule(x) == 1 for rule in rules.values()], 1).all(1)
    ours, usual = compare(x, prior), compare(prior, prior)
    edit = diversity(x)["edit_distance"]
    return {
        "kept": kept.float().mean().item(),
        "distinct": ours["distinct"],
        "edit distance": edit,
        "to prior's": edit / diversity(prior)["edit_distance"],
        **{name: ours[f"mean_{name}"] / usual[f"mean_{name}"] for name in STATISTICS},
        "rests": ours["rests"] / usual["rests"],
    }


@torch.no_grad()
def answers(
    decoder: Decoder, found: Exploration | None, rules: dict[str, Reward], flags: Flags
) -> list[dict[str, Any]]:
    """Rows of the methods, and of samples of the prior that keep the same rules."""
    z = decoder.prior.sample(flags.melodies, seed=flags.seed + 1)
    prior = decoder.decode(z, batch_size=500)
    many = decoder.decode(decoder.prior.sample(SEARCHED, seed=~flags.seed), batch_size=500)
    requests = {name: [name] for name in rules}
    if len(rules) > 1:
        requests[" and ".join(rules)] = list(rules)
    rows = []
    for title, names in requests.items():
        wanted = {name: rules[name] for name in names}
        usual = {"prior": statistics(prior, prior, wanted)["kept"]}
        if "search" in flags.methods:
            began = time.process_time()
            out = latentctl.sample_by_rule(decoder, wanted, flags.melodies, seed=flags.seed)
            cost = {"calls": out.calls, "seconds": time.process_time() - began}
            row = {"rules": title, **usual, **statistics(out.x, prior, wanted), **cost}
            rows.append(row | {"correlation": out.correlation, "given up": out.given_up})
        if found is not None:
            y = torch.tensor([[1.0 if name in names else math.nan for name in rules]])
            x = decoder.decode(found.actor(z, y), batch_size=500)
            rows.append({"rules": f"actor: {title}", **usual, **statistics(x, prior, wanted)})
        good = torch.stack([rule(many) == 1 for rule in wanted.values()], 1).all(1)
        row = {"rules": f"{int(good.sum())} of {SEARCHED}: {title}", **usual}
        rows.append(row | (statistics(many[good], prior, wanted) if good.sum() > FEW else {}))
    return rows


def edited(decoder: Decoder, rules: dict[str, Reward], flags: Flags) -> list[dict[str, Any]]:
    """Rows of edits of real tunes by each rule and by all."""
    bars = decoder.sample_shape[0] // 16
    source = MelodyDataFlags(str(data_folder() / f"melody{bars}bar"), bars)
    melodies = load_melodies(source, flags.seed)
    encodings = evaluation.encoded(decoder, melodies["train"], 12_000, flags.seed)
    counted = CountedRewards(rules)
    critic = evaluation.critic_of_edits(decoder, counted, encodings, seed=flags.seed)
    tunes = melodies["test"]
    order = permutation(len(tunes), seed=flags.seed, epoch=0, purpose="edits")[: flags.edits]
    edits = evaluation.edits_of(decoder, critic, rules, tunes[order])
    return [{"edits": name, **receipt} for name, (_, receipt) in edits.items()]


def main(flags: Flags) -> None:
    decoder = latentctl.load("melody-vae", pretrained_model_name_or_path=flags.base)
    every = {**SINGLE, **PAPER, **PAIR, **IMPOSSIBLE, **ASIDE}
    for name in flags.rules:
        rules = SETS.get(name) or {name: every[name]}
        began, output = time.process_time(), dict[str, Any]()
        if flags.edits:
            output["rows"] = edited(decoder, rules, flags)
        else:
            found = None
            if "actor" in flags.methods:
                found = latentctl.explore(decoder, rules, rounds=flags.rounds, seed=flags.seed)
                output["rounds"] = [vars(line) for line in found.rounds]
                output["given up"] = {" and ".join(key): why for key, why in found.given_up.items()}
                done = {"rounds": len(found.rounds) - 1, "best": found.best}
                report({"rules": name, "calls": found.rewards.calls, **done})
            output["rows"] = answers(decoder, found, rules, flags)
        output["seconds of CPU"] = time.process_time() - began
        kind = "edits" if flags.edits else "variety"
        write(flags.output_dir / f"{kind}-{name}-{flags.seed}.json", output)
        print(table(output["rows"]))


if __name__ == "__main__":
    run(main, Flags)

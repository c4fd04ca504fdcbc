"""Zero-shot rules on a frozen melody VAE: who keeps them, at what cost in calls and in realism.

    LATENTCTL_DATA=... python -m benchmarks.melodies.rules --base FOLDER --seed 0

One run explores (`latentctl.explore`) and then answers requests from the same starts: the actor,
gradient ascent on the same critic, and, at the same number of calls of the rules, the best of N
samples of the prior (for each of the melodies, and over all), and CMA-ES in the latent space. Then
500 real test tunes are edited, and the actor's time is measured beside that of bare decoding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from latentctl_adapters.melody_rewards import onsets
from torch import Tensor

import latentctl
import recipes.support.melody.evaluation as evaluation
from benchmarks.shared.base import data_folder
from benchmarks.shared.run import Seconds, SeededFlags, in_turns, report, run, table, write
from latentctl import Ascent, Decoder
from latentctl.random import permutation
from latentctl.rewards import CountedRewards, Reward
from recipes.support.melody.data import MelodyDataFlags, load_melodies
from recipes.support.melody.metrics import NgramModel, diversity
from recipes.support.melody.rules import RuleFlags, rules_of


@dataclass(kw_only=True)
class Flags(SeededFlags):
    base: str
    """The melody VAE."""
    melodies: int = 1000  # Melodies of each contender.
    edits: int = 500  # Test tunes that are edited.
    calls: int = 60_000  # Calls of the rules that each contender has.
    baselines: bool = True  # Also the best of N and CMA-ES.
    output_dir: Path = Path("outputs/melodies")


def best_of(decoder: Decoder, rules: dict[str, Reward], count: int, calls: int, seed: int) -> Any:
    """The best of N = calls / count samples of the prior for each answer, and the best of all."""
    each = calls // count
    z = decoder.prior.sample(count * each, seed=~seed)
    x = decoder.decode(z, batch_size=500)
    # a product alone would not order melodies that break one rule altogether
    score = CountedRewards(rules)(x).sum(1)
    own = score.view(count, each).argmax(1) + torch.arange(count) * each
    top = score.topk(count).indices
    return {f"best of {each}": (z[own], x[own]), f"best {count} of {len(z)}": (z[top], x[top])}


def cma_es(decoder: Decoder, rules: dict[str, Reward], count: int, calls: int, seed: int) -> Any:
    """The best answers that one run of CMA-ES ever evaluated; the penalty is the prior's."""
    import cma
    import numpy as np

    rewards = CountedRewards(rules)
    size = math.prod(decoder.latent_shape)
    search = cma.CMAEvolutionStrategy(
        size * [0.0], 1.0, {"popsize": 200, "seed": seed + 1, "verbose": -9, "CMA_diagonal": True}
    )
    seen, found, scores = [], [], []
    while rewards.calls + 200 <= calls:
        points = search.ask()
        z = torch.from_numpy(np.stack(points)).float().view(-1, *decoder.latent_shape)
        x = decoder.decode(z)
        score = rewards(x).sum(1)
        # within the shell of the prior nothing is lost, outside of it something
        outside = (z.flatten(1).norm(dim=1) / size**0.5 - 1).abs()
        search.tell(points, (-score + 0.1 * outside).double().tolist())
        seen.append(z)
        found.append(x)
        scores.append(score)
    z, x, score = torch.cat(seen), torch.cat(found), torch.cat(scores)
    # the same melody twice is one answer
    _, where = x.unique(dim=0, return_inverse=True)
    first = torch.full((int(where.max()) + 1,), len(x)).scatter_reduce(
        0, where, torch.arange(len(x)), "amin"
    )
    top = first[score[first].topk(min(count, len(first))).indices]
    return {"CMA-ES": (z[top], x[top])}


def main(flags: Flags) -> None:
    decoder = latentctl.load("melody-vae", pretrained_model_name_or_path=flags.base)
    bars = decoder.sample_shape[0] // 16
    source = MelodyDataFlags(str(data_folder() / f"melody{bars}bar"), bars)
    melodies = load_melodies(source, flags.seed)
    known, tunes = melodies["train"][:], melodies["test"]
    rules = rules_of(RuleFlags(), known)
    encodings = evaluation.encoded(decoder, melodies["train"], 12_000, flags.seed)
    counted, seconds = CountedRewards(rules, max_calls=flags.calls), Seconds()
    found = seconds.measure(
        "exploration", latentctl.explore, decoder, counted, encodings=encodings, seed=flags.seed
    )
    spent = counted.calls

    held = evaluation.encoded(decoder, tunes, flags.melodies, flags.seed)
    draw = latentctl.random.generator(flags.seed, purpose="posterior of real melodies")
    real = held.sample(torch.randn(held.mean.shape, generator=draw))
    rows = permutation(len(known), seed=0, epoch=0, purpose="n")[: evaluation.LEARNED]
    model = NgramModel(known[rows])
    result: dict[str, dict[str, float]] = {}

    def measure(name: str, z: Tensor, x: Tensor, start: Tensor) -> None:
        result[name] = evaluation.measure(z, x, start, rules, real, model)

    rows = permutation(len(tunes), seed=flags.seed, epoch=0, purpose="encodings")
    others = tunes[rows[flags.melodies : 2 * flags.melodies]]
    posterior = decoder.encode(others)
    other = posterior.sample(torch.randn(held.mean.shape, generator=draw))
    measure("real test tunes", other, others, other)
    dense = tunes[rows][(CountedRewards(rules)(tunes[rows]) == 1).all(1)][: flags.melodies]
    result["real test tunes that keep both"] = {
        **dict.fromkeys(result["real test tunes"], math.nan),
        **diversity(dense),
        "likelihood": model(dense).mean().item(),
    }
    made = evaluation.answers(decoder, found, flags.melodies, flags.seed + 1)
    for name, (z, x, start) in made.items():
        measure(name if name == "prior" else f"actor: {name}", z, x, start)
    start = made["prior"][0]
    ascent = Ascent(found.critic, found.actor.realism, realism_weight=0.3)
    first = next(iter(rules))
    for name, wanted in {first: {first: rules[first]}, " and ".join(rules): rules}.items():
        y = torch.tensor([[1.0 if rule in wanted else math.nan for rule in rules]])
        z = ascent(start, y)
        measure(f"ascent: {name}", z, decoder.decode(z, batch_size=500), start)
        for search in (best_of, cma_es) if flags.baselines else ():
            answers = search(decoder, wanted, flags.melodies, spent, flags.seed)
            for title, (z, x) in answers.items():
                measure(f"{title}: {name}", z, x, z)

    order = permutation(len(tunes), seed=flags.seed, epoch=0, purpose="edits")[: flags.edits]
    more = CountedRewards(rules)
    critic = seconds.measure(
        "critic of edits", evaluation.critic_of_edits, decoder, more, encodings, seed=flags.seed
    )
    edits = evaluation.edits_of(decoder, critic, rules, tunes[order])
    both, notes = torch.ones(1, len(rules)), rules["dense"].keywords["notes"]  # type: ignore[attr-defined]
    _, turns = in_turns(
        {
            "decoding": lambda: decoder.decode(start),
            "actor and decoding": lambda: decoder.decode(found.actor(start, both)),
        },
        rounds=7,
    )
    output: dict[str, Any] = {
        "rows": result,
        "edits": {name: receipt for name, (_, receipt) in edits.items()},
        "calls": spent,
        "calls of the critic of edits": more.calls,
        "seconds": seconds,
        "milliseconds": {k: 1000 * median(wall for _, wall in v) for k, v in turns.items()},
        "dense": notes,
        "share of the data that is dense": (onsets(known).sum(1) >= notes).float().mean().item(),
        "rounds": [vars(line) for line in found.rounds],
    }
    write(flags.output_dir / f"melodies-{flags.seed}.json", output)
    print(table([{"name": name, **row} for name, row in result.items()]))
    for name, receipt in output["edits"].items():
        report({"edits": name, **receipt})
    report({"calls": spent, **output["milliseconds"]})


if __name__ == "__main__":
    run(main, Flags)

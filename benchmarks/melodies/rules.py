"""Zero-shot rules on a frozen melody VAE: who keeps them, at what cost in calls and in realism.

    LATENTCTL_DATA=... python benchmarks/melodies.py --base FOLDER --seed 0

One run explores (`latentctl.explore`) and then answers from the same starts: the actor, gradient
ascent on the same critic, and, at the same number of calls of the rules, the best of N samples of
the prior (for each of the melodies, and over all), and CMA-ES in the latent space. Then 500 real
test tunes are edited, and the actor's time is set beside that of bare decoding.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from latentctl_adapters.melody_rewards import onsets
from torch import Tensor

import latentctl
import recipes.melody_rewards as recipe
import recipes.support.melody.evaluation as evaluation
from benchmarks.shared.face_base import data_folder
from latentctl import Ascent, Decoder, Latents
from latentctl.random import permutation
from latentctl.rewards import CountedRewards
from latentctl.rewards.reward_calls import Reward
from recipes.support.melody.data import MelodyDataFlags, load_melodies
from recipes.support.melody.metrics import NgramModel, diversity


@dataclass
class Flags:
    """Zero-shot rules."""

    base: str
    """The melody VAE."""
    seed: int = 0
    threads: int = 1
    melodies: int = 1000
    """Answers of each contender."""
    edits: int = 500
    """Test tunes that are edited."""
    calls: int = 60_000
    """Calls of the rules that each contender has."""
    rivals: bool = True
    """Also the best of N and CMA-ES."""
    output_dir: Path = Path("outputs/melodies")


def best_of(decoder: Decoder, rules: dict[str, Reward], count: int, calls: int, seed: int) -> Any:
    """The best of N = calls / count samples of the prior for each answer, and the best of all."""
    each = calls // count
    z = decoder.prior.sample(count * each, seed=~seed)
    x = torch.cat([decoder.decode(part) for part in z.split(500)])
    # a product alone would call all alike that break one rule altogether
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
        size * [0.0],
        1.0,
        {"popsize": 200, "seed": seed + 1, "verbose": -9, "CMA_diagonal": True},
    )
    seen, found, scores = [], [], []
    while rewards.calls + 200 <= calls:
        asked = search.ask()
        z = torch.from_numpy(np.stack(asked)).float().view(-1, *decoder.latent_shape)
        x = decoder.decode(z)
        score = rewards(x).sum(1)
        # within the shell of the prior nothing is lost, outside of it something
        outside = (z.flatten(1).norm(dim=1) / size**0.5 - 1).abs()
        search.tell(asked, (-score + 0.1 * outside).double().tolist())
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


def milliseconds(decoder: Decoder, move: Any, z: Tensor, repeats: int = 7) -> dict[str, float]:
    """Medians of 1,000 answers and of bare decoding, taken in turn."""
    took: dict[str, list[float]] = {"decoding": [], "actor and decoding": []}
    for _ in range(repeats):
        for name in took:
            began = time.perf_counter()
            decoder.decode(move(z) if name != "decoding" else z)
            took[name].append(1000 * (time.perf_counter() - began))
    return {name: median(values) for name, values in took.items()}


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    decoder = latentctl.load("melody-vae", pretrained_model_name_or_path=flags.base)
    bars = decoder.sample_shape[0] // 16
    folder = str(data_folder() / f"melody{bars}bar")
    melodies = load_melodies(MelodyDataFlags(folder, bars), flags.seed)
    known = melodies["train"][:]
    rules = recipe.rules_of(recipe.RuleFlags(), known)
    encodings = evaluation.encoded(decoder, melodies["train"], 12_000, flags.seed)
    counted = CountedRewards(rules, max_calls=flags.calls)
    began = time.process_time()
    found = latentctl.explore(decoder, counted, encodings=encodings, seed=flags.seed)
    seconds = {"exploration": time.process_time() - began}

    held = evaluation.encoded(decoder, melodies["test"], flags.melodies, flags.seed)
    draw = latentctl.random.generator(flags.seed, purpose="posterior of real melodies")
    real = held.sample(torch.randn(held.mean.shape, generator=draw))
    rows = permutation(len(known), seed=0, epoch=0, purpose="n")[: evaluation.LEARNED]
    model = NgramModel(known[rows])

    def measured(z: Tensor, x: Tensor, start: Tensor) -> dict[str, float]:
        return evaluation.measure(z, x, start, rules, real, model)

    made = evaluation.answers(decoder, found, flags.melodies, flags.seed + 1)
    result: dict[str, Any] = {
        name if name == "prior" else f"actor: {name}": measured(*part)
        for name, part in made.items()
    }
    start = made["prior"][0]
    tunes = melodies["test"]
    rows = permutation(len(tunes), seed=flags.seed, epoch=0, purpose="encodings")
    others = tunes[rows[flags.melodies : 2 * flags.melodies]]
    posterior = decoder.encode(others)
    other = Latents(posterior.mean, posterior.std).sample(
        torch.randn(held.mean.shape, generator=draw)
    )
    result = {"real test tunes": measured(other, others, other), **result}
    dense = tunes[rows][(CountedRewards(rules)(tunes[rows]) == 1).all(1)][: flags.melodies]
    result["real test tunes that keep both"] = {
        **dict.fromkeys(next(iter(result.values())), math.nan),
        **diversity(dense),
        "likelihood": model(dense).mean().item(),
    }
    first = dict(list(rules.items())[:1])
    ascent = Ascent(found.critic, found.actor.realism, realism_weight=0.3)
    for wanted in (first, rules):
        y = torch.tensor([[1.0 if name in wanted else math.nan for name in rules]])
        z = ascent(start, y)
        x = torch.cat([decoder.decode(part) for part in z.split(500)])
        result[f"ascent: {' and '.join(wanted)}"] = measured(z, x, start)
    if flags.rivals:
        for wanted in (first, rules):
            words = " and ".join(wanted)
            for rival in (best_of, cma_es):
                answers = rival(decoder, wanted, flags.melodies, counted.calls, flags.seed)
                for name, (z, x) in answers.items():
                    result[f"{name}: {words}"] = measured(z, x, z)

    order = permutation(len(tunes), seed=flags.seed, epoch=0, purpose="edits")
    edited = tunes[order[: flags.edits]]
    began, spent = time.process_time(), counted.calls
    more = CountedRewards(rules)
    critic = evaluation.critic_of_edits(decoder, more, encodings, seed=flags.seed)
    seconds["critic of edits"] = time.process_time() - began
    edits = evaluation.edits_of(decoder, critic, rules, edited)
    both = torch.ones(1, len(rules))
    clock = milliseconds(decoder, lambda z: found.actor(z, both), start)
    notes = onsets(known).sum(1).float()
    output = {
        "rows": result,
        "edits": {name: receipt for name, (_, receipt) in edits.items()},
        "calls": spent,
        "calls of the critic of edits": more.calls,
        "seconds": seconds,
        "milliseconds": clock,
        "dense": rules["dense"].keywords["notes"],  # type: ignore[attr-defined]
        "share of the data that is dense": float(
            (notes >= rules["dense"].keywords["notes"]).float().mean()  # type: ignore[attr-defined]
        ),
        "rounds": [vars(line) for line in found.rounds],
    }
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    (flags.output_dir / f"melodies-{flags.seed}.json").write_text(json.dumps(output, indent=2))
    keys = list(next(iter(result.values())))
    print("| | " + " | ".join(keys) + " |")
    print("|---|" + "---|" * len(keys))
    for name, row in result.items():
        print(f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in keys) + " |")
    print(json.dumps({key: output[key] for key in ("edits", "calls", "milliseconds")}, indent=1))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

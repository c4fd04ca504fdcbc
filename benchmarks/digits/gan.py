"""Digits on demand from a GAN without an encoder, judged by a LeNet of others.

    LATENTCTL_DATA=... python -m benchmarks.digits.gan_model --output_dir outputs/digits-gan
    LATENTCTL_DATA=... python -m benchmarks.digits.gan --seeds 0 1 2

The 64 latents are N(0, I). Their labels are those of what they decode to, by the small network of
`benchmarks.diffusion.digits`, which methods follow; the LeNet judges and is followed by nothing.
Measures are those of that benchmark. Of the GAN's own samples, accuracy is that of the network's
digit. `--learned` fits controllers on labelled latents as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import latentctl
from benchmarks.diffusion.baselines import GRADIENT, BestOf
from benchmarks.diffusion.digits import Bench
from benchmarks.digits.gan_model import Generator
from benchmarks.shared.run import BaseFlags, by_name, read, report, run, table, write
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching
from latentctl.controllers import Controller, Rejection, SphericalAscent
from latentctl.critics import prior_labels

OWN = 5000  # samples of the GAN itself; one digit is rare


@dataclass
class Flags(BaseFlags):
    seeds: tuple[int, ...] = (0,)
    count: int = 10  # Samples of each digit.
    budget: int = 60  # Evaluations of the generator for each sample.
    learned: bool = False  # Also fit controllers on labelled latents.
    labelled: int = 20_000  # Latents that they are fitted on.
    only: tuple[str, ...] = ()  # Names of methods; all of them if not given.
    output_dir: Path = Path("outputs/digits-gan")


def methods(bench: Bench, budget: int) -> dict[str, Callable[[], Controller | None]]:
    """Controllers that need no training."""
    critic, steps = bench.critic, budget // GRADIENT
    return {
        "prior": lambda: SphericalAscent(critic, steps=1, learning_rate=0.0),
        "best of N": lambda: BestOf(critic, budget),
        "rejection": lambda: Rejection(critic, candidates=budget),
        "the default": lambda: None,
        "Ascent for edits": lambda: Ascent.for_edits(critic, steps=steps),
        "on the sphere": lambda: SphericalAscent(critic, steps=steps),
    }


def learned(bench: Bench, flags: Flags, seed: int) -> dict[str, Callable[[], Controller]]:
    """Controllers that are fitted on labelled latents of the prior."""
    latents = prior_labels(bench.critic, flags.labelled, seed=seed + 100)
    seconds = bench.seconds

    def fit(name: str, kind: Any, **options: Any) -> Any:
        return seconds.measure(name, kind.fit, latents, seed=seed, **options)

    return {
        "FlowMatching": lambda: fit("flow", FlowMatching),
        "Ascent on a fitted critic": lambda: Ascent(fit("critic", AttributeCritic)),
        "Actor": lambda: fit("actor", Actor, attributes=bench.critic, attribute_weight=0.3),
    }


def main(flags: Flags) -> None:
    generator = Generator.load(flags.output_dir)
    decoder = latentctl.wrap(generator, value_range=(-1.0, 1.0), latent_shape=(64,))
    bench = Bench(decoder, flags.count, flags.output_dir, OWN)
    report({"name": "the GAN", **bench.known})
    for seed in flags.seeds:
        made = methods(bench, flags.budget)
        if flags.learned:
            made |= learned(bench, flags, seed)
        rows = [
            bench.measure(name, make(), seed)
            for name, make in made.items()
            if not flags.only or name in flags.only
        ]
        write(flags.output_dir / f"gan-{seed}.json", {"rows": rows, "known": bench.known})
    runs = [result["rows"] for result in read(flags.output_dir, "gan-*.json")]
    print(table(by_name(runs)))


if __name__ == "__main__":
    run(main, Flags)

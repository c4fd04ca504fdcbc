"""Two processes against one at the same global batch: throughput, and difference of the weights.

The game is that of Latent Constraints in small: a critic and an actor of 4 x 512 rectified units
with a gradient penalty, 5 : 1, on random latents. Each process gets one thread:

    python benchmarks/two_processes.py

The sums of two halves round differently from the sum of the whole, and training in float32 lets
that grow; in float64 what is left is what the loop itself does differently.

On the CPU `accelerate launch --cpu --num_processes 2` starts one process where there is no mpirun,
so the two are launched by `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from latentctl.random import generator
from latentctl.training import Player, Step, fit

WARM_UP = 6  # one round of the game


def network(sizes: list[int]) -> nn.Sequential:
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def game(options: argparse.Namespace) -> list[Player]:
    torch.manual_seed(0)
    hidden = [options.width] * 4
    critic = network([options.latent_size, *hidden, 1])
    actor = network([options.latent_size, *hidden, options.latent_size])

    def judge(real: Tensor, step: Step) -> tuple[Tensor, dict]:
        with torch.no_grad():
            fake = actor(step.normal(options.latent_size))
        between = real.lerp(fake, step.uniform(1)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        wrong = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
        return wrong + 10 * (slope.norm(dim=1) - 1).square().mean(), {}

    def act(real: Tensor, step: Step) -> tuple[Tensor, dict]:
        return F.softplus(-critic(actor(step.normal(options.latent_size)))).mean(), {}

    adam = torch.optim.Adam
    return [
        Player("critic", critic, judge, adam(critic.parameters(), 3e-4), turns=5),
        Player("actor", actor, act, adam(actor.parameters(), 3e-4)),
    ]


def train(path: Path, options: argparse.Namespace) -> None:
    accelerator = Accelerator()
    torch.set_default_dtype(getattr(torch, options.dtype))
    players, times = game(options), []
    fit(
        players,
        0.5 * torch.randn(20_000, options.latent_size, generator=generator(0, purpose="data")),
        max_train_steps=options.steps + WARM_UP,
        batch_size=options.batch_size,
        accelerator=accelerator,
        progress=False,
        on_step=lambda step: times.append(time.perf_counter()),
    )
    if accelerator.is_main_process:
        weights = [weight for player in players for weight in player.module.state_dict().values()]
        rate = options.steps * options.batch_size / (times[-1] - times[WARM_UP - 1])
        torch.save(weights, path / f"{accelerator.num_processes}.pt")
        (path / f"{accelerator.num_processes}.json").write_text(json.dumps(rate))
    accelerator.end_training()


def compare(dtype: str) -> tuple[float, float, float]:
    """Samples/s of one process and of two, and the largest difference of a weight."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    with tempfile.TemporaryDirectory() as path:
        for how in (["--cpu", "--num_processes", "1"], ["--multi_gpu", "--num_processes", "2"]):
            script = [__file__, *sys.argv[1:], "--path", path, "--dtype", dtype]
            subprocess.run([*launch, *how, *script], env=environment, check=True)
        rates = [json.loads((Path(path) / f"{n}.json").read_text()) for n in (1, 2)]
        one, two = (torch.load(Path(path) / f"{n}.pt") for n in (1, 2))
    difference = max((a - b).abs().max().item() for a, b in zip(one, two, strict=True))
    return rates[0], rates[1], difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latent_size", type=int, default=128)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.path:
        train(options.path, options)
        return
    for dtype in ("float32", "float64"):
        runs = [compare(dtype) for _ in range(options.repeats if dtype == "float32" else 1)]
        ratios = [two / one for one, two, _ in runs]
        print(
            f"{dtype}: {median(one for one, _, _ in runs):.0f} samples/s with one process, "
            f"{median(two for _, two, _ in runs):.0f} with two, median ratio {median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); after {options.steps + WARM_UP} steps the "
            f"largest difference of a weight is {max(far for _, _, far in runs):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()

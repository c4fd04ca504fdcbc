"""Two processes against one at the same global batch: throughput, and difference of the weights.

The adversarial training is that of Latent Constraints in small: a critic and an actor of 4 x 512
rectified units with a gradient penalty, 5 : 1, on random latents. Each process gets one thread:

    python -m benchmarks.systems.two_processes

The sums of two halves round differently from the sum of the whole, and training in float32
amplifies that; in float64 what is left is due to the loop itself.

On the CPU `accelerate launch --cpu --num_processes 2` starts one process where there is no mpirun,
so the two are launched by `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.shared.run import BaseFlags, run, table, write
from latentctl.random import generator
from latentctl.training import Player, Step, fit

WARM_UP = 6  # one round of the game


@dataclass
class Flags(BaseFlags):
    latent_size: int = 128
    width: int = 512
    batch_size: int = 512
    steps: int = 60
    repeats: int = 3
    dtype: str = ""  # Set in the processes that are launched.
    output_dir: Path = Path("outputs/two_processes")


def network(sizes: list[int]) -> nn.Sequential:
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def game(flags: Flags) -> list[Player]:
    torch.manual_seed(0)
    size, hidden = flags.latent_size, [flags.width] * 4
    critic, actor = network([size, *hidden, 1]), network([size, *hidden, size])

    def critic_loss(real: Tensor, step: Step) -> tuple[Tensor, dict]:
        with torch.no_grad():
            fake = actor(step.normal(size))
        between = real.lerp(fake, step.uniform(1)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        wrong = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
        return wrong + 10 * (slope.norm(dim=1) - 1).square().mean(), {}

    def actor_loss(real: Tensor, step: Step) -> tuple[Tensor, dict]:
        return F.softplus(-critic(actor(step.normal(size)))).mean(), {}

    adam = torch.optim.Adam
    return [
        Player("critic", critic, critic_loss, adam(critic.parameters(), 3e-4), turns=5),
        Player("actor", actor, actor_loss, adam(actor.parameters(), 3e-4)),
    ]


def train(flags: Flags) -> None:
    """Trains in one of the launched processes, and writes weights and samples/s."""
    accelerator = Accelerator()
    torch.set_default_dtype(getattr(torch, flags.dtype))
    players, times = game(flags), []
    fit(
        players,
        0.5 * torch.randn(20_000, flags.latent_size, generator=generator(0, purpose="data")),
        max_train_steps=flags.steps + WARM_UP,
        batch_size=flags.batch_size,
        accelerator=accelerator,
        progress=False,
        on_step=lambda step: times.append(time.perf_counter()),
    )
    if accelerator.is_main_process:
        weights = [weight for player in players for weight in player.module.state_dict().values()]
        rate = flags.steps * flags.batch_size / (times[-1] - times[WARM_UP - 1])
        torch.save((rate, weights), flags.output_dir / f"{accelerator.num_processes}.pt")
    accelerator.end_training()


def compare(dtype: str) -> tuple[float, float, float]:
    """Samples/s of one process and of two, and the largest difference of a weight."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    with tempfile.TemporaryDirectory() as path:
        own = ["-m", __spec__.name, *sys.argv[1:], "--output_dir", path, "--dtype", dtype]
        for how in (["--cpu", "--num_processes", "1"], ["--multi_gpu", "--num_processes", "2"]):
            subprocess.run([*launch, *how, *own], env=environment, check=True)
        (one, a), (two, b) = (torch.load(Path(path) / f"{n}.pt") for n in (1, 2))
    return one, two, max((v - w).abs().max().item() for v, w in zip(a, b, strict=True))


def main(flags: Flags) -> None:
    if flags.dtype:
        train(flags)
        return
    rows = []
    for dtype in ("float32", "float64"):
        runs = [compare(dtype) for _ in range(flags.repeats if dtype == "float32" else 1)]
        one, two, far = ([run[i] for run in runs] for i in range(3))
        row = {"dtype": dtype, "samples/s with one process": median(one), "with two": median(two)}
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        rows.append({**row, "ratio": ratios, "largest difference of a weight": max(far)})
    print(table(rows))
    write(flags.output_dir / "two_processes.json", rows)


if __name__ == "__main__":
    run(main, Flags)

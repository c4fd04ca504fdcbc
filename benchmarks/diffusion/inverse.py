"""Round trips, edits of real digits and a rule by a pipeline's noise; and memory by steps.

    LATENTCTL_DATA=... python -m benchmarks.diffusion.inverse --seeds 0 1 2

The pipeline and the network that edits follow are those of `benchmarks.diffusion.digits`, the
judge is a LeNet of others. Errors are mean squares of samples in [0, 1]. An edit asks for the digit
after the one that the judge sees; its change is relative to the distance of two test digits.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import latentctl
from benchmarks.diffusion.digits import Digits
from benchmarks.shared.base import load_weights
from benchmarks.shared.digits import LeNet, load_mnist
from benchmarks.shared.run import (
    BaseFlags,
    Row,
    by_name,
    in_process,
    read,
    report,
    run,
    table,
    write,
)
from latentctl import PixelCritic
from latentctl.controllers import Rejection
from latentctl.display.picture import grid, png
from latentctl.latents import typicality
from latentctl.random import noise, permutation

CLOSE = 1e-3  # mean square of a round trip
INK = (0.15, 0.18)  # share of the picture
STEPS = (1, 4, 20, 50)
BATCH = 64  # latents in the measurement of memory
PAGES = 65536  # bytes from which a tensor has pages of its own


@dataclass
class Flags(BaseFlags):
    pipeline: Path = Path("outputs/diffusion-digits/pipeline")
    steps: tuple[int, ...] = (4, 20)  # Of the samplers that are inverted.
    seeds: tuple[int, ...] = (0,)
    count: int = 50  # Digits of a seed.
    output_dir: Path = Path("outputs/diffusion-digits")


def unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


def ink(x: Tensor) -> Tensor:
    """Whether the share of ink of pictures in [0, 1] is in a narrow range, `(B, 1)`."""
    share = x.mean((1, 2, 3))
    return ((share > INK[0]) & (share < INK[1])).float()[:, None]


def round_trips(decoder: latentctl.Decoder, x: Tensor, name: str) -> tuple[Row, Tensor]:
    z = decoder.encode(x, batch_size=50).mean
    error = ((decoder.decode(z, batch_size=50) - x) / 2).flatten(1).square().mean(1)
    row = {
        "name": name,
        "median error": error.median().item(),
        "within 0.001": (error <= CLOSE).float().mean().item(),
        "typical": (typicality(z) >= 0.01).float().mean().item(),
    }
    return report(row), z


def edits(critic: PixelCritic, judge: LeNet, x: Tensor, file: Path) -> Row:
    """Real digits, each turned into the next one."""
    before = judge.digits(judge.features(unit(x)))
    wanted = (before + 1) % 10
    y = torch.full((len(x), 10), torch.nan)
    y[torch.arange(len(x)), wanted] = 1
    out = latentctl.condition(critic.decoder, critic).edit(x, y=y, hold=False)
    after = judge.digits(judge.features(unit(out.x)))
    apart = (x - x.roll(1, 0)).square().mean().sqrt()
    rows = torch.cat([x[:12], out.x[:12]])
    file.write_bytes(png(grid(rows, columns=12, value_range=(-1.0, 1.0))))
    return report(
        {
            "name": "real digits turned into the next",
            "judged right": (after == wanted).float().mean().item(),
            "claimed": out.satisfied.float().mean().item(),
            "change": ((out.x - x).square().mean().sqrt() / apart).item(),
            "typical": (out.typicality >= 0.01).float().mean().item(),
            "evaluations": out.evaluations.float().mean().item(),
        }
    )


def rule(decoder: latentctl.Decoder, count: int, seed: int) -> Row:
    """Samples that keep a rule without gradient."""
    critic = PixelCritic(decoder, ink, names=["ink"], probabilities=True)
    steered = latentctl.condition(decoder, critic, Rejection(critic))
    plain = steered.sample(count, strength=0, seed=seed)
    out = steered.sample(count, ink=True, seed=seed)
    spread = torch.pdist(out.x.flatten(1)).mean() / torch.pdist(plain.x.flatten(1)).mean()
    return report(
        {
            "name": "ink between 15 and 18 %",
            "kept by the prior": ink(unit(plain.x)).mean().item(),
            "kept": ink(unit(out.x)).mean().item(),
            "diversity": spread.item(),
            "typical": (out.typicality >= 0.01).float().mean().item(),
            "evaluations": out.evaluations.float().mean().item(),
        }
    )


def peak_memory(pipeline: Path, steps: int, checkpointing: bool = True) -> float:
    """MiB that a gradient to a batch of latents adds to the peak of the process."""
    where = {"pretrained_model_name_or_path": pipeline, "steps": steps}
    decoder = latentctl.load("diffusers-pipeline", **where, checkpointing=checkpointing)
    z = noise(0, BATCH, decoder.latent_shape, seed=0)
    decoder.decode(z[:1])
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the imports
    z.requires_grad_()
    decoder.decode(z).square().sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024


def memory(pipeline: Path, steps: int) -> Row:
    """Peaks with a heap for all tensors, and with pages for each large one."""
    row: Row = {"name": f"{steps} steps", "one heap": in_process(peak_memory, pipeline, steps)}
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(PAGES)
    row["own pages"] = in_process(peak_memory, pipeline, steps)
    row["own pages, no checkpointing"] = (
        in_process(peak_memory, pipeline, steps, False) if steps < 10 else None
    )
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return report(row)


def main(flags: Flags) -> None:
    judge, test = load_weights(LeNet(), "mnist_lenet"), load_mnist()["test"]
    network = Digits()
    network.load_state_dict(load_file(str(flags.output_dir / "network.safetensors")))
    network.eval()
    where = {"pretrained_model_name_or_path": flags.pipeline}
    decoders = {
        steps: latentctl.load("diffusers-pipeline", **where, steps=steps, checkpointing=False)
        for steps in flags.steps
    }
    for seed in flags.seeds:
        order = permutation(len(test), seed=seed, epoch=0)[: flags.count]
        x, rows = 2 * test.pixels(order) - 1, []
        for steps, decoder in decoders.items():
            own = decoder.decode(decoder.prior.sample(flags.count, seed=seed), batch_size=50)
            rows += [round_trips(decoder, x, f"test digits, {steps} steps")[0]]
            rows += [round_trips(decoder, own, f"own samples, {steps} steps")[0]]
        few = decoders[flags.steps[0]]
        critic = PixelCritic(few, network)
        file = flags.output_dir / f"edits-{seed}.png"
        made = [edits(critic, judge, x, file)]
        kept = [rule(few, flags.count, seed)]
        write(
            flags.output_dir / f"inverse-{seed}.json", {"trips": rows, "edits": made, "rule": kept}
        )
    for part in ("trips", "edits", "rule"):
        print(table(by_name(r[part] for r in read(flags.output_dir, "inverse-*.json"))), "\n")
    print(table([memory(flags.pipeline, steps) for steps in STEPS]))


if __name__ == "__main__":
    run(main, Flags)

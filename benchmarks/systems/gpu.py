"""Speed on a GPU, in ten minutes: encoding, training, samples, edits, a grid, the paper's sizes.

    python -m benchmarks.systems.gpu
    python -m benchmarks.systems.gpu --mixed_precision bf16 --output_dir outputs/gpu_bf16

It needs no data and no network. Networks are untrained, latents and labels are noise: the time of a
step or a sample does not depend on them, but for edits, of which an untrained critic calls none
finished, so that all of their steps are made. Each measurement takes `--seconds`, after a warm-up.
A part that fails, such as for lack of memory, is a row of its own. Without a GPU it runs on the
CPU. The main job is timed by `--parts main_job`, which needs the extras of the recipes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from latentctl_adapters.residual_vae import ResidualVAE

import latentctl
from benchmarks.edits.taef2_model import DOWN, LATENT, TinyAutoencoder
from benchmarks.shared.run import BaseFlags, Row, report, run, table, write
from latentctl import Actor, AttributeCritic, Decoder, FlowMatching, LatentFlow, Latents
from latentctl.evaluation.speed import calls_per_second, measure_speed
from latentctl.random import noise, seeded

MIB = 2**20
PAPER_STEPS = 200_000
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Flags(BaseFlags):
    num_threads: int = 8  # CPU threads of torch.
    parts: tuple[str, ...] = ("encoding", "critics", "sampling", "editing", "grids", "paper")
    mixed_precision: str = "no"  # Of trainings: no or bf16.
    seconds: float = 10.0  # Of each measurement.
    images: int = 8192  # That are encoded into a cache.
    batch_size: int = 256
    resolution: int = 64
    attributes: int = 40
    latent_size: int = 256
    width: int = 512  # Of critics, actors and flows.
    grid_sides: tuple[int, ...] = (256, 512)
    grid_batch_size: int = 16
    paper_latent: int = 1024
    paper_width: int = 2048
    output_dir: Path = Path("outputs/gpu")


def row(name: str, rate: float, unit: str, **more: Any) -> Row:
    """A row of the table, printed; with the peak of the device's memory since the last one."""
    found: Row = {"what": name, "a second": rate, "of": unit, **more}
    if torch.cuda.is_available():
        found["peak MiB"] = torch.cuda.max_memory_allocated() / MIB
        torch.cuda.reset_peak_memory_stats()
    return report(found)


def faces(flags: Flags) -> Decoder:
    """The untrained decoder of the drawn faces' network, on the device."""
    with seeded(0):
        decoder = latentctl.wrap(ResidualVAE(flags.resolution, latent_size=flags.latent_size))
    return decoder.to(Accelerator().device)


def encodings(flags: Flags, shape: tuple[int, ...], count: int = 8192) -> Latents:
    """Noise as encodings with labels, in memory."""
    z = noise(0, count, shape, seed=0, purpose="encodings")
    labels = (noise(0, count, (flags.attributes,), seed=0, purpose="labels") > 0).float()
    names = [f"attribute_{number}" for number in range(flags.attributes)]
    return Latents(z, torch.full_like(z, 0.1), labels, names)


def pictures(flags: Flags, count: int, side: int) -> torch.Tensor:
    return noise(0, count, (3, side, side), seed=0, purpose="pictures", uniform=True)


def steps_per_second(fit: Callable[..., Any], flags: Flags) -> float:
    """Steps a second of a training, without the first ten."""
    times = [time.perf_counter()]
    fit(
        max_train_steps=10**6,
        max_train_seconds=flags.seconds,
        batch_size=flags.batch_size,
        progress=False,
        on_step=lambda step: times.append(time.perf_counter()),
    )
    times = times[min(10, len(times) - 2) :]
    return (len(times) - 1) / (times[-1] - times[0])


def encoding(flags: Flags) -> Iterator[Row]:
    decoder, size = faces(flags), f"{flags.resolution} px, batch {flags.batch_size}"
    x = pictures(flags, flags.images, flags.resolution)
    found = measure_speed(decoder, flags.batch_size, seconds=flags.seconds)
    yield row(f"`decoder.encode`, {size}", found["encode_per_second"], "images")
    yield row(f"`decoder.decode`, {size}", found["decode_per_second"], "images")
    yield row(
        f"decoding with its gradient, {size}", found["decode_and_backward_per_second"], "images"
    )
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        latentctl.encode_dataset(decoder, x, folder, batch_size=flags.batch_size, progress=False)
        rate = len(x) / (time.perf_counter() - start)
    yield row(f"`encode_dataset` of tensors in memory, with writing, {size}", rate, "images")


def critics(flags: Flags) -> Iterator[Row]:
    latents = encodings(flags, (flags.latent_size,))
    trained = {
        "AttributeCritic": AttributeCritic.fit,
        "FlowMatching": FlowMatching.fit,
        "LatentFlow, coupling": partial(LatentFlow.fit, kind="coupling"),
        "Actor with its critic": partial(Actor.fit, distance_weight=0.1),
    }
    for name, fit in trained.items():
        rate = steps_per_second(partial(fit, latents, width=flags.width), flags)
        size = f"latent {flags.latent_size}, width {flags.width}, batch {flags.batch_size}"
        yield row(f"{name}, {size}", rate, "steps")


def conditional(flags: Flags, decoder: Decoder) -> latentctl.Conditional:
    """Untrained parts on the device."""
    names = [f"attribute_{number}" for number in range(flags.attributes)]
    with seeded(0):
        critic = AttributeCritic(decoder.latent_shape, names, width=flags.width)
        actor = Actor(decoder.latent_shape, names, width=flags.width)
    return latentctl.condition(decoder, critic, actor).to(decoder.device)


def sampling(flags: Flags) -> Iterator[Row]:
    decoder, count = faces(flags), flags.batch_size
    drawn, device = conditional(flags, decoder), decoder.device
    z = decoder.prior.sample(count).to(device)
    bare = calls_per_second(torch.no_grad()(partial(decoder.decode, z)), device, flags.seconds)
    yield row(f"bare decoding, batch {count}", bare * count, "samples")
    sample = partial(drawn.sample, count, attribute_0=True)
    rate = calls_per_second(sample, device, flags.seconds)
    share = {"of bare decoding": rate / bare}
    yield row(f"`Conditional.sample` by an actor, batch {count}", rate * count, "samples", **share)


def editing(flags: Flags) -> Iterator[Row]:
    decoder, count = faces(flags), flags.batch_size
    edited = conditional(flags, decoder)
    x = pictures(flags, count, flags.resolution).to(decoder.device)
    edit = partial(edited.edit, x, attribute_0=True)
    rate = calls_per_second(edit, decoder.device, flags.seconds)
    yield row(f"`Conditional.edit` by the default editor, batch {count}", rate * count, "edits")


def grids(flags: Flags) -> Iterator[Row]:
    """A tiny autoencoder of images, and edits in its grid; in bfloat16 on a GPU."""
    device = Accelerator().device
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for side in flags.grid_sides:
        shape = (LATENT, side // DOWN, side // DOWN)
        with seeded(0):
            model = TinyAutoencoder().to(device, dtype)
        decoder = latentctl.wrap(model, latent_shape=shape, value_range=(0.0, 1.0))
        count, size = flags.grid_batch_size, f"taef2, {side} px, batch {flags.grid_batch_size}"
        found = measure_speed(decoder, count, seconds=flags.seconds)
        for kind in ("encode", "decode", "decode_and_backward"):
            yield row(f"{kind}, {size}", found[f"{kind}_per_second"], "images")
        edited = conditional(flags, decoder)
        x = pictures(flags, count, side).to(device, dtype)
        edit = partial(edited.edit, x, attribute_0=True)
        rate = calls_per_second(edit, decoder.device, flags.seconds)
        yield row(f"edits by the default editor, {size}", rate * count, "edits")


def paper(flags: Flags) -> Iterator[Row]:
    """The game of Latent Constraints at its sizes: latents of 1024, networks of 2048 x 4."""
    latents = encodings(flags, (flags.paper_latent,))
    sizes: dict[str, Any] = {"width": flags.paper_width, "depth": 4, "critic_turns": 10}
    rate = steps_per_second(partial(Actor.fit, latents, distance_weight=0.1, **sizes), flags)
    name = f"Actor with its critic, latent {flags.paper_latent}, {flags.paper_width} x 4"
    hours = {f"hours of {PAPER_STEPS:,} steps": PAPER_STEPS / rate / 3600}
    yield row(f"{name}, batch {flags.batch_size}", rate, "steps", **hours)


def main_job(flags: Flags) -> Iterator[Row]:
    """The README's main job at its small preset, in a process of its own."""
    command = [sys.executable, str(ROOT / "recipes" / "celeba_attrs.py"), "--preset", "small"]
    start = time.perf_counter()
    subprocess.run([*command, "--output_dir", str(flags.output_dir / "main")], check=True)
    seconds = time.perf_counter() - start
    yield row("the main job, small preset", 1 / seconds, "runs", seconds=seconds)


PARTS: dict[str, Callable[[Flags], Iterator[Row]]] = {
    part.__name__: part for part in (encoding, critics, sampling, editing, grids, paper, main_job)
}


def main(flags: Flags) -> None:
    os.environ["ACCELERATE_MIXED_PRECISION"] = flags.mixed_precision
    device = Accelerator().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    facts = {"device": name, "torch": torch.__version__, "mixed precision": flags.mixed_precision}
    report(facts)
    rows: list[Row] = []
    for part in flags.parts:
        try:
            rows += PARTS[part](flags)
        except Exception as error:  # the other parts are measured all the same
            rows.append(report({"what": part, "of": f"failed: {type(error).__name__}: {error}"}))
        write(flags.output_dir / "gpu.json", {**facts, "rows": rows})
    columns = {key: key for found in rows for key in found}
    print(f"\n{table(rows, columns)}\n")


if __name__ == "__main__":
    run(main, Flags, cpu=False)

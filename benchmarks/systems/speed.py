"""Speed of the library beside what it adds to: bare decoding, encoding, and Ascent as it is not.

    LATENTCTL_DATA=... python benchmarks/speed.py

All contenders run in one process on one thread, in turns, in an order that changes every round.
Times are CPU time of the process, which other load disturbs less than the clock on the wall. A
ratio is the median of the ratios within a round, with its quartiles; that of wall time is beside.

Decoder and encodings are the face VAE of `face_base.py` and real test faces; without
LATENTCTL_DATA, an untrained `ConvVAE` and random pictures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

import latentctl
from latentctl import Actor, Ascent, AttributeCritic, Decoder, Latents, RealismCritic
from latentctl.random import generator, noise, seeded
from latentctl.training import Step

CRITICS = (
    (AttributeCritic, {"depth": 2, "width": 512, "dropout": 0.3}),  # as its `fit` has it
    (RealismCritic, {"depth": 4, "width": 512}),
    (RealismCritic, {"depth": 3, "width": 256}),
)
Seconds = dict[str, list[tuple[float, float]]]


def faces(count: int) -> tuple[Decoder, Tensor, Tensor, list[str]]:
    """The decoder, and `count` pictures in bytes with their labels and the labels' names."""
    if os.environ.get("LATENTCTL_DATA"):
        from benchmarks.shared.face_base import ATTRIBUTES, load_face_vae, load_faces

        pixels, labels, _ = load_faces("test")
        return latentctl.wrap(load_face_vae()), pixels[:count], labels[:count], list(ATTRIBUTES)
    from latentctl_adapters.conv_vae import ConvVAE

    with seeded(0):
        decoder = latentctl.wrap(ConvVAE(latent_size=256))
    pixels = (255 * noise(0, count, decoder.sample_shape, seed=0, uniform=True)).byte()
    labels = (noise(0, count, (10,), seed=0, purpose="labels") > 0).float()
    return decoder, pixels, labels, [f"Attribute_{k}" for k in range(10)]


def measure(contenders: dict[str, Callable[[], Any]], rounds: int) -> Seconds:
    """CPU and wall seconds of every contender in every round, after one round that warms up."""
    names, seconds = list(contenders), Seconds()
    for turn in range(-1, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            cpu, wall = time.process_time(), time.perf_counter()
            contenders[name]()
            if turn >= 0:
                spent = time.process_time() - cpu, time.perf_counter() - wall
                seconds.setdefault(name, []).append(spent)
    return seconds


def row(what: str, seconds: Seconds, slow: str, fast: str, goal: str = "none") -> None:
    """One line of the table: how many times as long `slow` takes as `fast`."""
    pairs = list(zip(seconds[slow], seconds[fast], strict=True))
    cpu, wall = ([a[clock] / b[clock] for a, b in pairs] for clock in (0, 1))
    low, _, high = quantiles(cpu, n=4)
    times = (f"{1e3 * median(spent[0] for spent in seconds[name]):.1f}" for name in (slow, fast))
    print(
        f"| {what} | {' | '.join(times)} | {median(cpu):.2f} ({low:.2f} to {high:.2f}) | "
        f"{median(wall):.2f} | {goal} |",
        flush=True,
    )


def sampling(decoder: Decoder, y: Tensor, names: list[str], options: Any) -> None:
    count = options.batch_size
    z, decode = decoder.prior.sample(count), torch.no_grad()(decoder.decode)
    contenders: dict[str, Callable[[], Any]] = {"decode": lambda: decode(z)}
    with seeded(0):
        critic = AttributeCritic(decoder.latent_shape, names)
        for width, depth in ((512, 4), (256, 3)):
            actor = Actor(decoder.latent_shape, names, width=width, depth=depth)
            conditional = latentctl.condition(decoder, critic, actor)
            # an untrained critic is sure of nothing, so every sample is moved
            contenders[f"{depth} x {width}"] = lambda c=conditional: c.sample(count, y=y[:count])
    seconds = measure(contenders, options.rounds)
    for name in list(contenders)[1:]:
        row(
            f"`decoder.decode` / `Conditional.sample`, actor {name}, batch {count}",
            seconds,
            "decode",
            name,
            ">= 0.9",
        )


def training(decoder: Decoder, latents: Latents, pixels: Tensor, options: Any) -> None:
    shape, labels = decoder.latent_shape, latents.labels
    count = options.train_batch_size
    rows = torch.randperm(len(latents), generator=generator(0, purpose="rows"))[:count]
    place = Step(0, 0, 0, count, count)

    def cached() -> Latents:
        return latents[rows]

    def encoded() -> Latents:
        posterior = decoder.encode(pixels[rows].float() / 255)
        return Latents(posterior.mean, posterior.std, labels[rows], latents.names)

    def loss(critic: AttributeCritic | RealismCritic, batch: Latents) -> Tensor:
        if isinstance(critic, AttributeCritic):
            return critic.loss(batch, place)[0]
        real, fake = batch.sample(place.normal(*shape)), decoder.prior.sample(count)
        others = batch.labels.roll(1, 0)
        return critic.loss(real, fake, place.uniform(*shape), batch.labels, others)[0]

    def step(critic: Any, optimizer: torch.optim.Optimizer, get: Callable[[], Latents]) -> None:
        optimizer.zero_grad()
        loss(critic, get()).backward()
        optimizer.step()

    for kind, sizes in CRITICS:
        with seeded(0):
            critic = kind(shape, latents.names, **sizes)
        one = partial(step, critic, torch.optim.Adam(critic.parameters(), 1e-4))
        seconds = measure({"A": partial(one, encoded), "B": partial(one, cached)}, options.rounds)
        what = f"step of {kind.__name__} {sizes['depth']} x {sizes['width']}"
        row(f"{what}: encoding first / cached", seconds, "A", "B", ">= 15")


def ascending(latents: Latents, options: Any) -> str:
    critic = AttributeCritic.fit(latents, max_train_steps=300)
    z = latents.mean[:256]
    with torch.no_grad():
        y = critic.probability(z).clamp(1e-6, 1 - 1e-6)
    changed = latents.names.index("Smiling") if "Smiling" in latents.names else 0
    y[:, changed] = (y[:, changed] < 0.5).float()
    every, fewer = (partial(Ascent(critic, drop_finished=d).move, z, y) for d in (False, True))
    kept, dropped = every(), fewer()
    apart, moved = ((kept.z - other).abs().max().item() for other in (dropped.z, z))
    seconds = measure({"every": every, "fewer": fewer}, max(3, options.rounds // 3))
    row(f"Ascent, {len(z)} edits: all stay / finished ones leave", seconds, "every", "fewer")
    return (
        f"Ascent flips `{latents.names[changed]}` and holds the rest: evaluations per sample "
        f"{dropped.evaluations.median()} in the median, {dropped.evaluations.max()} at most; "
        f"largest difference of the two results {apart:.1e} (largest move {moved:.2f})."
    )


def encoding(decoder: Decoder, latents: Latents, pixels: Tensor, options: Any) -> str:
    rows, size = list(zip(pixels, latents.labels, strict=True)), options.batch_size

    job = {"attributes": latents.names, "batch_size": size, "progress": False}

    def whole() -> None:
        with tempfile.TemporaryDirectory() as path:
            latentctl.encode_dataset(decoder, rows, path, **job)

    def bare() -> None:
        for part in pixels.split(size):
            decoder.encode(part.float() / 255)

    seconds = measure({"bare": bare, "whole": whole}, max(3, options.rounds // 3))
    row(f"bare `decoder.encode` / `encode_dataset`, {len(rows)} images", seconds, "bare", "whole")
    cpu, wall = (len(rows) / median(spent[c] for spent in seconds["whole"]) for c in (0, 1))
    return f"`encode_dataset`: {cpu:.0f} images per CPU second, {wall:.0f} per second on the wall."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--train_batch_size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decoder, pixels, labels, names = faces(options.images)
    print(f"{decoder.name}, latent {decoder.latent_shape}, torch {torch.__version__}, one thread\n")
    print("| A / B | A, ms of CPU | B, ms of CPU | A / B (quartiles) | wall | goal |")
    print("|---|---|---|---|---|---|", flush=True)
    posteriors = [decoder.encode(part.float() / 255) for part in pixels.split(64)]
    mean, std = (torch.cat([getattr(q, k) for q in posteriors]) for k in ("mean", "std"))
    latents = Latents(mean, std, labels, names)
    sampling(decoder, labels, names, options)
    training(decoder, latents, pixels, options)
    notes = [ascending(latents, options), encoding(decoder, latents, pixels, options)]
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()

"""Speed of the library beside what it adds to: bare decoding, encoding, and simpler ascents.

    LATENTCTL_DATA=... python -m benchmarks.systems.speed
    python -m benchmarks.systems.speed --against OTHER

All contenders run in one process on one thread, in turns, in an order that changes every round.
Times are CPU time of the process, which other load disturbs less than wall time. A ratio is the
median of the ratios within a round, with its quartiles; that of wall time is beside. An edit is
timed by `benchmarks/systems/edit_time.py`; `--against` times it on another checkout as well, in
turns, and prints the ratio.

Decoder and encodings are the face VAE of `benchmarks/shared/face_base.py` and real test faces;
without LATENTCTL_DATA, an untrained `ConvVAE` and random pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from latentctl_adapters.conv_vae import ConvVAE
from torch import Tensor

import latentctl
from benchmarks.shared.base import encode, pixels
from benchmarks.shared.run import BaseFlags, Row, by_name, in_turns, report, run, table, write
from latentctl import Actor, Ascent, AttributeCritic, Decoder, Latents, RealismCritic
from latentctl.controllers.request import flips
from latentctl.random import generator, noise, seeded
from latentctl.training import Step

CRITICS = (
    (AttributeCritic, {"depth": 2, "width": 512, "dropout": 0.3}),  # as its `fit` has it
    (RealismCritic, {"depth": 4, "width": 512}),
    (RealismCritic, {"depth": 3, "width": 256}),
)
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Flags(BaseFlags):
    images: int = 1024
    batch_size: int = 64
    train_batch_size: int = 256
    rounds: int = 15
    against: Path | None = None  # Another checkout: only edits are timed, on both.
    output_dir: Path = Path("outputs/speed")


def faces(count: int) -> tuple[Decoder, Tensor, Tensor, list[str]]:
    """The decoder, and `count` pictures in bytes with their labels and the labels' names."""
    if os.environ.get("LATENTCTL_DATA"):
        from benchmarks.shared.face_base import ATTRIBUTES, face_decoder, load_faces

        images, labels, _ = load_faces("test")
        return face_decoder(), images[:count], labels[:count], list(ATTRIBUTES)
    with seeded(0):
        decoder = latentctl.wrap(ConvVAE(latent_size=256))
    images = (255 * noise(0, count, decoder.sample_shape, seed=0, uniform=True)).byte()
    labels = (noise(0, count, (10,), seed=0, purpose="labels") > 0).float()
    return decoder, images, labels, [f"Attribute_{k}" for k in range(10)]


def ratio(
    what: str, a: Callable[[], Any], b: Callable[[], Any], rounds: int, goal: str = ""
) -> Row:
    """A row of the table: how many times as long `a` takes as `b`."""
    _, seconds = in_turns({"A": a, "B": b}, rounds)
    pairs = list(zip(seconds["A"], seconds["B"], strict=True))
    cpu, wall = ([one[clock] / other[clock] for one, other in pairs] for clock in (0, 1))
    low, _, high = quantiles(cpu, n=4)
    times = {f"{k}, ms of CPU": 1e3 * median(spent for spent, _ in seconds[k]) for k in seconds}
    ratios = {"A / B of CPU": median(cpu), "quartiles": f"{low:.2f} to {high:.2f}"}
    return report({"A / B": what, **times, **ratios, "of wall": median(wall), "goal": goal})


def sampling(decoder: Decoder, y: Tensor, names: list[str], flags: Flags) -> list[Row]:
    count = flags.batch_size
    z, decode = decoder.prior.sample(count), torch.no_grad()(decoder.decode)
    rows = []
    for width, depth in ((512, 4), (256, 3)):
        with seeded(0):
            critic = AttributeCritic(decoder.latent_shape, names)
            actor = Actor(decoder.latent_shape, names, width=width, depth=depth)
        # an untrained critic is confident of nothing, so every sample is moved
        sample = latentctl.condition(decoder, critic, actor).sample
        what = f"`decoder.decode` / `Conditional.sample`, actor {depth} x {width}, batch {count}"
        drawn = partial(sample, count, y=y[:count])
        rows.append(ratio(what, partial(decode, z), drawn, flags.rounds, ">= 0.9"))
    return rows


def training(decoder: Decoder, latents: Latents, images: Tensor, flags: Flags) -> list[Row]:
    shape, labels, count = decoder.latent_shape, latents.labels, flags.train_batch_size
    rows = torch.randperm(len(latents), generator=generator(0, purpose="rows"))[:count]
    place = Step(0, 0, 0, count, count)

    def cached() -> Latents:
        return latents[rows]

    def encoded() -> Latents:
        posterior = decoder.encode(pixels(images[rows]))
        return Latents(posterior.mean, posterior.std, labels[rows], latents.names)

    def loss(critic: AttributeCritic | RealismCritic, batch: Latents) -> Tensor:
        if isinstance(critic, AttributeCritic):
            return critic.loss(batch, place)[0]
        real, fake = batch.sample(place.normal(*shape)), decoder.prior.sample(count)
        others = batch.labels.roll(1, 0)
        return critic.loss(real, fake, place.uniform(*shape), batch.labels, others)[0]

    found = []
    for kind, sizes in CRITICS:
        with seeded(0):
            critic = kind(shape, latents.names, **sizes)
        optimizer = torch.optim.Adam(critic.parameters(), 1e-4)

        def step(get: Callable[[], Latents], critic: Any = critic, adam: Any = optimizer) -> None:
            adam.zero_grad()
            loss(critic, get()).backward()
            adam.step()

        a, b = partial(step, encoded), partial(step, cached)
        what = f"step of {kind.__name__} {sizes['depth']} x {sizes['width']}: encoding / cached"
        found.append(ratio(what, a, b, flags.rounds, ">= 15"))
    return found


def ascending(latents: Latents, flags: Flags) -> Row:
    critic = AttributeCritic.fit(latents, max_train_steps=300)
    z = latents.mean[:256]
    changed = latents.names.index("Smiling") if "Smiling" in latents.names else 0
    request = flips(critic.score(z).sigmoid(), torch.full((len(z),), changed))
    every, fewer = (
        partial(Ascent(critic, drop_finished=drop).move, z, request) for drop in (False, True)
    )
    kept, dropped = every(), fewer()
    apart, moved = ((kept.z - other).abs().max().item() for other in (dropped.z, z))
    print(
        f"Ascent flips `{latents.names[changed]}` and holds the rest: evaluations per sample "
        f"{dropped.evaluations.median()} in the median, {dropped.evaluations.max()} at most; "
        f"largest difference of the two results {apart:.1e} (largest move {moved:.2f})."
    )
    what = f"Ascent, {len(z)} edits: all stay / finished ones leave"
    return ratio(what, every, fewer, max(3, flags.rounds // 3))


def encoding(decoder: Decoder, latents: Latents, images: Tensor, flags: Flags) -> Row:
    rows = list(zip(images, latents.labels, strict=True))
    job = {"attributes": latents.names, "batch_size": flags.batch_size, "progress": False}

    def whole() -> None:
        with tempfile.TemporaryDirectory() as path:
            latentctl.encode_dataset(decoder, rows, path, **job)

    def bare() -> None:
        decoder.encode(pixels(images), batch_size=flags.batch_size)

    what = f"bare `decoder.encode` / `encode_dataset`, {len(rows)} images"
    return ratio(what, bare, whole, max(3, flags.rounds // 3))


def edit_time(checkout: Path) -> Row:
    """What `edit_time.py` prints on a checkout."""
    paths = os.pathsep.join(str(path) for path in (checkout, checkout / "adapters"))
    command = [sys.executable, str(ROOT / "benchmarks" / "systems" / "edit_time.py")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def main(flags: Flags) -> None:
    checkouts = {"this": ROOT} | ({"other": flags.against} if flags.against else {})
    edits = by_name(
        [{"name": name, **edit_time(path)} for name, path in checkouts.items()] for _ in range(3)
    )
    print(f"An edit of 64 images with the default editor, s of CPU:\n\n{table(edits)}\n")
    if flags.against:
        this, other = (median(row["cpu"]) for row in edits)
        print(f"Ratio of an edit, this / other: {this / other:.2f}")
        return
    decoder, images, labels, names = faces(flags.images)
    print(f"{decoder.name}, latent {decoder.latent_shape}, torch {torch.__version__}", flush=True)
    latents = encode(decoder, images, labels, names)
    rows = [
        *sampling(decoder, labels, names, flags),
        *training(decoder, latents, images, flags),
        ascending(latents, flags),
        encoding(decoder, latents, images, flags),
    ]
    print(f"\n{table(rows)}\n")
    write(flags.output_dir / "speed.json", {"rows": rows, "edits": edits})


if __name__ == "__main__":
    run(main, Flags)

"""Frechet distance against epochs of training, of the four ways of `recipes/latent_flow.py`.

    python -m benchmarks.flows.convergence --data_dir MNIST --seed 0

Every network is trained on the same images for the same number of epochs, in batches of 128, by the
recipe's own training; its averaged weights are measured on the way. `post-hoc` trains its
autoencoder first, so that its curve begins where the others end. A point is 2,000 samples against
all test images, in the features of the classifier of `benchmarks/flows/run.py`; `floor` is 2,000
reconstructions of test images by the variant's own autoencoder, once trained. Seconds are CPU
seconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import latentctl
from benchmarks.flows.measure import Bench
from benchmarks.shared.base import decode, encode, reconstruct
from benchmarks.shared.digits import DigitJudge
from benchmarks.shared.run import SeededFlags, report, run, table, write
from latentctl.storage import load_folder
from recipes.support.figures import drawing, png_of
from recipes.support.images import ImageFlags, Images, load_images
from recipes.support.latent_flow.flags import TRAINING, AutoencoderFlags, FlowFlags
from recipes.support.latent_flow.training import Pair, fit_flow, train_autoencoder
from recipes.support.run import RunFlags

BATCH = 128
NAMES = {
    "post-hoc": "post hoc, on a plain autoencoder",
    "joint": "joint, gradient stopped (GLF)",
    "regularised": "joint, gradient not stopped",
    "vae-flow": "VAE with a flow prior",
}


@dataclass(kw_only=True)
class Flags(SeededFlags):
    data_dir: str
    """A folder of images, as `recipes/support/images.py` reads it."""
    data: str = "mnist"  # What they are called.
    epochs: int = 12
    looks: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10, 12)  # After which epochs samples are measured.
    max_train_samples: int = 12_800
    samples: int = 2000
    output_dir: Path = Path("outputs/latent_flows")
    """Also where the classifier is, if `benchmarks/flows/run.py` has written it."""
    figure: Path = Path("docs/flow_convergence.png")


def averaged(run: Path, player: str, module: nn.Module) -> Iterator[int]:
    """Loads the averaged weights of each checkpoint into `module`, and yields its step."""
    for folder in sorted(run.glob("step-*")):
        tensors, _ = load_folder(folder)
        own = tensors[f"{player}.ema"].items()
        module.load_state_dict({k[7:]: v for k, v in own if k.startswith("module.")})
        yield int(folder.name.split("-")[1])


def curve(training: str, train: Images, bench: Bench, x: torch.Tensor, flags: Flags) -> Any:
    """The points of one variant: epochs of its flow, the distance then, and what it cost."""
    steps = flags.epochs * len(train) // BATCH
    base = AutoencoderFlags(max_train_steps=steps, train_batch_size=BATCH)
    settings = FlowFlags(training=training, flow_train_steps=steps, flow_batch_size=BATCH)
    points = []
    with tempfile.TemporaryDirectory() as folder:
        run = RunFlags(
            output_dir=folder,
            seed=flags.seed,
            num_threads=flags.num_threads,
            checkpointing_steps=len(train) // BATCH,
            checkpoints_total_limit=None,
        )
        accelerator, began = run.accelerator("convergence"), time.process_time()
        model, flow = train_autoencoder(train, base, settings, run, accelerator)
        decoder, together = latentctl.wrap(model), flow is not None
        if flow is None:
            latents = encode(decoder, train.images)
            flow = fit_flow(latents, settings, run, accelerator)
        seconds = time.process_time() - began
        pair, done = Pair(model, flow).eval(), Path(folder) / "training"
        looks = (done / "autoencoder", "pair", pair) if together else (done / "flow", "flow", flow)
        for step in averaged(*looks):
            epoch = step * BATCH // len(train)
            if epoch in flags.looks:
                if together:
                    pair.standardise()
                z = flow.sample(flags.samples, seed=flags.seed + 1)
                points.append({"epoch": epoch, "frechet": bench.distance(decode(decoder, z))})
                report({"training": training, **points[-1]})
    floor = bench.distance(reconstruct(decoder, x[: flags.samples]))
    bench.measure(training, decode(decoder, z), seconds, floor=floor)
    return {"points": points, "floor": floor, "seconds": seconds}


def plot(curves: dict[str, Any], flags: Flags) -> bytes:
    with drawing(120, (7, 4)) as figure:
        axes = figure.subplots()
        for training, found in curves.items():
            start = flags.epochs if training == "post-hoc" else 0
            x = [start + point["epoch"] for point in found["points"]]
            y = [point["frechet"] for point in found["points"]]
            (line,) = axes.plot(x, y, marker="o", markersize=3, label=NAMES[training])
            axes.axhline(found["floor"], color=line.get_color(), linewidth=0.8, linestyle=":")
        axes.set(xlabel="epochs", ylabel="Fréchet distance", yscale="log")
        axes.set_title(f"{flags.data}: {flags.samples:,} samples; dotted: reconstructions")
        axes.legend(fontsize=8)
        return png_of(figure)


def main(flags: Flags) -> None:
    sets = load_images(ImageFlags(train_data_dir=flags.data_dir))
    train, test = sets["train"], sets["test"]
    judge = DigitJudge.fit(train.images, train.labels, flags.output_dir / f"{flags.data}-judge")
    bench = Bench(judge.features, test.pixels(), flags.output_dir, f"convergence-{flags.seed}")
    count = flags.max_train_samples
    train = Images(train.images[:count], train.labels[:count])
    x = test.pixels(slice(flags.samples))
    curves = {kind: curve(kind, train, bench, x, flags) for kind in TRAINING}
    write(flags.output_dir / f"curves-{flags.seed}.json", curves)
    flags.figure.write_bytes(plot(curves, flags))
    rows = [
        {"name": NAMES[training]}
        | {f"epoch {point['epoch']}": point["frechet"] for point in found["points"]}
        | {"floor": found["floor"], "seconds": found["seconds"]}
        for training, found in curves.items()
    ]
    print(table(rows))


if __name__ == "__main__":
    run(main, Flags)

"""Frechet distance against epochs of training, of the four ways of `recipes/latent_flow.py`.

    python benchmarks/flow_convergence.py --data_dir MNIST --seed 0

Every network sees the same images for the same number of epochs, in batches of 128, by the recipe's
own training; its averaged weights are looked at on the way. `post-hoc` trains its autoencoder
first, so that its curve begins where the others end. A point is 2,000 samples against all test
images, in the features of the classifier of `latent_flows.py`; `floor` is 2,000 reconstructions of
test images by the variant's own autoencoder, once trained. Seconds are CPU seconds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import latentctl
from benchmarks.flows.measure import Bench, decode, encodings, reconstruct
from benchmarks.shared.digit_judge import DigitJudge
from latentctl.storage.folder import load_folder
from recipes.latent_flow import Pair, fit_flow, train_autoencoder
from recipes.pretrain_vae import RunFlags
from recipes.support.images import ImageFlags, Images, load_images
from recipes.support.latent_flow.flags import TRAINING, AutoencoderFlags, FlowFlags

BATCH = 128
NAMES = {
    "post-hoc": "post hoc, on a plain autoencoder",
    "joint": "joint, gradient stopped (GLF)",
    "regularised": "joint, gradient not stopped",
    "vae-flow": "VAE with a flow prior",
}


@dataclass
class Flags:
    data_dir: str
    """A folder of images, as `recipes/image_data.py` reads it."""
    data: str = "mnist"
    """What they are called."""
    seed: int = 0
    epochs: int = 12
    looks: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10, 12)
    """After which epochs samples are measured."""
    max_train_samples: int = 12_800
    samples: int = 2000
    threads: int = 1
    output_dir: Path = Path("outputs/latent_flows")
    """Also where the classifier is, if `latent_flows.py` has written it."""
    figure: Path = Path("docs/flow_convergence.png")


def averaged(run: Path, player: str, module: nn.Module) -> Iterator[int]:
    """Loads the averaged weights of each checkpoint into `module`, and says which step it is of."""
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
            num_threads=flags.threads,
            checkpointing_steps=len(train) // BATCH,
            checkpoints_total_limit=None,
        )
        accelerator, began = run.accelerator("convergence"), time.process_time()
        model, flow = train_autoencoder(train, base, settings, run, accelerator)
        decoder, together = latentctl.wrap(model), flow is not None
        if flow is None:
            latents = encodings(decoder, train.pixels())
            flow = fit_flow(latents, settings, run, accelerator)
        seconds = time.process_time() - began
        pair, done = Pair(model, flow).eval(), Path(folder) / "training"
        looks = averaged(done / "autoencoder", "pair", pair)
        for step in looks if together else averaged(done / "flow", "flow", flow):
            epoch = step * BATCH // len(train)
            if epoch not in flags.looks:
                continue
            if together:
                pair.standardise()
            z = flow.sample(flags.samples, seed=flags.seed + 1)
            points.append({"epoch": epoch, "frechet": bench.distance(decode(decoder, z))})
            print(training, points[-1], flush=True)
    floor = bench.distance(reconstruct(decoder, x[: flags.samples]))
    bench.measure(training, decode(decoder, z), seconds, floor=floor)
    return {"points": points, "floor": floor, "seconds": seconds}


def plot(curves: dict[str, Any], flags: Flags) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for training, found in curves.items():
        start = flags.epochs if training == "post-hoc" else 0
        x = [start + point["epoch"] for point in found["points"]]
        y = [point["frechet"] for point in found["points"]]
        (line,) = axes.plot(x, y, marker="o", markersize=3, label=NAMES[training])
        axes.axhline(found["floor"], color=line.get_color(), linewidth=0.8, linestyle=":")
    axes.set(xlabel="epochs", ylabel="Fréchet distance", yscale="log")
    axes.set_title(f"{flags.data}: {flags.samples:,} samples; dotted: reconstructions", fontsize=10)
    axes.legend(fontsize=8)
    flags.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(flags.figure, dpi=120)


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    sets = load_images(ImageFlags(train_data_dir=flags.data_dir))
    train, test = sets["train"], sets["test"]
    judge = DigitJudge.fit(train.images, train.labels, flags.output_dir / f"{flags.data}-judge")
    bench = Bench(judge.features, test.pixels(), flags.output_dir, f"convergence-{flags.seed}")
    train = Images(train.images[: flags.max_train_samples], train.labels[: flags.max_train_samples])
    x = test.pixels(slice(flags.samples))
    curves = {kind: curve(kind, train, bench, x, flags) for kind in TRAINING}
    (flags.output_dir / f"curves-{flags.seed}.json").write_text(json.dumps(curves, indent=2))
    plot(curves, flags)
    print(f"| epochs of the flow | {' | '.join(map(str, flags.looks))} | floor | seconds |")
    print("|---" * (len(flags.looks) + 3) + "|")
    for training, found in curves.items():
        cells = [f"{point['frechet']:.0f}" for point in found["points"]]
        last = f"{found['floor']:.0f} | {found['seconds']:.0f}"
        print(f"| {NAMES[training]} | {' | '.join(cells)} | {last} |")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

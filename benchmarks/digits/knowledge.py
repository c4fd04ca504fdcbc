"""What a knowledge learns from 1 %, 10 % and 100 % of the labels: ten digits on MNIST's latents.

    LATENTCTL_DATA=... python benchmarks/knowledge_labels.py --seed 0

The frozen base is somebody else's VAE for MNIST (`../weights/mnist_vae`, latent 20), with a
coupling flow over its 60,000 training latents. Labels that are not kept are NaN. A knowledge
that is semi-supervised sees all latents, one that is supervised the labelled ones alone; both have
the same steps, and hold back a tenth of what they see for calibration and the choice of the step.

Measured on the 10,000 test images, as means over the digits: accuracy and balanced accuracy (the
mean of both classes') of each presence, accuracy of the digit with the highest log-odds, and nats
per dimension of a digit's latents under its conditional density (a bound by 32 samples of C).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.face_base import data_folder
from benchmarks.shared.mnist_base import MnistVAE, load_mnist_vae
from latentctl import KnowledgeBase, LatentFlow, Latents
from latentctl.random import generator
from recipes.support.images import ImageFlags, load_images

DIGITS = tuple(f"digit_{digit}" for digit in range(10))
SHARES = (0.01, 0.1, 1.0)


@dataclass
class Flags:
    seed: int = 0
    flow_train_steps: int = 1000
    threads: int = 1
    output_dir: Path = Path("outputs/knowledge_labels")


@torch.no_grad()
def encoded(model: MnistVAE, images: Tensor, labels: Tensor) -> Latents:
    mean, log_variance = model.encode(images.float() / 255)
    return Latents(
        mean, (0.5 * log_variance).exp(), nn.functional.one_hot(labels, 10).float(), DIGITS
    )


def measure(base: KnowledgeBase, test: Latents, z: Tensor) -> dict[str, float]:
    present = torch.stack([test.column(name) for name in DIGITS], 1) > 0.5
    with torch.no_grad():
        odds = base(test.mean)
        right = ((odds > 0) == present).float()
        own = [z[rows] for rows in present.unbind(1)]
        nats = [-k.log_prob(x).mean().item() / 20 for k, x in zip(base, own, strict=True)]
        prior = [-base.prior.log_prob(x).mean().item() / 20 for x in own]
        best = odds.argmax(1) == present.int().argmax(1)
    return {
        "accuracy": right.mean().item(),
        "balanced_accuracy": (right[present].mean() + right[~present].mean()).item() / 2,
        "ten_way_accuracy": best.float().mean().item(),
        "nats": fmean(nats),
        "nats_of_prior": fmean(prior),
    }


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    model = load_mnist_vae()
    sets = load_images(ImageFlags(str(data_folder() / "mnist")))
    train, test = (encoded(model, x.images, x.labels) for x in (sets["train"], sets["test"]))
    z = test.sample(torch.randn(test.mean.shape, generator=generator(flags.seed, purpose="eps")))
    flow = LatentFlow.fit(train, width=256, max_train_steps=flags.flow_train_steps, seed=flags.seed)
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        kept = torch.rand(len(train), generator=generator(flags.seed, purpose="labels")) < share
        labels = train.labels.clone()
        labels[~kept] = torch.nan
        contenders = {"semi-supervised": train.with_labels(labels, DIGITS)}
        if share < 1:
            contenders["supervised only"] = train[kept]
        for kind, latents in contenders.items():
            base, began = KnowledgeBase(flow, (20,)), time.process_time()
            for name in DIGITS:
                base.add(name, latents, seed=flags.seed)
            cost = {"seconds": (time.process_time() - began) / len(DIGITS)}
            rows.append({"share": share, "kind": kind} | measure(base, test, z) | cost)
            print(rows[-1], flush=True)
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    (flags.output_dir / f"{flags.seed}.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

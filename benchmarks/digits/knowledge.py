"""What a knowledge learns from 1 %, 10 % and 100 % of the labels: ten digits on MNIST's latents.

    LATENTCTL_DATA=... python -m benchmarks.digits.knowledge --seed 0

The frozen base is a pretrained VAE for MNIST of others (`../weights/mnist_vae`, latent 20), with a
coupling flow over its 60,000 training latents. Labels that are not kept are NaN. A semi-supervised
knowledge is trained on all latents, a supervised one on the labelled ones alone; both have the same
steps, and hold back a tenth of their data for calibration and the choice of the step.

Measured on the 10,000 test images, as means over the digits: accuracy and balanced accuracy (the
mean of both classes') of each presence, accuracy of the digit with the highest log-odds, and nats
per dimension of a digit's latents under its conditional density (a bound by 32 samples of C).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from benchmarks.shared.base import encode, nats, with_fewer_labels
from benchmarks.shared.digits import load_mnist, mnist_decoder
from benchmarks.shared.run import Row, SeededFlags, report, run, timed, write
from latentctl import KnowledgeBase, LatentFlow, Latents
from latentctl.random import generator

DIGITS = tuple(f"digit_{digit}" for digit in range(10))


@dataclass
class Flags(SeededFlags):
    flow_train_steps: int = 1000
    output_dir: Path = Path("outputs/knowledge_labels")


def measure(base: KnowledgeBase, test: Latents, z: Tensor) -> dict[str, float]:
    present = test.labels > 0.5
    odds = base.score(test.mean)
    right = ((odds > 0) == present).float()
    own = [z[rows] for rows in present.unbind(1)]
    return {
        "accuracy": right.mean().item(),
        "balanced_accuracy": (right[present].mean() + right[~present].mean()).item() / 2,
        "ten_way_accuracy": (odds.argmax(1) == present.int().argmax(1)).float().mean().item(),
        "nats": fmean(nats(knowledge, x) for knowledge, x in zip(base, own, strict=True)),
        "nats_of_prior": fmean(nats(base.prior, x) for x in own),
    }


def main(flags: Flags) -> None:
    decoder, sets = mnist_decoder(), load_mnist()
    train, test = (
        encode(decoder, x.images, nn.functional.one_hot(x.labels, 10).float(), DIGITS)
        for x in (sets["train"], sets["test"])
    )
    z = test.sample(torch.randn(test.mean.shape, generator=generator(flags.seed, purpose="eps")))
    flow = LatentFlow.fit(train, width=256, max_train_steps=flags.flow_train_steps, seed=flags.seed)
    rows: list[Row] = []
    for share, kind, latents in with_fewer_labels(train, flags.seed):
        base = KnowledgeBase(flow, (20,))
        spent = [timed(base.add, name, latents, seed=flags.seed)[1] for name in DIGITS]
        row = {"share": share, "kind": kind, **measure(base, test, z)}
        rows.append(report({**row, "seconds": fmean(spent)}))
    write(flags.output_dir / f"{flags.seed}.json", rows)


if __name__ == "__main__":
    run(main, Flags)

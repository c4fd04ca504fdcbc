"""Edits of digits into other digits by critics that are trained with and without adversarial moves.

    LATENTCTL_DATA=... python -m benchmarks.digits.robust --seed 0

The base is the pretrained VAE of MNIST. Critics of the ten digits are fitted to encodings of
`--train_digits` training images, and each of `--digits` test images is edited into each digit by
`Ascent.for_edits`. LeNet, which no method uses, reads the result. Attributes that exclude each
other are not held.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.shared.base import decode, encode, load_weights, pixels
from benchmarks.shared.digits import LeNet, load_mnist, mnist_decoder
from benchmarks.shared.run import Seconds, SeededFlags, report, run, table, write
from latentctl import Ascent, AttributeCritic
from latentctl.controllers import Request

NAMES = tuple(f"is {digit}" for digit in range(10))


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/robust_digits")
    train_digits: int = 10_000
    digits: int = 100  # Test images, each edited into all ten digits.
    robustness: tuple[float, ...] = (0.0, 0.15, 0.3)
    shift_weights: tuple[float, ...] = (0.015, 0.05, 0.15)


def main(flags: Flags) -> None:
    decoder, judge, seconds = mnist_decoder(), load_weights(LeNet(), "mnist_lenet"), Seconds()
    splits = load_mnist()
    train, test = (splits[name] for name in ("train", "test"))
    rows = []
    labels = torch.nn.functional.one_hot(train.labels[: flags.train_digits], 10).float()
    latents = encode(decoder, train.images[: flags.train_digits], labels, NAMES)
    z = encode(decoder, test.images[: flags.digits]).mean.repeat(10, 1)
    wanted = torch.arange(10).repeat_interleave(flags.digits)
    target = torch.full((len(z), 10), torch.nan)
    target[torch.arange(len(z)), wanted] = 1.0
    for robustness in flags.robustness:
        critic = seconds.measure(
            f"critic, {robustness:g}",
            AttributeCritic.fit,
            latents,
            robustness=robustness,
            seed=flags.seed,
        )
        for weight in flags.shift_weights:
            ascent = Ascent.for_edits(critic, shift_weight=weight)
            moved = ascent.move(z, Request(target=target)).z
            found = judge.digits(judge.features(pixels(decode(decoder, moved))))
            row = {
                "robustness": robustness,
                "shift weight": weight,
                "success": (found == wanted).float().mean().item(),
                "shift": (moved - z).square().mean(1).sqrt().mean().item(),
            }
            rows.append(report(row))
    write(flags.output_dir / f"robust-{flags.seed}.json", {"rows": rows, "cpu_seconds": seconds})
    print(table(rows))


if __name__ == "__main__":
    run(main, Flags)

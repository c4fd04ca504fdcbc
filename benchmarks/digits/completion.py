"""Completions of half-hidden images through a frozen decoder: the updater against Adam on z.

    LATENTCTL_DATA=... python -m benchmarks.digits.completion --data mnist --seed 0
    LATENTCTL_DATA=... python -m benchmarks.digits.completion --data faces --seed 0

All contenders start at the same latents and are compared by the same cost, on held-out images of
which the lower half is hidden; the updaters are trained with any half hidden. `seen` is the root
mean square error of the visible half, `diversity` the standard deviation of the hidden half over
the starts, seconds the median of the rounds, which are interleaved. Writes a picture and a JSON
file.

On MNIST it also prints what a completer has learned about digits: the accuracy on 2,000 test images
of logistic regression on few labels, on the features `h` of the context encoder of the updater with
gradient input; on the latents `z*` that five steps of it reach, mean of eight starts; on the mean
of the half-seen image's posterior (hidden part black); and, as the ceiling, on that of the whole
image. Completers are trained without labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import latentctl
from benchmarks.shared.base import unchanged
from benchmarks.shared.digits import load_mnist, mnist_decoder
from benchmarks.shared.face_base import face_decoder, load_faces
from benchmarks.shared.run import Row, Seconds, SeededFlags, in_turns, run, table, write
from latentctl import Updater
from latentctl.controllers.cgml.completion import complete, completer, seen_input
from latentctl.display.picture import grid, png
from latentctl.random import permutation
from latentctl.training import Step
from recipes.support.images import Images

EVALUATIONS, DESCENTS = (1, 2, 5, 10), (20, 100, 300)
LABELS, PROBED = (100, 1000), 2000


@dataclass
class UpdaterFlags:
    max_train_steps: int = 1500
    batch_size: int = 64
    width: int = 256
    depth: int = 2
    sigma: float = 0.15  # Standard deviation of the decoder's error in the cost.


@dataclass
class Flags(SeededFlags):
    data: Literal["mnist", "faces"] = "mnist"
    updater: UpdaterFlags = field(default_factory=UpdaterFlags)
    images: int = 100  # Held-out images.
    starts: int = 8  # Completions of each.
    rounds: int = 3  # How often each contender is timed.
    output_dir: Path = Path("outputs/completion")


def base(data: str) -> tuple[latentctl.Decoder, Images, Images]:
    """A frozen decoder, training images and held-out images."""
    if data == "mnist":
        sets = load_mnist()
        train = Images(sets["train"].images[:20_000], sets["train"].labels[:20_000])
        return mnist_decoder(), train, sets["test"]
    train, test = (Images(*load_faces(split)[::2]) for split in ("train", "test"))
    return face_decoder(), train, test


def lower_half_hidden(side: int) -> Tensor:
    """The mask `(1, side, side)` of the upper half."""
    return (torch.arange(side).view(1, -1, 1) < side // 2).expand(1, side, side)


def halves(side: int) -> Callable[[Step], Tensor]:
    """Masks `(count, 1, side, side)` that hide one half, which one is drawn."""
    upper = lower_half_hidden(side)
    kinds = torch.stack([upper, ~upper, upper.mT, ~upper.mT])
    return lambda step: kinds[step.integers(4, purpose="half").cpu()]


def probe(
    decoder: latentctl.Decoder, updater: Updater, train: Images, test: Images, flags: Flags
) -> list[Row]:
    """Accuracies of logistic regression on few labels."""
    chosen = permutation(len(train), seed=flags.seed, epoch=0, purpose="probe")[: max(LABELS)]
    mask, sizes = lower_half_hidden(28), {"count": 8, "sigma": flags.updater.sigma}

    @torch.no_grad()
    def features(x: Tensor) -> dict[str, Tensor]:
        shown = mask.expand_as(x)
        return {
            "h": updater.context_encoder.layers(seen_input(x, shown)),
            "z*": complete(decoder, x, mask, updater=updater, **sizes).z.mean(1),
            "encoder, half-seen image": decoder.encode(torch.where(shown, x, 0.0)).mean,
            "encoder, whole image": decoder.encode(x).mean,
        }

    known, held_out = features(train.pixels(chosen)), features(test.pixels(slice(PROBED)))
    truth, answer = train.labels[chosen].numpy(), test.labels[:PROBED].numpy()
    rows: list[Row] = [{"name": name} for name in known]
    for row, n in itertools.product(rows, LABELS):
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        regression.fit(known[row["name"]][:n].numpy(), truth[:n])
        found = regression.score(held_out[row["name"]].numpy(), answer)
        row[f"{n} labels"] = float(found)
    return rows


def main(flags: Flags) -> None:
    decoder, train, test = base(flags.data)
    x = test.pixels(slice(flags.images))
    mask, seconds = lower_half_hidden(x.shape[2]), Seconds()
    updaters: dict[str, Updater] = {}
    for name, gradient_input in (("gradient input", True), ("blind", False)):
        updaters[name] = seconds.measure(
            name,
            completer,
            decoder,
            train.pixels(),
            halves(x.shape[2]),
            gradient_input=gradient_input,
            seed=flags.seed,
            **vars(flags.updater),
        )
    contenders: dict[str, dict[str, Any]] = {
        f"Z {name}, {steps}": {"updater": updater, "steps": steps}
        for name, updater in updaters.items()
        for steps in EVALUATIONS
    }
    contenders |= {f"Adam, {steps}": {"steps": steps} for steps in DESCENTS}
    common = {"count": flags.starts, "sigma": flags.updater.sigma, "seed": flags.seed}
    with unchanged(decoder):
        found, times = in_turns(
            {k: partial(complete, decoder, x, mask, **common, **v) for k, v in contenders.items()},
            flags.rounds,
        )
    wall = {name: median(spent for _, spent in times[name]) for name in contenders}
    rows = [
        {
            "name": name,
            "cost": answer.cost.mean().item(),
            "seen": answer.error.mean().item(),
            "diversity": answer.diversity.mean().item(),
            "seconds": wall[name],
            "share of Adam, 100": wall[name] / wall["Adam, 100"],
        }
        for name, answer in found.items()
    ]
    print(table(rows))
    result: dict[str, Any] = {"rows": rows, "training": seconds}
    if flags.data == "mnist":
        result["probe"] = probe(decoder, updaters["gradient input"], train, test, flags)
        print(f"\n{table(result['probe'])}")
    stem = flags.output_dir / f"{flags.data}-{flags.seed}"
    write(stem.with_suffix(".json"), result)
    shown = [torch.stack([x[:6], torch.where(mask, x[:6], 0.5)], dim=1)]
    shown += [found[name].x[:6, :4] for name in ("Z gradient input, 5", "Z blind, 5", "Adam, 100")]
    together = torch.cat(shown, dim=1).flatten(0, 1)
    stem.with_suffix(".png").write_bytes(png(grid(together, columns=14)))


if __name__ == "__main__":
    run(main, Flags)

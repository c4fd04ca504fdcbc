"""What a completer has learned about digits: a linear probe on its features and on its latents.

    LATENTCTL_DATA=... python benchmarks/updater_probe.py

The lower half of each image is hidden. Logistic regression on few labels, on: the features `h` of
the completer's context_encoder; the latents `z*` that five steps of the updater reach, mean of eight
starts; the encoder's mean of the half-seen image (hidden part black); and, as the ceiling, the
encoder's mean of the whole image. The completer never saw a label. Accuracy on 2,000 test images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.digits.completion import Pixels, base, halves
from benchmarks.shared.face_base import data_folder
from latentctl.controllers.cgml.completion import complete, completer, seen_input
from latentctl.random import permutation

TEST, STARTS, SIGMA = 2000, 8, 0.15


@dataclass
class Flags:
    """Linear probes."""

    seed: int = 0
    threads: int = 1
    train_steps: int = 1500
    labels: tuple[int, ...] = (100, 1000)


def digits(split: str) -> Tensor:
    """The labels of the images that `completion.base` gives."""
    import pyarrow.parquet as pq

    (file,) = (data_folder() / "mnist").glob(f"{split}-*.parquet")
    return torch.tensor(pq.read_table(file).slice(0, 20_000).column("label").to_pylist())


def main(flags: Flags) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    torch.set_num_threads(flags.threads)
    decoder, train, test = base("mnist")
    updater = completer(
        decoder,
        Pixels(train),
        lambda step: halves(28, 28, step),
        gradient_input=True,
        width=256,
        depth=2,
        sigma=SIGMA,
        max_train_steps=flags.train_steps,
        seed=flags.seed,
    )
    mask = (torch.arange(28).view(1, -1, 1) < 14).expand(1, 28, 28)
    chosen = permutation(len(train), seed=flags.seed, epoch=0, purpose="probe")
    chosen = chosen[: max(flags.labels)]

    @torch.no_grad()
    def features(images: Tensor) -> dict[str, Tensor]:
        x = images.float() / 255
        shown = mask.expand_as(x)
        walked = complete(decoder, x, mask, count=STARTS, updater=updater, sigma=SIGMA)
        observed = updater.context_encoder.layers(seen_input(x, shown))  # type: ignore[union-attr, operator]
        return {
            "h": observed,
            "z*": walked.z.mean(1),
            "encoder, half-seen image": decoder.encode(torch.where(shown, x, 0.0)).mean,
            "encoder, whole image": decoder.encode(x).mean,
        }

    known, truth = features(train[chosen]), digits("train")[chosen].numpy()
    asked, answer = features(test[:TEST]), digits("test")[:TEST].numpy()
    print("| | " + " | ".join(f"{n} labels" for n in flags.labels) + " |")
    print("|---" * (1 + len(flags.labels)) + "|")
    for name, values in known.items():
        cells = []
        for n in flags.labels:
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            probe.fit(values[:n].numpy(), truth[:n])
            cells.append(f"{probe.score(asked[name].numpy(), answer):.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

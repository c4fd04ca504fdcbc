"""Train the generator of drawn faces that ships with the package: an hour and a half of one core.

    python -m benchmarks.embedded.generator

Half of the faces are drawn with the attributes' natural shares. In the other half, one to three
attributes of each face are turned over, so that the generator knows rare combinations (bald women,
young men with gray hair) and edits have somewhere to go. The weight matrices are trained by Muon,
which took half as many steps as Adam to the same error; biases and the outer layers by AdamW.

Faces are drawn once, to `faces.bin` in `--output_dir`. `model/` there is what
`latentctl.load("residual-vae", ...)` reads, with averaged weights in half precision.

References:
    | Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024)
    | https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from latentctl_adapters.embedded.counterfactuals import turned_over
from latentctl_adapters.embedded.drawn_faces import Factors, ProceduralFaces
from latentctl_adapters.residual_vae import ResidualVAE
from torch import Tensor, nn

from benchmarks.shared.run import SeededFlags, run, write
from latentctl.progress import track
from latentctl.random import generator, permutation, seeded

SIZE = 64
CHUNK = 500


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/drawn_faces")
    train_faces: int = 120_000  # Faces that are drawn for training, half of them turned over.
    steps: int = 4_500  # Optimizer steps.
    batch_size: int = 32  # Faces in a step.
    late_batch_size: int = 64  # Faces in a step of the last third.
    muon_learning_rate: float = 0.02  # Learning rate of the weight matrices.
    learning_rate: float = 2e-3  # Learning rate of the other weights.


def main(flags: Flags) -> None:
    folder, seed = flags.output_dir, flags.seed
    faces = drawn(folder / "faces.bin", flags.train_faces, seed)
    with seeded(seed, "vae"):
        model = ResidualVAE()
    test = ProceduralFaces.split("test", 200, seed).tensors()[0].float() / 255
    average = copy.deepcopy(model).requires_grad_(False)
    matrices = [p for name, p in model.named_parameters() if is_hidden(name, p)]
    hidden = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in hidden]
    optimizers = [
        Muon(matrices, flags.muon_learning_rate),
        torch.optim.AdamW(others, flags.learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, flags.steps))
        for o in optimizers
    ]
    place, epoch, log = 0, 0, []
    order = permutation(len(faces), seed=seed, epoch=0)
    for step in track(range(flags.steps), "vae", "step"):
        size = flags.batch_size if 3 * step < 2 * flags.steps else flags.late_batch_size
        if place + size > len(order):
            place, epoch = 0, epoch + 1
            order = permutation(len(faces), seed=seed, epoch=epoch)
        x = faces[order[place : place + size].sort().values].float() / 255
        place += size
        x = x.flip(-1) if step % 2 else x
        x = x.contiguous(memory_format=torch.channels_last)
        eps = torch.randn(size, 128, generator=generator(seed, step, purpose="posterior"))
        loss, parts = model.loss(x, eps, beta=min(1.0, 0.1 + step / 2000))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5e4)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        decay = min(0.999, (step + 1) / (step + 51))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % 100 == 99 or step + 1 == flags.steps:
            with torch.no_grad():
                psnr = decibels((average(test) - test).square().mean())
            train = decibels(parts["mse"])
            print(
                f"step {step + 1}: {psnr:.2f} dB on held-out faces, {train:.2f} in training, "
                f"KL {parts['kl']:.0f} nats",
                flush=True,
            )
            log.append({"step": step + 1, "psnr": psnr, "train": train, "kl": float(parts["kl"])})
            write(folder / "log.json", log)
            copy.deepcopy(average).half().save_pretrained(folder / "model")


def drawn(path: Path, count: int, seed: int) -> Tensor:
    """Faces as bytes `(count, 3, 64, 64)`, drawn to a file where they are not there already."""
    shape = (count, 3, SIZE, SIZE)
    if not path.exists() or path.stat().st_size != math.prod(shape):
        people, unfinished = ProceduralFaces.split("train", count, seed), path.with_suffix(".part")
        with unfinished.open("wb") as file:
            for start in track(range(0, count, CHUNK), "drawing", f"{CHUNK} faces"):
                factors = factors_of(people, start, min(CHUNK, count - start))
                file.write(people.draw(factors).numpy().tobytes())
        unfinished.replace(path)
    faces = torch.from_file(str(path), size=math.prod(shape), dtype=torch.uint8)
    return faces.view(shape)


def factors_of(people: ProceduralFaces, start: int, count: int) -> Factors:
    """The factors of a chunk of the training faces; every second chunk is turned over."""
    factors = people.factors(start, count)
    if start // CHUNK % 2:
        attributes = turned_over(factors.attributes, seed=people.seed, start=start)
        factors = Factors(factors.identity, attributes)
    return factors


def is_hidden(name: str, weight: Tensor) -> bool:
    """Whether Muon trains a weight: matrices other than the layers that touch pixels."""
    return weight.ndim >= 2 and not name.startswith(("out.", "encoder.1."))


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a rise over 40 steps, level, then a linear fall."""
    fall = (steps - step) / (0.6 * steps)
    return min((step + 1) / 40, 1.0, fall)


def decibels(error: Tensor) -> float:
    return -10 * math.log10(float(error))


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest orthogonal matrix, by five Newton-Schulz steps.

    Arguments:
        weights: Matrices, or convolutions, which are matrices of their output channels.
        lr: Learning rate.
        momentum: Decay of the average gradient.
        weight_decay: Decay of the weights, multiplied by the learning rate.
    """

    def __init__(
        self, weights: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.2
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(average, group["momentum"]).flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(update.reshape(weight.shape), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor of a matrix: its singular values come to lie near 1."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x if wide else x.T


if __name__ == "__main__":
    run(main, Flags)

"""Completions of half-hidden images through a frozen decoder: the updater against Adam on z.

    LATENTCTL_DATA=... python benchmarks/completion.py --data mnist --seed 0
    LATENTCTL_DATA=... python benchmarks/completion.py --data faces --seed 0

All contenders start at the same latents and are judged by the same cost, on held-out images of
which the lower half is hidden; the updaters practised with any half hidden. `seen` is the root mean
square error of the visible half, `diversity` the standard deviation of the hidden half over the
starts, seconds the median of the rounds, which are interleaved. Writes a picture and a JSON file.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import latentctl
from benchmarks.shared.face_base import data_folder, load_face_vae, load_faces
from benchmarks.shared.mnist_base import load_mnist_vae
from latentctl.conditional.picture import grid, png
from latentctl.controllers import Updater
from latentctl.controllers.cgml.completion import Completion, complete, completer
from latentctl.training import Step

EVALUATIONS, DESCENTS = (1, 2, 5, 10), (20, 100, 300)


@dataclass
class Flags:
    """Completion on frozen decoders."""

    data: str = "mnist"
    """mnist or faces."""
    seed: int = 0
    threads: int = 1
    train_steps: int = 1500
    """Steps of practice of each updater."""
    batch_size: int = 64
    width: int = 256
    depth: int = 2
    images: int = 100
    """Held-out images."""
    starts: int = 8
    """Completions of each."""
    rounds: int = 3
    """How often each contender is timed."""
    sigma: float = 0.15
    """Standard deviation of the decoder's error in the cost."""
    output_dir: Path = Path("outputs/completion")


class Pixels:
    """Bytes as images in [0, 1], a batch at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.images[index].float() / 255


def base(data: str) -> tuple[latentctl.Decoder, Tensor, Tensor]:
    """A frozen decoder, training images and held-out images, as bytes."""
    if data == "faces":
        images, held_out = load_faces("train")[0], load_faces("test")[0]
        return latentctl.wrap(load_face_vae()), images, held_out
    decoder = latentctl.wrap(load_mnist_vae(), latent_shape=(20,), value_range=(0.0, 1.0))
    return decoder, _mnist("train"), _mnist("test")


def _mnist(split: str) -> Tensor:
    import io

    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    (file,) = (data_folder() / "mnist").glob(f"{split}-*.parquet")
    cells = pq.read_table(file).slice(0, 20_000).column("image").to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells]
    return torch.from_numpy(np.stack(images))[:, None]


def halves(height: int, width: int, step: Step) -> Tensor:
    """Masks `(count, 1, height, width)` that hide one half, which one is drawn."""
    rows = torch.arange(height).view(-1, 1).expand(height, width) < height // 2
    columns = torch.arange(width).expand(height, width) < width // 2
    kinds = torch.stack([rows, ~rows, columns, ~columns])
    return kinds[step.integers(4, purpose="half").cpu()][:, None]


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    decoder, images, held_out = base(flags.data)
    before = decoder.fingerprint()
    x = held_out[: flags.images].float() / 255
    height, width = x.shape[2:]
    mask = torch.arange(height).view(1, -1, 1).expand(1, height, width) < height // 2
    updaters: dict[str, Updater] = {}
    seconds: dict[str, float] = {}
    for name, gradient_input in (("gradient_input", True), ("blind", False)):
        began = time.process_time()
        updaters[name] = completer(
            decoder,
            Pixels(images),
            lambda step: halves(height, width, step),
            gradient_input=gradient_input,
            width=flags.width,
            depth=flags.depth,
            sigma=flags.sigma,
            max_train_steps=flags.train_steps,
            batch_size=flags.batch_size,
            seed=flags.seed,
        )
        seconds[name] = time.process_time() - began
        print(f"{name}: {seconds[name]:.0f} s of CPU", flush=True)

    contenders: dict[str, tuple[Updater | None, int]] = {
        f"Z {name}, {steps}": (updater, steps)
        for name, updater in updaters.items()
        for steps in EVALUATIONS
    } | {f"Adam, {steps}": (None, steps) for steps in DESCENTS}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, Completion] = {}
    for _ in range(flags.rounds):
        for name, (updater, steps) in contenders.items():
            began = time.perf_counter()
            found[name] = complete(
                decoder,
                x,
                mask,
                count=flags.starts,
                updater=updater,
                steps=steps,
                sigma=flags.sigma,
                seed=flags.seed,
            )
            times[name].append(time.perf_counter() - began)
    if decoder.fingerprint() != before:
        raise latentctl.errors.FingerprintError("The frozen decoder has changed.")
    slow = statistics.median(times["Adam, 100"])
    rows = [
        {
            "name": name,
            "cost": answer.cost.mean().item(),
            "seen": answer.error.mean().item(),
            "diversity": answer.diversity.mean().item(),
            "seconds": statistics.median(times[name]),
            "share of Adam, 100": statistics.median(times[name]) / slow,
        }
        for name, answer in found.items()
    ]
    print("| | " + " | ".join(list(rows[0])[1:]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print(
            "| " + " | ".join(v if isinstance(v, str) else f"{v:.3f}" for v in row.values()) + " |"
        )
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    stem = flags.output_dir / f"{flags.data}-{flags.seed}"
    stem.with_suffix(".json").write_text(json.dumps({"rows": rows, "training": seconds}, indent=1))
    shown = [torch.stack([x[:6], torch.where(mask, x[:6], 0.5)], dim=1)]
    shown += [found[name].x[:6, :4] for name in ("Z gradient_input, 5", "Z blind, 5", "Adam, 100")]
    together = torch.cat(shown, dim=1).flatten(0, 1)
    stem.with_suffix(".png").write_bytes(png(grid(together, columns=14)))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

r"""One-to-many prediction, as in the paper of cGML: `python recipes/cgml_modes.py --task toy`.

An encoder, a generator and a gate are trained together on inputs with several answers.

    toy           y = +-4 (x, x^2, x^3), the sign at random
    mnist-bar     the hidden lower half of a digit; 30 % of the targets have a white bar
    mnist-masked  the hidden lower half of a digit
    colour        a grey digit in one of two colours that depend on its class
    faces-masked  the hidden lower half of a face
    faces-colour  the colours of a grey face

Images come from `--train_data_dir` or `--dataset_name`; without either, they are drawn. On images
the same encoder and generator are also trained as two regressors, a cVAE and a small cGAN.
`--output_dir` gets `results.json`, `config.json`, `report.html` and its picture.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
"""

from __future__ import annotations

__all__ = ["curve", "landscape", "main", "measure_toy", "train_toy"]

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from support.cgml.flags import TASKS, Flags, ModelFlags
from support.cgml.images import run_images
from support.cgml.networks import PointGenerator, point_encoder
from support.cgml.report import write_report
from support.cgml.training import train_cgml
from support.figures import drawing, png_of
from support.run import run, write_json
from torch import Tensor
from torch.utils.data import TensorDataset

from latentctl import OneToMany
from latentctl.errors import UnknownNameError
from latentctl.random import generator, seeded

CUT = 0.05  # |x| below which the modes nearly coincide
NEAR, SPURIOUS = 0.05, 0.1  # shares of the distance between the modes


def curve(x: Tensor) -> Tensor:
    """One of the two answers of the toy to `x (B, 1)`, `(B, 3)`; the other is its negative."""
    return 4 * torch.cat([x, x**2, x**3], dim=1)


def uniform(count: int, seed: int, purpose: str) -> Tensor:
    return torch.rand(count, 1, generator=generator(seed, purpose=purpose))


def train_toy(flags: ModelFlags, seed: int) -> OneToMany:
    """Trains cGML on 20,000 pairs of the toy."""
    own: Any = flags.filled("toy")
    size, width = own.latent_size, own.width
    with seeded(seed, "toy"):
        encoder, maker = point_encoder(width), PointGenerator(width, latent_size=size)
    x = 2 * uniform(20_000, seed, "x") - 1
    sign = torch.where(uniform(20_000, seed, "sign") < 0.5, -1.0, 1.0)
    return train_cgml(own, encoder, maker, 16, TensorDataset(x, sign * curve(x)), seed=seed)


def measure_toy(model: OneToMany, inputs: int, starts: int, seed: int) -> dict[str, Any]:
    """Shares over held-out x, for |x| above `CUT` and for all of them.

    `near`: answers within 5 % of the distance between the modes from one of them; `spurious`:
    answers within 10 % of it from their midpoint; `both`: inputs with an answer near each mode;
    `positive`: answers that are nearer to the positive mode.
    """
    x = 2 * uniform(inputs, seed, "held-out x") - 1
    answers, mode = model.predict(x, starts, seed=seed), curve(x)[:, None]
    plus, minus = (answers - mode).norm(dim=2), (answers + mode).norm(dim=2)
    apart = 2 * mode.norm(dim=2)
    near = torch.minimum(plus, minus) < NEAR * apart
    both = (near & (plus < minus)).any(1) & (near & (minus < plus)).any(1)
    spurious = answers.norm(dim=2) < SPURIOUS * apart
    far = x[:, 0].abs() > CUT
    result: dict[str, Any] = {}
    for name, rows in (("above the cut", far), ("all", torch.ones_like(far))):
        result[name] = {
            "near": near[rows].float().mean().item(),
            "both": both[rows].float().mean().item(),
            "spurious": spurious[rows].float().mean().item(),
            "positive": (plus < minus)[rows].float().mean().item(),
        }
    return result


@torch.no_grad()
def landscape(model: OneToMany, path: Path, *, inputs: int = 40) -> None:
    """Draws the error to the nearest mode over x and a latent of one dimension, with the starts."""
    from matplotlib.colors import LogNorm

    starts = model.starts[:, 0]
    x, z = torch.linspace(-1, 1, 240), torch.linspace(*starts.aminmax(), 241)
    column, place = x.repeat_interleave(len(z))[:, None], z.repeat(len(x))[:, None]
    drawn, mode = model.generator(model.encoder(column), place), curve(column)
    error = torch.minimum((drawn - mode).norm(dim=1), (drawn + mode).norm(dim=1))
    error = (error / (2 * mode.norm(dim=1)).clamp_min(1e-3)).clamp(0.01, 1).view(len(x), len(z))
    with drawing(size=(8, 5)) as figure:
        axes = figure.add_subplot()
        norm = LogNorm(0.01, 1)
        picture = axes.pcolormesh(
            x.numpy(), z.numpy(), error.T.numpy(), cmap="magma", norm=norm, rasterized=True
        )
        figure.colorbar(picture, label="error to the nearest mode / distance between the modes")
        at = torch.linspace(-0.95, 0.95, inputs)
        share = model.log_shares(model.encoder(at[:, None])).exp()
        area = 60 * share.flatten().numpy()
        column, place = at.repeat_interleave(len(starts)), starts.repeat(inputs)
        axes.scatter(column.numpy(), place.numpy(), area, color="lime", edgecolors="none")
        axes.set(xlabel="x", ylabel="z", title="Starts; the area of each is its share")
        path.write_bytes(png_of(figure))


def run_toy(flags: Flags, folder: Path) -> dict[str, Any]:
    model = train_toy(flags.model, flags.seed).cpu()  # its pictures and measures are small
    if model.latent_shape == (1,):
        landscape(model, folder / "landscape.png")
    return dict(measure_toy(model, flags.test_inputs, flags.answers or 64, flags.seed))


def main(flags: Flags) -> dict[str, Any]:
    if flags.task not in TASKS:
        raise UnknownNameError("--task", flags.task, TASKS)
    if flags.num_threads:
        torch.set_num_threads(flags.num_threads)
    flags = dataclasses.replace(flags, model=flags.model.filled(flags.task))
    folder, started = Path(flags.output_dir), time.monotonic()
    write_json(folder / "config.json", flags)
    results = run_toy(flags, folder) if flags.task == "toy" else run_images(flags, folder)
    results["seconds"] = time.monotonic() - started
    write_json(folder / "results.json", results)
    for name, row in results.items():
        if isinstance(row, dict):
            cells = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(f"  {name:<30} {cells}")
    report = write_report(folder, dataclasses.asdict(flags), results)
    print(f"Report: {report}")
    return results


if __name__ == "__main__":
    run(main, Flags)

r"""One-to-many prediction, as in the paper of cGML: `python recipes/cgml_modes.py --task toy`.

An encoder, a generator and an updater learn together that one input has several answers.

    toy           y = +-4 (x, x^2, x^3), the sign at random
    mnist-bar     the hidden lower half of a digit, on 30 % of the targets with a white bar
    mnist-masked  the hidden lower half of a digit
    colour        a grey digit in one of two colours, which its class decides
    faces-masked  the hidden lower half of a face
    faces-colour  the colours of a grey face

Images come from `--train_data_dir` or `--dataset_name`; without either, drawn ones are in use. On
them the same encoder and generator are also trained as two regressors, a cVAE and a small cGAN.
`--output_dir` gets `results.json`, `config.json` and a picture.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
"""

from __future__ import annotations

__all__ = ["curve", "landscape", "main", "measure_toy", "train_toy"]

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from support.cgml.flags import TASKS, Flags, ModelFlags
from support.cgml.images import run_images
from support.cgml.networks import PointGenerator, point_encoder
from support.run import run
from torch import Tensor
from torch.utils.data import TensorDataset

from latentctl.controllers.cgml.one_to_many import OneToMany
from latentctl.controllers.cgml.updater import Updater
from latentctl.errors import UnknownNameError
from latentctl.random import generator, seeded

logger = logging.getLogger(__name__)

CUT = 0.05  # |x| below which the modes are hardly apart
NEAR, GHOST = 0.05, 0.1  # of the distance between the modes


def curve(x: Tensor) -> Tensor:
    """One of the two answers of the toy to `x (B, 1)`, `(B, 3)`; the other has the other sign."""
    return 4 * torch.cat([x, x**2, x**3], dim=1)


def uniform(count: int, seed: int, purpose: str) -> Tensor:
    return torch.rand(count, 1, generator=generator(seed, purpose=purpose))


def train_toy(flags: ModelFlags, seed: int) -> OneToMany:
    """Trains cGML on 20,000 pairs of the toy."""
    own: Any = flags.filled("toy")
    size, width = own.latent_size, own.width
    with seeded(seed, "toy"):
        updater = Updater(
            (size,),
            context=16,
            width=width,
            depth=3,
            steps=own.walk_steps,
            final_jumps=own.final_jumps,
            domain=own.domain,
        )
        model = OneToMany(
            point_encoder(width),
            PointGenerator(width, latent_size=size),
            updater,
            steps=own.steps,
            learning_rate=own.descent_learning_rate,
            anneal=own.anneal,
            assign_starts=own.assign_starts,
        )
    x = 2 * uniform(20_000, seed, "x") - 1
    sign = torch.where(uniform(20_000, seed, "sign") < 0.5, -1.0, 1.0)
    return model.fit(
        TensorDataset(x, sign * curve(x)),
        max_train_steps=own.max_train_steps,
        batch_size=own.train_batch_size,
        learning_rate=own.learning_rate,
        seed=seed,
        loss={"lipschitz": own.lipschitz, "generator_lipschitz": own.generator_lipschitz},
    )


def measure_toy(model: OneToMany, inputs: int, starts: int, seed: int) -> dict[str, Any]:
    """Shares over held-out x, for |x| above `CUT` and for all of them.

    `near` is the share of answers nearer to a mode than 5 % of the distance between the modes,
    `ghosts` of those within 10 % of their midpoint; `both` is the share of x with both modes near
    an answer, and `positive` the share of answers that are nearer to the positive one.
    """
    x = 2 * uniform(inputs, seed, "held-out x") - 1
    answers, mode = model.predict(x, starts, seed=seed), curve(x)[:, None]
    plus, minus = (answers - mode).norm(dim=2), (answers + mode).norm(dim=2)
    apart = 2 * mode.norm(dim=2)
    near = torch.minimum(plus, minus) < NEAR * apart
    both = (near & (plus < minus)).any(1) & (near & (minus < plus)).any(1)
    ghosts = answers.norm(dim=2) < GHOST * apart
    far = x[:, 0].abs() > CUT
    result: dict[str, Any] = {}
    for name, rows in (("above the cut", far), ("all", torch.ones_like(far))):
        result[name] = {
            "near": near[rows].float().mean().item(),
            "both": both[rows].float().mean().item(),
            "ghosts": ghosts[rows].float().mean().item(),
            "positive": (plus < minus)[rows].float().mean().item(),
        }
    return result


@torch.no_grad()
def landscape(model: OneToMany, path: Path, *, walks: int = 13) -> None:
    """Draws the error to the nearest mode over x and a latent of one dimension, with walks."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    x, z = torch.linspace(-1, 1, 240), torch.linspace(-1, 1, 241)
    column, place = x.repeat_interleave(len(z))[:, None], z.repeat(len(x))[:, None]
    drawn, mode = model.generator(model.encoder(column), place), curve(column)
    error = torch.minimum((drawn - mode).norm(dim=1), (drawn + mode).norm(dim=1))
    error = (error / (2 * mode.norm(dim=1)).clamp_min(1e-3)).clamp(0.01, 1).view(len(x), len(z))
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        norm = LogNorm(0.01, 1)
        picture = axes.pcolormesh(
            x.numpy(), z.numpy(), error.T.numpy(), cmap="magma", norm=norm, rasterized=True
        )
        figure.colorbar(picture, label="error to the nearest mode / distance between the modes")
        for at in torch.linspace(-0.95, 0.95, walks).tolist():
            h = model.encoder(torch.full((9, 1), at))
            start = torch.linspace(-0.9, 0.9, 9)[:, None]
            steps = model.updater.walk(h, start)[0][..., 0].numpy()
            # spread sideways along each walk, which is at one x, so that its steps can be seen
            shift = torch.linspace(0, 0.05, len(steps)).numpy()
            for walk in steps.T:
                axes.plot(at + shift, walk, color="deepskyblue", linewidth=0.9)
                axes.plot(at, walk[0], ".", color="white", markersize=4)
                axes.plot(at + shift[-1], walk[-1], ".", color="lime", markersize=5)
        axes.set(xlabel="x", ylabel="z", title="Walks from starts (white) to answers (green)")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def run_toy(flags: Flags, folder: Path) -> dict[str, Any]:
    model = train_toy(flags.model, flags.seed)
    if model.updater.latent_shape == (1,):
        landscape(model, folder / "landscape.png")
    results = {}
    walks = {
        "": model.updater.final_jumps,
        "without rho, ": model.updater.steps,
        "rho to the end, ": 0,
    }
    for words, final_jumps in walks.items():
        model.updater.final_jumps = final_jumps
        found = measure_toy(model, flags.test_inputs, flags.starts or 64, flags.seed)
        results |= {f"{words}{name}": row for name, row in found.items()}
    return results


def main(flags: Flags) -> dict[str, Any]:
    logging.basicConfig(format="%(message)s")
    if flags.task not in TASKS:
        raise UnknownNameError("--task", flags.task, TASKS)
    if flags.num_threads:
        torch.set_num_threads(flags.num_threads)
    flags = dataclasses.replace(flags, model=flags.model.filled(flags.task))
    folder, started = Path(flags.output_dir), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    results = run_toy(flags, folder) if flags.task == "toy" else run_images(flags, folder)
    results["seconds"] = time.monotonic() - started
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    for name, row in results.items():
        if isinstance(row, dict):
            cells = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(f"  {name:<30} {cells}")
    print(f"Results: {folder / 'results.json'}")
    return results


if __name__ == "__main__":
    run(main, Flags)

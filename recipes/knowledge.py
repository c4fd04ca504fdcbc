r"""Knowledge over a frozen flow of pixels: `accelerate launch recipes/knowledge.py --mnist ...`.

The paper's experiment. One flow is fitted to MNIST and Omniglot together and frozen. Then a
`Knowledge` of each data set and each digit is added to it, with a code `C` that is learned without
labels. Digit 9 and Omniglot come last, and after each of them all older outputs are compared bit
for bit with those before.

    --mnist DIR_OR_ID --omniglot DIR_OR_ID     local folders, or data sets on the hub

Bits per dimension are of test images of 32 x 32, padded with black from 28 x 28, with one uniform
draw of dequantisation noise per pixel. Those of a knowledge are upper bounds, since its likelihood
is a lower bound. A data set that is mostly bright is inverted.

`--output_dir` gets `prior/` (for `latentctl.load("flow-decoder", ...)`), `knowledge/` (for
`KnowledgeBase.load`), `results.json`, `config.json`, `report.html` and its pictures.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from latentctl_adapters.flow_decoder import PixelFlow
from support.knowledge.data import LATE, NAMES, DataFlags, load, together
from support.knowledge.report import identical, measure, outputs, pictures, write_report
from support.run import RunFlags, run, timed, write_json
from torch import Tensor

from latentctl import KnowledgeBase, Latents
from latentctl.random import noise

logger = logging.getLogger(__name__)

COMPARED = 64  # images whose older outputs are compared
CHUNK = 500


@dataclass
class PriorFlags:
    """The frozen flow."""

    gaussianise: bool = True  # Make the marginals of pixels normal first; not in the paper.
    patch: int = 32
    """Height and width of the patches whose pixels become channels; by default the whole image,
    which suits small, centred images."""
    prior_width: int = 256  # Units of each layer of the couplings.
    prior_blocks: int = 4  # Blocks of two couplings.
    prior_train_steps: int = 500  # Optimizer steps.
    prior_batch_size: int = 256  # Images in a step of one process.
    prior_learning_rate: float = 1e-3  # Peak learning rate.


@dataclass
class KnowledgeFlags:
    """Each knowledge."""

    code_size: int = 2  # Dimensions of C; 2 in the paper.
    hidden: int = 70  # Units of each layer from C to mean and std; 70 in the paper.
    knowledge_width: int = 128  # Units of each layer of the couplings.
    knowledge_blocks: int = 2  # Blocks of two couplings; the paper has four layers of flow.
    knowledge_train_steps: int = 200  # Steps of the density; the best on held-out images is kept.
    critic_width: int = 256  # Units of each layer of the discriminator.
    critic_train_steps: int = 400  # Optimizer steps of the discriminator.
    train_batch_size: int = 128  # Images in a step of one process.
    learning_rate: float = 1e-3  # Learning rate of both.


@dataclass
class Flags:
    """Knowledge over a frozen flow of pixels."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/knowledge"))
    data: DataFlags = field(default_factory=DataFlags)
    prior: PriorFlags = field(default_factory=PriorFlags)
    knowledge: KnowledgeFlags = field(default_factory=KnowledgeFlags)


def fit_prior(x: Tensor, flags: PriorFlags, run: RunFlags, accelerator: Accelerator) -> PixelFlow:
    """The flow over all images, frozen."""
    model = PixelFlow.fit(
        x,
        patch=flags.patch,
        width=flags.prior_width,
        blocks=flags.prior_blocks,
        gaussianise=flags.gaussianise,
        max_train_steps=flags.prior_train_steps,
        learning_rate=flags.prior_learning_rate,
        **run.fit_options(accelerator, "training/prior", flags.prior_batch_size),
    )
    return model.to(accelerator.device).requires_grad_(False)


@torch.no_grad()
def grids(model: PixelFlow, x: Tensor, seed: int, device: torch.device) -> Tensor:
    """Bytes as grids, with one draw of dequantisation noise."""
    u = noise(0, len(x), model.sample_shape, seed=seed, purpose="training grids", uniform=True)
    parts = zip(x.split(CHUNK), u.split(CHUNK), strict=True)
    return torch.cat([model.dequantise(a.to(device).float() / 255, b.to(device)) for a, b in parts])


def add_all(
    model: PixelFlow, latents: Latents, flags: KnowledgeFlags, seed: int, accelerator: Accelerator
) -> tuple[KnowledgeBase, dict[str, Any]]:
    """All knowledge, one after the other, and whether older outputs stayed the same."""
    base = KnowledgeBase(model.flow, model.latent_shape)
    few = latents[torch.linspace(0, len(latents) - 1, COMPARED).long()].mean
    seconds: dict[str, float] = {}
    unchanged = {}
    for name in NAMES:
        before = outputs(base, few) if name in LATE else {}
        with timed(seconds, name):
            base.add(
                name,
                latents,
                code_size=flags.code_size,
                hidden=flags.hidden,
                width=flags.knowledge_width,
                blocks=flags.knowledge_blocks,
                critic_width=flags.critic_width,
                critic_steps=flags.critic_train_steps,
                max_train_steps=flags.knowledge_train_steps,
                batch_size=flags.train_batch_size * accelerator.num_processes,
                learning_rate=flags.learning_rate,
                seed=seed,
                accelerator=accelerator,
            )
        logger.warning("%s added in %.0f s.", name, seconds[name])
        if name in LATE:
            unchanged[name] = identical(before, outputs(base, few))
            logger.warning("Older outputs bit-identical after %s: %s.", name, unchanged[name])
    base.declare_exclusive([name for name in NAMES if name.startswith("digit_")])
    base.declare_exclusive(["mnist", "omniglot"], exhaustive=True)
    return base, {"seconds_to_add": seconds, "older_outputs_bit_identical": unchanged}


def main(flags: Flags) -> dict[str, Any]:
    run, started = flags.run, time.monotonic()
    accelerator = run.accelerator("knowledge")
    folder = Path(run.output_dir)
    splits = load(flags.data, run.seed)
    x, labels = together(splits["train"])
    model = fit_prior(x, flags.prior, run, accelerator)
    results: dict[str, Any] = {"seconds_of_the_prior": time.monotonic() - started}
    logger.warning("Prior fitted in %.0f s and frozen.", results["seconds_of_the_prior"])
    latents = Latents(grids(model, x, run.seed, accelerator.device), None, labels, list(NAMES))
    latents = latents.to(accelerator.device)
    base, online = add_all(model, latents, flags.knowledge, run.seed, accelerator)
    if accelerator.is_main_process:
        model.save_pretrained(folder / "prior")
        base.save(folder / "knowledge")
        write_json(folder / "config.json", flags)
        x, labels = together(splits["test"])
        results |= online | measure(model, base, x.to(accelerator.device), labels, run.seed)
        results["seconds"] = time.monotonic() - started
        write_json(folder / "results.json", results)
        shown = pictures(model, base, run.seed)
        for name, (picture, _) in shown.items():
            (folder / f"{name}.png").write_bytes(picture)
        write_report(folder / "report.html", results, shown, dataclasses.asdict(flags))
        for name, value in results["bits_per_dimension"].items():
            print(f"  {name.replace('_', ' '):<40} {value:.3f} bits per dimension")
        print(f"Report: {folder / 'report.html'}")
    accelerator.end_training()
    return results


if __name__ == "__main__":
    run(main, Flags)

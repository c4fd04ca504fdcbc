r"""Knowledge over a frozen flow of pixels: `accelerate launch recipes/knowledge.py --mnist ...`.

The paper's experiment. One flow is fitted to MNIST and Omniglot together and frozen. Then each data
set and each digit becomes a `Knowledge` over it, with a characteristic `C` that is found without
labels. They are added one at a time, digit 9 and Omniglot last, and after each of these two every
older answer is compared bit for bit with what it was.

    --mnist DIR_OR_ID --omniglot DIR_OR_ID     local folders, or data sets on the hub

Bits per dimension are of test images of 32 x 32, the 28 x 28 ones padded with black, each pixel
dequantised by one uniform draw. Those of a knowledge come from a lower bound of its likelihood, so
they are upper bounds. Strokes are bright on black: a data set that is mostly bright is inverted.

`--output_dir` gets `prior/` (as `latentctl.load("flow-decoder", ...)` reads it), `knowledge/` (as
`KnowledgeBase.load` does), `results.json`, `config.json`, `report.html` and its pictures.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
"""

from __future__ import annotations

__all__ = ["Flags", "main"]

import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from latentctl_adapters.flow_decoder import PixelFlow
from pretrain_vae import RunFlags
from support.images import ImageFlags, Images, load_images
from support.knowledge.report import answers, measure, pictures, same, write
from support.run import run
from torch import Tensor

from latentctl import KnowledgeBase, Latents
from latentctl.errors import InputError
from latentctl.random import noise

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

SETS = ("mnist", "omniglot")
DIGITS = tuple(f"digit_{digit}" for digit in range(10))
NAMES = ("mnist", *DIGITS, "omniglot")  # in the order in which they are added
LATE = ("digit_9", "omniglot")  # added to a base that is already in use
COMPARED = 64  # images whose older answers are compared
CHUNK = 500


@dataclass
class DataFlags:
    """The two data sets."""

    mnist: str | None = None
    """A local folder with MNIST, as image_data reads it, or its name on the hub: ylecun/mnist."""
    omniglot: str | None = None
    """The same for Omniglot."""
    resolution: int = 28
    """Height and width that images are resized to where they have another."""
    padded: int = 32
    """Height and width after padding with black."""
    max_train_samples: int | None = 20_000
    """Use only so many training images of each, drawn at random."""
    max_test_samples: int | None = None
    """Use only the first so many test images of each."""


@dataclass
class PriorFlags:
    """The frozen flow."""

    gaussianise: bool = True
    """Make the marginal distribution of pixels normal first; the paper does not."""
    patch: int = 32
    """Height and width of the patches whose pixels become channels; all of the image by default,
    which suits small images that stand in the middle."""
    prior_width: int = 256
    """Units of each layer of its couplings."""
    prior_blocks: int = 4
    """Blocks of two couplings."""
    prior_train_steps: int = 500
    """Optimizer steps."""
    prior_batch_size: int = 256
    """Images in a step of one process."""
    prior_learning_rate: float = 1e-3
    """Peak learning rate."""


@dataclass
class KnowledgeFlags:
    """Each knowledge."""

    code_size: int = 2
    """Dimensions of C; 2 in the paper."""
    hidden: int = 70
    """Units of each layer from C to mean and std; 70 in the paper."""
    knowledge_width: int = 128
    """Units of each layer of its couplings."""
    knowledge_blocks: int = 2
    """Blocks of two couplings; the paper has four layers of flow."""
    knowledge_train_steps: int = 200
    """Optimizer steps of the density; the best by held-out images is kept."""
    critic_width: int = 256
    """Units of each layer of the discriminator."""
    critic_train_steps: int = 400
    """Optimizer steps of the discriminator."""
    train_batch_size: int = 128
    """Images in a step of one process."""
    learning_rate: float = 1e-3
    """Of both."""


@dataclass
class Flags:
    """Knowledge over a frozen flow of pixels."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/knowledge"))
    data: DataFlags = field(default_factory=DataFlags)
    prior: PriorFlags = field(default_factory=PriorFlags)
    knowledge: KnowledgeFlags = field(default_factory=KnowledgeFlags)


def load(flags: DataFlags, seed: int) -> dict[str, dict[str, Images]]:
    """Padded images of both data sets, strokes bright on black, by split."""
    splits: dict[str, dict[str, Images]] = {"train": {}, "test": {}}
    for name in SETS:
        source = getattr(flags, name)
        if source is None:
            raise InputError(
                f"Where is {name}? Pass --{name} with a local folder of parquet files, images or "
                f"idx files, or with the name of a data set on the hub."
            )
        local = Path(source).is_dir()
        images = load_images(
            ImageFlags(
                train_data_dir=source if local else None,
                dataset_name=None if local else source,
                resolution=flags.resolution,
                max_train_samples=flags.max_train_samples,
                max_test_samples=flags.max_test_samples,
            ),
            seed,
        )
        inverted = images["train"].images.float().mean() > 127
        if inverted:
            logger.warning("%s is dark on bright: it is inverted, like the other.", name)
        margin = flags.padded - flags.resolution
        if margin < 0:
            raise InputError(f"--padded {flags.padded} is below --resolution {flags.resolution}.")
        border = (margin // 2, margin - margin // 2) * 2
        for split, part in images.items():
            grey = part.images.float().mean(1, keepdim=True).round().to(torch.uint8)
            grey = F.pad(255 - grey if inverted else grey, border)
            splits[split][name] = Images(grey, part.labels)
    digits = splits["train"]["mnist"].labels.unique().tolist()
    if digits != list(range(10)):
        raise InputError(f"MNIST should come with the labels 0 to 9, these are {digits}.")
    return splits


def together(split: dict[str, Images]) -> tuple[Tensor, Tensor]:
    """Images of both data sets `(N, 1, S, S)` in bytes, and the labels `NAMES`, `(N, 12)`."""
    mnist, omniglot = split["mnist"], split["omniglot"]
    labels = torch.zeros(len(mnist) + len(omniglot), len(NAMES))
    labels[: len(mnist), 0] = 1
    labels[: len(mnist), 1:-1] = F.one_hot(mnist.labels, 10).float()
    labels[len(mnist) :, -1] = 1
    return torch.cat([mnist.images, omniglot.images]), labels


def fit_prior(x: Tensor, flags: PriorFlags, run: RunFlags, accelerator: Accelerator) -> PixelFlow:
    """The flow over all images, which is not trained after this."""
    options = run.fit_options(accelerator, "training/prior")
    if run.max_grad_norm is None:  # then the flow's own default is in force
        del options["max_grad_norm"]
    model = PixelFlow.fit(
        x,
        patch=flags.patch,
        width=flags.prior_width,
        blocks=flags.prior_blocks,
        gaussianise=flags.gaussianise,
        max_train_steps=flags.prior_train_steps,
        batch_size=flags.prior_batch_size
        * accelerator.num_processes
        * run.gradient_accumulation_steps,
        learning_rate=flags.prior_learning_rate,
        progress=True,
        **options,
    )
    return model.to(accelerator.device).requires_grad_(False)


@torch.no_grad()
def grids(model: PixelFlow, x: Tensor, seed: int, device: torch.device) -> Tensor:
    """Bytes as grids, dequantised by one draw."""
    u = noise(0, len(x), model.sample_shape, seed=seed, purpose="training grids", uniform=True)
    parts = zip(x.split(CHUNK), u.split(CHUNK), strict=True)
    return torch.cat([model.dequantise(a.float() / 255, b) for a, b in parts]).to(device)


def add_all(
    model: PixelFlow, latents: Latents, flags: KnowledgeFlags, seed: int, accelerator: Accelerator
) -> tuple[KnowledgeBase, dict[str, Any]]:
    """All knowledge, one after the other, and what became of older answers."""
    base = KnowledgeBase(model.flow, model.latent_shape)
    few = latents[torch.linspace(0, len(latents) - 1, COMPARED).long()].mean
    seconds, unchanged = {}, {}
    for name in NAMES:
        before = answers(base, few) if name in LATE else {}
        started = time.monotonic()
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
        seconds[name] = time.monotonic() - started
        logger.warning("%s added in %.0f s.", name, seconds[name])
        if name in LATE:
            unchanged[name] = same(before, answers(base, few))
            logger.warning("Older answers bit-identical after %s: %s.", name, unchanged[name])
    return base, {"seconds_to_add": seconds, "older_answers_bit_identical": unchanged}


def main(flags: Flags) -> dict[str, Any]:
    logging.basicConfig(format="%(message)s")
    run, started = flags.run, time.monotonic()
    accelerator = run.accelerator("knowledge")
    folder = Path(run.output_dir)
    splits = load(flags.data, run.seed)
    x, labels = together(splits["train"])
    model = fit_prior(x, flags.prior, run, accelerator)
    results: dict[str, Any] = {"seconds_of_the_prior": time.monotonic() - started}
    logger.warning("Prior fitted in %.0f s, and frozen.", results["seconds_of_the_prior"])
    latents = Latents(grids(model, x, run.seed, accelerator.device), None, labels, list(NAMES))
    latents = latents.to(accelerator.device)
    base, online = add_all(model, latents, flags.knowledge, run.seed, accelerator)
    if accelerator.is_main_process:
        model.save_pretrained(folder / "prior")
        base.save(folder / "knowledge")
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
        x, labels = together(splits["test"])
        results |= online | measure(model, base, x.to(accelerator.device), labels, run.seed)
        results["seconds"] = time.monotonic() - started
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        shown = pictures(model, base, run.seed)
        for name, (picture, _) in shown.items():
            (folder / f"{name}.png").write_bytes(picture)
        write(folder / "report.html", results, shown, dataclasses.asdict(flags))
        for name, value in results["bits_per_dimension"].items():
            print(f"  {name.replace('_', ' '):<40} {value:.3f} bits per dimension")
        print(f"Report: {folder / 'report.html'}")
    accelerator.end_training()
    return results


if __name__ == "__main__":
    run(main, Flags)

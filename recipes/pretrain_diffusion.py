r"""Train a small flow-matching pipeline of diffusers: `accelerate launch recipes/pretrain_diffusion.py`.

A `UNet2DModel` learns the velocity between data and noise,

.. math:: v(x_\sigma, \sigma) \approx \epsilon - x, \quad x_\sigma = (1 - \sigma) x + \sigma \epsilon

It has no condition: all control is latentctl's. With `--decoder` or
`--pretrained_model_name_or_path` the data are the latents of that frozen autoencoder, which must be
grids, divided by their standard deviation.

    --train_data_dir DIR or --dataset_name ID           the images
    --decoder FILE.py:FUNCTION                          an autoencoder of images, for their latents

`--output_dir` gets `pipeline/`, which `DiffusionPipeline.from_pretrained` and
`latentctl.load("diffusers-pipeline", ...)` read, `flags.json`, `training/metrics.jsonl`, and
`samples.png`, by 4 and by 20 steps.

References:
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DDPMPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel
from support.images import ImageFlags, load_images
from support.models import DecoderFlags, load_decoder
from support.run import RunFlags, run, write_json
from torch import Tensor

import latentctl
from latentctl.display.picture import grid, png
from latentctl.random import seeded
from latentctl.training import Step, train

SHOWN = 40


@dataclass
class DiffusionFlags:
    """The network and its training."""

    channels: tuple[int, ...] = (16, 32, 64)  # Of each level; each but the first halves the sides.
    layers_per_block: int = 1  # Residual blocks of a level.
    diffusion_train_steps: int = 4000  # Optimizer steps.
    diffusion_batch_size: int = 64  # Images in a step of one process.
    diffusion_learning_rate: float = 2e-3  # Peak learning rate.


@dataclass
class Flags:
    """Train a small flow-matching pipeline."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/diffusion"))
    data: ImageFlags = field(default_factory=ImageFlags)
    base: DecoderFlags = field(default_factory=DecoderFlags)
    diffusion: DiffusionFlags = field(default_factory=DiffusionFlags)


def main(flags: Flags) -> None:
    accelerator = flags.run.accelerator("pretrain_diffusion")
    folder = Path(flags.run.output_dir)
    images = load_images(flags.data, flags.run.seed)["train"]
    base = load_decoder(flags.base)
    if base is None:
        x = images.pixels() * 2 - 1
    else:
        x = latentctl.encode_dataset(base, images, folder / "latents", accelerator=accelerator).mean
        x = x / x.std()
    model = pretrain(x, flags, accelerator)
    if accelerator.is_main_process:
        pipeline = DDPMPipeline(model.cpu(), FlowMatchEulerDiscreteScheduler())
        pipeline.save_pretrained(folder / "pipeline")
        write_json(folder / "flags.json", flags)
    accelerator.end_training()


def pretrain(x: Tensor, flags: Flags, accelerator: object) -> UNet2DModel:
    """A network that was trained on `x (N, C, h, h)`, with averaged weights."""
    own, count = flags.diffusion, len(flags.diffusion.channels)
    with seeded(flags.run.seed, "diffusion"):
        model = UNet2DModel(
            sample_size=x.shape[-1],
            in_channels=x.shape[1],
            out_channels=x.shape[1],
            block_out_channels=own.channels,
            layers_per_block=own.layers_per_block,
            down_block_types=("DownBlock2D",) * count,
            up_block_types=("UpBlock2D",) * count,
            norm_num_groups=8,
            add_attention=False,
        )

    def loss(x: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        eps = step.normal(*x.shape[1:])
        sigma = step.uniform(1, 1, 1, purpose="sigma")
        found = model(x + sigma * (eps - x), 1000 * sigma.flatten()).sample
        return (found - (eps - x)).square().mean(), {}

    train(
        model,
        loss,
        x,
        name="diffusion",
        learning_rate=own.diffusion_learning_rate,
        max_train_steps=own.diffusion_train_steps,
        ema=0.999,
        **flags.run.fit_options(
            accelerator,
            "training",
            own.diffusion_batch_size,
            lr_scheduler="cosine",
            lr_warmup_steps=100,
            max_grad_norm=1.0,
        ),
    )
    return model


if __name__ == "__main__":
    run(main, Flags)

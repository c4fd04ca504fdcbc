r"""Train a small flow-matching pipeline: `accelerate launch recipes/pretrain_diffusion.py`.

A `UNet2DModel` of diffusers learns the velocity between data and noise,

.. math:: v(x_\sigma, \sigma) \approx \epsilon - x, \quad
    x_\sigma = (1 - \sigma) x + \sigma \epsilon

It has no condition: all control is latentctl's. With `--decoder` or
`--pretrained_model_name_or_path` the data are the latents of that frozen autoencoder: grids, of a
standard deviation near 1.

    --train_data_dir DIR or --dataset_name ID           the images
    --decoder FILE.py:FUNCTION                          an autoencoder of images, for their latents

`--output_dir` gets `pipeline/`, which `DiffusionPipeline.from_pretrained` and
`latentctl.load("diffusers-pipeline", ...)` read, `flags.json`, `training/metrics.jsonl`, and
`samples.png`: samples in 4 steps, and below them the same noise in 20.

References:
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, FlowMatchEulerDiscreteScheduler, UNet2DModel
from support.images import ImageFlags, Images, load_images
from support.models import DecoderFlags, load_decoder
from support.run import RunFlags, run, write_json
from torch import Tensor

import latentctl
from latentctl.display.picture import grid, png
from latentctl.errors import InputError
from latentctl.progress import track
from latentctl.random import seeded
from latentctl.training import Step, train

SHOWN = 10  # samples in a row of the picture
SCALE = (0.5, 2.0)  # of latents, whose noise has 1


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
    model = pretrain(_data(images, base), flags, accelerator)
    if accelerator.is_main_process:
        pipeline = DDPMPipeline(model.cpu(), FlowMatchEulerDiscreteScheduler())
        pipeline.save_pretrained(folder / "pipeline")
        write_json(folder / "flags.json", flags)
        decoder = latentctl.wrap(pipeline, steps=4, vae=base)
        z = decoder.prior.sample(SHOWN, seed=flags.run.seed)
        x = torch.cat([decoder.decode(z), decoder.render(z, 20)])
        picture = png(grid(x, columns=SHOWN, value_range=decoder.picture_range))
        (folder / "samples.png").write_bytes(picture)
        print(f"Pipeline in {folder / 'pipeline'}, samples in {folder / 'samples.png'}.")
    accelerator.end_training()


@torch.no_grad()
def _data(images: Images, base: latentctl.Decoder | None) -> Tensor:
    """What is generated: pixels in [-1, 1], or the latents of `base`, `(N, C, h, w)`."""
    if base is None:
        return images.pixels() * 2 - 1
    low, high = base.picture_range
    parts = track(images.images.split(100), "Encode", "batch")
    x = torch.cat([base.encode(low + (high - low) * part / 255).mean for part in parts])
    if x.ndim != 4 or not SCALE[0] <= float(x.std()) <= SCALE[1]:
        raise InputError(
            f"{base.name} has latents {tuple(x.shape[1:])} of standard deviation {x.std():.2g}. A "
            f"U-Net of diffusers generates grids (C, h, w), and its noise has the deviation 1: "
            f"scale the latents of the decoder."
        )
    return x


def pretrain(x: Tensor, flags: Flags, accelerator: Accelerator) -> UNet2DModel:
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

"""The reference autoencoder of faces: its flags, its training, and a picture of what it does."""

from __future__ import annotations

__all__ = ["VAEFlags", "overview", "pretrain"]

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from latentctl_adapters.conv_vae import ConvAE, ConvVAE
from torch import Tensor

import latentctl
from latentctl.display.picture import grid, png
from latentctl.random import seeded
from latentctl.training import Step, train

from .faces import Faces
from .run import RunFlags


@dataclass
class VAEFlags:
    """The autoencoder."""

    latent_size: int = 128  # Dimensions of the latent; 1024 in the paper.
    width: int = 32  # Channels of the first layer; 256 in the paper.
    sigma_x: float = 0.1  # Standard deviation of the pixel likelihood: 0.1 is sharp, 1 is blurry.
    beta: float = 1.0  # Weight of the KL divergence.
    variational: bool = True  # False for a plain autoencoder.
    vae_train_steps: int = 1300  # Optimizer steps.
    vae_batch_size: int = 32  # Images in a step of one process.
    vae_learning_rate: float = 2e-3  # Peak learning rate.


def pretrain(
    faces: Faces, flags: VAEFlags, run: RunFlags, accelerator: Accelerator, part: str = "vae"
) -> ConvAE:
    """The reference autoencoder, trained on `faces`; its logs go to the folder `part`."""
    with seeded(run.seed, "vae"):
        model = (ConvVAE if flags.variational else ConvAE)(
            resolution=faces.images.shape[-1],
            latent_size=flags.latent_size,
            width=flags.width,
            sigma_x=flags.sigma_x,
        )

    def loss(batch: tuple[Tensor, Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch[0].float() / 255
        mirror = step.uniform(1, 1, 1, purpose="mirror") < 0.5
        x = torch.where(mirror, x.flip(-1), x)
        return model.loss(x, step.normal(flags.latent_size), beta=flags.beta)

    train(
        model,
        loss,
        faces,
        name="vae",
        learning_rate=flags.vae_learning_rate,
        max_train_steps=flags.vae_train_steps,
        **run.fit_options(
            accelerator, part, flags.vae_batch_size, lr_scheduler="cosine", lr_warmup_steps=50
        ),
    )
    return model


@torch.no_grad()
def overview(decoder: latentctl.Decoder, x: Tensor) -> bytes:
    """A picture of ten inputs and their reconstructions."""
    x = x[:10].to(decoder.device)
    rows = [x, decoder.decode(decoder.encode(x).mean)]
    value_range = decoder.picture_range
    return png(grid(torch.cat(rows), columns=len(x), value_range=value_range))

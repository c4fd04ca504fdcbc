"""A plain DCGAN of MNIST without an encoder: the frozen generator of `benchmarks.digits.gan`.

    LATENTCTL_DATA=... python -m benchmarks.digits.gan_model --output_dir outputs/digits-gan

Its 64 latents are N(0, I). About five minutes of one core. Writes `generator.safetensors` and a
picture of samples.

References:
    | Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
    | (Radford et al., 2015) https://arxiv.org/abs/1511.06434
    | Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018)
    | https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import update_bn

from benchmarks.shared.base import pixels
from benchmarks.shared.digits import load_mnist
from benchmarks.shared.run import SeededFlags, run
from latentctl.display.picture import grid, png
from latentctl.random import noise, seeded
from latentctl.training import Player, Step, fit

LATENTS = 64


@dataclass
class Flags(SeededFlags):
    max_train_steps: int = 4500  # Of both networks together.
    batch_size: int = 64
    output_dir: Path = Path("outputs/digits-gan")


class Generator(nn.Module):
    """Images `(B, 1, 28, 28)` in [-1, 1] of latents `(B, 64)`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(LATENTS, 2 * width * 49), nn.Unflatten(1, (2 * width, 7, 7))),
            *(nn.BatchNorm2d(2 * width), nn.ReLU()),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            *(nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1), nn.Tanh()),
        )

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.body(z)
        return x

    @classmethod
    def load(cls, folder: Path) -> Generator:
        """The generator that this script has written into a folder."""
        generator = cls()
        generator.load_state_dict(load_file(str(folder / "generator.safetensors")))
        return generator.eval()


class Discriminator(nn.Module):
    """Log-odds `(B, 1)` that images are of the data.

    With batch normalisation in place of the spectral one the generator drew no ones.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(spectral_norm(nn.Conv2d(1, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            *(nn.LeakyReLU(0.2), nn.Flatten(), spectral_norm(nn.Linear(2 * width * 49, 1))),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


def players(generator: Generator, discriminator: Discriminator) -> list[Player]:
    """The two players of the game, with the non-saturating loss."""

    def judged(rows: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fake = generator(step.normal(LATENTS))
        real, fake = discriminator(2 * pixels(rows) - 1), discriminator(fake)
        return (F.softplus(-real) + F.softplus(fake)).mean(), {}

    def drawn(rows: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return F.softplus(-discriminator(generator(step.normal(LATENTS)))).mean(), {}

    def adam(network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), 5e-4, betas=(0.5, 0.999))

    return [
        Player("discriminator", discriminator, judged, adam(discriminator)),
        Player("generator", generator, drawn, adam(generator), ema=0.995),
    ]


def main(flags: Flags) -> None:
    with seeded(flags.seed, "digits gan"):
        generator, discriminator = Generator(), Discriminator()
    history = fit(
        players(generator, discriminator),
        load_mnist()["train"].images,
        max_train_steps=flags.max_train_steps,
        batch_size=flags.batch_size,
        seed=flags.seed,
        lr_scheduler="linear",
    )
    generator.load_state_dict(history.averaged["generator"].state_dict())
    batches = noise(0, 6400, (LATENTS,), seed=flags.seed, purpose="statistics").split(64)
    update_bn(batches, generator)  # of the averaged weights
    generator.eval()
    save_file(generator.state_dict(), str(flags.output_dir / "generator.safetensors"))
    with torch.no_grad():
        x = generator(noise(0, 100, (LATENTS,), seed=flags.seed))
    (flags.output_dir / "gan.png").write_bytes(png(grid(x, columns=10, value_range=(-1.0, 1.0))))


if __name__ == "__main__":
    run(main, Flags)

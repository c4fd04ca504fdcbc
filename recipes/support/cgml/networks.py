r"""Networks of `cgml_modes` and its baselines: regressors, a cVAE and a small cGAN.

All share the encoder :math:`H` and the generator :math:`G`; only the training differs:

    regressor   L1 on :math:`G(H(x), 0)`; predicts the median of all answers
    oracle      L1 on :math:`G(H(x), m)`, given the mode `m`; an upper bound
    cvae        :math:`|G(h, z) - y|_1 / b + \mathrm{KL}(q(z | h, y) \| N(0, I))`; samples N(0, I)
    cgan        least squares against a critic of pairs (x, y), and a little L1

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Learning Structured Output Representation using Deep Conditional Generative Models
      (Sohn et al., 2015)
    | https://papers.nips.cc/paper/5775
    | Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2017)
    | https://arxiv.org/abs/1611.07004
"""

from __future__ import annotations

__all__ = ["BASELINES", "Baseline", "Encoder", "Generator", "PointGenerator", "point_encoder"]

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentctl.errors import UnknownNameError
from latentctl.random import noise
from latentctl.training import Player, Step, fit

BASELINES = ("regressor", "oracle", "cvae", "cgan")
SCALE = 0.05  # of the Laplace likelihood per pixel of the cVAE
ADVERSARIAL = 0.02  # weight of the critic beside the L1 of the cGAN
FEATURES = 64  # of images, for the gate
SHARPNESS = 4.0  # of the first layer over z
Skips: TypeAlias = tuple[Tensor, Tensor, Tensor]


def point_encoder(width: int, features: int = 16) -> nn.Module:
    """H of the toy, from `(B, 1)` to `(B, features)`."""
    return nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, features))


class PointGenerator(nn.Module):
    """G of the toy: features and a latent to points `(B, 3)`."""

    def __init__(self, width: int, features: int = 16, latent_size: int = 1) -> None:
        super().__init__()
        sizes = [features + latent_size, width, width, width]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 3))

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        y: Tensor = self.layers(torch.cat([h, z], dim=1))
        return y


class Encoder(nn.Module):
    """H of images: features `(B, features)`, and the skips of the generator on two grids.

    Arguments:
        channels: Channels of the input.
        width: Channels of the finer grid; the coarser one has twice as many.
        features: Features for the gate.
    """

    def __init__(self, channels: int, width: int = 16, features: int = FEATURES) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels, width, 4, 2, 1)
        self.coarse = nn.Conv2d(width, 2 * width, 4, 2, 1)
        self.features = nn.LazyLinear(features)
        self.skip_fine = nn.Conv2d(width, width, 3, padding=1)
        self.skip_coarse = nn.Conv2d(2 * width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Skips:
        fine = F.silu(self.fine(x))
        coarse = F.silu(self.coarse(fine))
        features = F.silu(self.features(coarse.flatten(1)))
        return features, self.skip_fine(fine), self.skip_coarse(coarse)


class Generator(nn.Module):
    """G of images: a U-Net with additive skips, `(h, z)` to images.

    The output is linear: under an L1 loss a sigmoid saturates at black before strokes are learned.

    Arguments:
        latent_size: Dimensions of z.
        channels: Channels of the output.
        width: As in the encoder.
        size: Height and width, a multiple of 4.
        rows: Rows of the output, those at the bottom.
    """

    def __init__(
        self, latent_size: int, channels: int, width: int = 16, size: int = 28, rows: int = 28
    ) -> None:
        super().__init__()
        self.rows = rows
        self.grid = (2 * width, size // 4, size // 4)
        cells = 2 * width * (size // 4) ** 2
        self.first = nn.Linear(FEATURES, cells)
        # separate layers: z has few dimensions and would have little influence among the features
        # at first, and a generator that is nearly linear in z interpolates between two answers
        self.places = nn.Linear(latent_size, 64)
        self.latent = nn.Linear(64, cells, bias=False)
        self.same = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        # subpixel convolutions: transposed ones are several times slower on a CPU
        self.up = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 3, 1, 1), nn.PixelShuffle(2))
        self.last = nn.Sequential(nn.Conv2d(width, 4 * channels, 3, 1, 1), nn.PixelShuffle(2))

    def forward(self, h: Skips, z: Tensor) -> Tensor:
        features, fine, coarse = h
        place = self.latent(torch.tanh(SHARPNESS * self.places(z)))
        y = (self.first(features) + place).unflatten(1, self.grid) + coarse
        y = F.silu(y + self.same(F.silu(y)))
        image: Tensor = self.last(F.silu(self.up(y) + fine))
        return image[:, :, -self.rows :]


def beside(x: Tensor, y: Tensor) -> Tensor:
    """Inputs and outputs as channels of one image."""
    return torch.cat([x, F.pad(y, (0, 0, x.shape[-2] - y.shape[-2], 0))], dim=1)


class Baseline(nn.Module):
    """H and G with the training of a baseline.

    Arguments:
        kind: One of `BASELINES`.
        x: One input, `(1, C, S, S)`, for the sizes.
        y: One output.
        latent_size: Dimensions of z.
        width: As in the encoder.

    Raises:
        UnknownNameError: If there is no such kind.
    """

    def __init__(self, kind: str, x: Tensor, y: Tensor, latent_size: int, width: int) -> None:
        super().__init__()
        if kind not in BASELINES:
            raise UnknownNameError("baseline", kind, BASELINES)
        self.kind, self.latent_size = kind, latent_size
        self.encoder = Encoder(x.shape[1], width)
        self.generator = Generator(
            latent_size, y.shape[1], width, size=x.shape[-1], rows=y.shape[-2]
        )
        pair = beside(x, y)
        self.posterior = Encoder(pair.shape[1], width, 2 * latent_size)
        self.critic = nn.Sequential(
            nn.Conv2d(pair.shape[1], width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.LazyLinear(1),
        )
        for network in (self.encoder, self.posterior):
            network(x if network is self.encoder else pair)  # sets the sizes
        self.critic(pair)

    def draw(self, x: Tensor, z: Tensor) -> Tensor:
        y: Tensor = self.generator(self.encoder(x), z)
        return y

    @torch.no_grad()
    def predict(self, x: Tensor, count: int, seed: int, modes: Tensor | None = None) -> Tensor:
        """Outputs `(B, count, ...)`, on the device of `x`; the oracle is given `modes`, or both."""
        there, shape = x.device, (self.latent_size,)
        x = x.to(next(self.parameters()).device)
        z = noise(0, len(x) * count, shape, seed=seed, purpose="latents of a baseline").to(x.device)
        if self.kind in ("regressor", "oracle"):
            z = torch.zeros_like(z)
        if self.kind == "oracle":
            z[:, 0] = torch.arange(len(z)) % 2 if modes is None else modes.float()
        return self.draw(x.repeat_interleave(count, 0), z).unflatten(0, (len(x), count)).to(there)

    def loss(self, batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, mode = batch
        z = torch.zeros(len(x), self.latent_size, device=x.device)
        if self.kind == "oracle":
            z[:, 0] = mode.float()
        if self.kind == "cgan":
            z = step.normal(self.latent_size, purpose="z")
        if self.kind != "cvae":
            drawn = self.draw(x, z)
            error = F.l1_loss(drawn, y)
            if self.kind != "cgan":
                return error, {}
            real = self.critic(beside(x, drawn))
            return error + ADVERSARIAL * (real - 1).square().mean(), {"error": error}
        mean, log_std = self.posterior(beside(x, y))[0].chunk(2, dim=1)
        drawn = self.draw(x, mean + log_std.exp() * step.normal(self.latent_size, purpose="z"))
        error = (drawn - y).abs().flatten(1).sum(1).mean() / SCALE
        kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(1).mean()
        return (error + kl) / y[0].numel(), {"kl": kl}

    def judge(self, batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the cGAN's critic."""
        x, y, _ = batch
        with torch.no_grad():
            drawn = self.draw(x, step.normal(self.latent_size, purpose="z"))
        real, fake = (self.critic(beside(x, image)) for image in (y, drawn))
        return (real - 1).square().mean() + fake.square().mean(), {}

    def fit(
        self,
        data: Any,
        *,
        max_train_steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        on_step: Callable[[int], None] | None = None,
    ) -> Baseline:
        """Trains on triples `(x, y, mode)`, with `max_train_steps` steps of the generator."""
        own = [*self.encoder.parameters(), *self.generator.parameters()]
        own += [*self.posterior.parameters()] if self.kind == "cvae" else []
        players = [Player(self.kind, self, self.loss, torch.optim.Adam(own, lr=learning_rate))]
        if self.kind == "cgan":
            optimizer = torch.optim.Adam(self.critic.parameters(), lr=learning_rate)
            players.append(Player("judge", self.critic, self.judge, optimizer))
        fit(
            players,
            data,
            max_train_steps=max_train_steps * len(players),
            batch_size=batch_size,
            seed=seed,
            lr_scheduler="linear",
            max_grad_norm=5.0,
            on_step=on_step,
        )
        return self.eval()

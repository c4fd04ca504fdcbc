r"""A residual VAE of square images: sharper than `conv_vae` at the same number of weights.

.. math::
    q(z \mid x) = \mathcal{N}(\mu(x), \mathrm{diag}(\sigma(x)^2)), \quad
    p(x \mid z) = \mathcal{N}(g(z), \sigma_x^2 I), \quad p(z) = \mathcal{N}(0, I)

Images are folded to half their side before the first convolution and unfolded after the last one,
so that no convolution runs at full size. Each residual block of the decoder is scaled and shifted
by the latent. The drawn faces that ship with the package are decoded by this network.

References:
    | Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
      Neural Network (Shi et al., 2016): the unfolding
    | https://arxiv.org/abs/1609.05158
    | FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018): the scales
    | https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

__all__ = ["ResidualVAE", "accepts", "load", "wrap"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from latentctl.decoder import Decoder, Posterior
from latentctl.errors import InputError
from latentctl.storage import register_to_config

from .square_vae import kl_divergence, normal_of, square_decoder
from .wrapping.outputs import posterior_of
from .wrapping.pretrained import Pretrained, loader


class ResidualVAE(Pretrained, kind="residual-vae"):
    """A variational autoencoder of square images with residual blocks.

    Arguments:
        resolution: Height and width of the images in pixels, a multiple of `2 ** len(widths)`.
        channels: Colour channels.
        latent_size: Dimensions of the latent vector.
        widths: Channels of the decoder, from half the resolution down; each stage has half the
            side of the one before.
        encoder_widths: Channels of the encoder, in the same order and of the same number.
        sigma_x: Standard deviation of the pixel likelihood, for pixels in [0, 1].

    Raises:
        InputError: If a size is not positive, or the resolution cannot be halved that often.

    Example:
        >>> model = ResidualVAE(16, latent_size=8, widths=(4, 8), encoder_widths=(4, 8))
        >>> x = torch.rand(2, 3, 16, 16)
        >>> model.encode(x).stddev.shape, model.decode(torch.zeros(2, 8)).shape
        (torch.Size([2, 8]), torch.Size([2, 3, 16, 16]))
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        latent_size: int = 128,
        widths: Sequence[int] = (32, 96, 160, 192),
        encoder_widths: Sequence[int] = (24, 48, 96, 160),
        sigma_x: float = 0.07,
    ) -> None:
        super().__init__()
        stages, factor = len(widths), 2 ** len(widths)
        if min(resolution, channels, latent_size, stages, *widths, *encoder_widths) < 1:
            raise InputError("Resolution, channels, latent_size and all widths must be positive.")
        if len(encoder_widths) != stages or resolution % factor or not sigma_x > 0:
            raise InputError(
                f"Need as many encoder_widths as widths, a resolution that is a multiple of "
                f"{factor}, and sigma_x > 0; found {len(encoder_widths)} and {stages}, "
                f"{resolution}, and {sigma_x}."
            )
        self.sigma_x = sigma_x
        side, folded = resolution // factor, 4 * channels
        encoder: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(folded, encoder_widths[0], 3, padding=1),
        ]
        for small, large in pairwise(encoder_widths):
            encoder += [nn.PixelUnshuffle(2), nn.Conv2d(4 * small, large, 1), _Residual(large)]
        inner = side * side
        self.encoder = nn.Sequential(
            *encoder,
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(inner * encoder_widths[-1], 2 * latent_size),
        )
        self.start = nn.Sequential(
            nn.Linear(latent_size, inner * widths[-1]), nn.Unflatten(1, (widths[-1], side, side))
        )
        self.blocks = nn.ModuleList(_Residual(width, latent_size) for width in reversed(widths))
        self.unfold = nn.ModuleList(
            nn.Conv2d(large, 4 * small, 1)
            for small, large in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0], folded, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # faster on CPUs, with the same results

    def encode(self, x: Tensor) -> Normal:
        """The posterior of images `x (B, channels, resolution, resolution)` in [0, 1].

        A Normal over `(B, latent_size)`.
        """
        return normal_of(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, channels, resolution, resolution)` in [0, 1] of `z (B, latent_size)`."""
        h = self.start(z)
        for stage, block in enumerate(self.blocks):
            h = block(h, z)
            if stage < len(self.unfold):
                h = F.pixel_shuffle(self.unfold[stage](h), 2)
        return torch.sigmoid(F.pixel_shuffle(self.out(F.silu(h)), 2))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of `x`, without noise."""
        return self.decode(self.posterior(x).mean)

    def posterior(self, x: Tensor) -> Posterior:
        """The posterior of `x`."""
        return posterior_of(self.encode(x))

    def loss(
        self, x: Tensor, eps: Tensor, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""The negative evidence lower bound in nats per image, up to a constant.

        .. math::
            L = \frac{|x - g(\mu + \sigma \epsilon)|^2}{2 \sigma_x^2}
                + \beta \, \mathrm{KL}(\mathcal{N}(\mu, \sigma^2) \,\|\, \mathcal{N}(0, I))

        Arguments:
            x: Images in [0, 1], `(B, channels, resolution, resolution)`.
            eps: Standard normal noise, `(B, latent_size)`.
            beta: Weight of the KL, at least 0; 1 is the bound itself.

        Returns:
            The mean loss, and its parts by name, detached; `mse` is the squared error of a value.
        """
        q = self.encode(x)
        error = (self.decode(q.mean + q.stddev * eps) - x).square()
        nll = error.flatten(1).sum(1).mean() / (2 * self.sigma_x**2)
        kl = kl_divergence(q)
        parts = {"nll": nll.detach(), "kl": kl.detach(), "mse": error.detach().mean()}
        return nll + beta * kl, parts


class _Residual(nn.Module):
    """Two convolutions beside the identity, which it starts as."""

    def __init__(self, width: int, latent_size: int = 0) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(latent_size, 2 * width) if latent_size else None
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]
        if self.film is not None:
            nn.init.normal_(self.film.weight, std=0.02)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = self.inner(F.silu(x))
        if self.film is not None:
            scale, shift = self.film(z)[..., None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        out: Tensor = x + self.outer(F.silu(h))
        return out


def accepts(model: object) -> bool:
    """Whether `model` is a `ResidualVAE`."""
    return isinstance(model, ResidualVAE)


def wrap(model: ResidualVAE, **options: Any) -> Decoder:
    """The frozen decoder of `model`, with `options` as in `latentctl.wrap`."""
    return square_decoder(model, **options)


load = loader(wrap, ResidualVAE)

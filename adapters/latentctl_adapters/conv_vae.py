r"""The convolutional VAE of the latent-constraints paper, and the plain autoencoder of its shape.

.. math::
    q(z \mid x) = \mathcal{N}(\mu(x), \mathrm{diag}(\sigma(x)^2)), \quad
    p(x \mid z) = \mathcal{N}(g(z), \sigma_x^2 I), \quad p(z) = \mathcal{N}(0, I)

Four strided convolutions and a linear layer, mirrored by the decoder, without normalization. The
encoder gives a standard deviation through softplus. A small :math:`\sigma_x` gives sharp images,
and an aggregate posterior that differs from the prior, which critics and controllers correct.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["ConvAE", "ConvVAE", "accepts", "load", "wrap"]

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from latentctl.decoder import Decoder, Posterior
from latentctl.errors import InputError
from latentctl.storage import register_to_config

from .square_vae import kl_divergence, normal_of, square_decoder
from .wrapping.outputs import posterior_of
from .wrapping.pretrained import Pretrained, loader

if TYPE_CHECKING:
    from typing_extensions import Self

WIDTHS = (1, 2, 4, 8)
KERNELS = (5, 5, 3, 3)


class ConvAE(Pretrained, kind="conv-ae"):
    """A plain autoencoder of square images; its latents follow no known prior.

    Arguments:
        resolution: Height and width of the images in pixels, at least 16.
        channels: Colour channels.
        latent_size: Dimensions of the latent vector.
        width: Channels of the first convolution; the others have 2, 4 and 8 times as many.
        sigma_x: Standard deviation of the pixel likelihood, for pixels in [0, 1].

    Raises:
        InputError: If a size is not positive, or the images are too small.

    Example:
        >>> model = ConvAE(resolution=16, latent_size=8, width=4)
        >>> x = torch.rand(2, 3, 16, 16)
        >>> model.encode(x).shape, model.decode(model.encode(x)).shape
        (torch.Size([2, 8]), torch.Size([2, 3, 16, 16]))
    """

    numbers_per_latent: ClassVar[int] = 1

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        latent_size: int = 256,
        width: int = 32,
        sigma_x: float = 0.1,
    ) -> None:
        super().__init__()
        if resolution < 16 or min(channels, latent_size, width) < 1 or not sigma_x > 0:
            raise InputError(
                f"Need resolution >= 16, channels, latent_size and width >= 1, and sigma_x > 0; "
                f"found {resolution}, {channels}, {latent_size}, {width} and {sigma_x}."
            )
        self.sigma_x = sigma_x
        sizes = [channels, *(width * factor for factor in WIDTHS)]
        sides = [resolution]
        for _ in KERNELS:
            sides.append((sides[-1] + 1) // 2)
        inner = (sizes[-1], sides[-1], sides[-1])
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for i, kernel in enumerate(KERNELS):
            small, large, padding = sizes[i], sizes[i + 1], kernel // 2
            encoder += [nn.Conv2d(small, large, kernel, 2, padding), nn.ReLU()]
            even = 1 - sides[i] % 2  # a side of 7 and one of 8 both shrink to 4
            decoder = [nn.ConvTranspose2d(large, small, kernel, 2, padding, even), *decoder]
            if i > 0:
                decoder.insert(1, nn.ReLU())
        features = math.prod(inner)
        to_latent = nn.Linear(features, self.numbers_per_latent * latent_size)
        self.encoder = nn.Sequential(*encoder, nn.Flatten(), to_latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, features), nn.Unflatten(1, inner), *decoder
        )
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                _he_init(layer)
        # a fifth faster on CPUs, with the same results
        self.to(memory_format=torch.channels_last)

    @classmethod
    def paper(cls, **options: Any) -> Self:
        """The size of the paper: `width=256, latent_size=1024`, 154 million weights at 64x64."""
        return cls(**{"width": 256, "latent_size": 1024, **options})

    def encode(self, x: Tensor) -> Any:
        """The latents `(B, latent_size)` of images `x (B, channels, resolution, resolution)`."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, channels, resolution, resolution)` in [0, 1] of `z (B, latent_size)`."""
        return torch.sigmoid(self.decoder(z))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of `x`, without noise."""
        return self.decode(self.posterior(x).mean)

    def posterior(self, x: Tensor) -> Posterior:
        """The posterior of `x`, without std for a plain autoencoder."""
        return posterior_of(self.encode(x))

    def loss(
        self, x: Tensor, eps: Tensor | None = None, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""The negative log-likelihood of the pixels, in nats per image.

        .. math:: L = -\log \mathcal{N}(x \mid g(f(x)), \sigma_x^2 I)

        Arguments:
            x: Images in [0, 1], `(B, channels, resolution, resolution)`.
            eps: Not used; present so that both models train by the same loop.
            beta: Not used.

        Returns:
            The mean loss, and its parts by name, detached.
        """
        nll = self._pixel_nll(x, self.encode(x))
        return nll, {"nll": nll.detach()}

    def _pixel_nll(self, x: Tensor, z: Tensor) -> Tensor:
        normal = Normal(self.decode(z), self.sigma_x, validate_args=False)
        nll: Tensor = -normal.log_prob(x).flatten(1).sum(1).mean()
        return nll


class ConvVAE(ConvAE, kind="conv-vae"):
    """A variational autoencoder of square images, with the arguments of `ConvAE`.

    Example:
        >>> model = ConvVAE(resolution=16, latent_size=8, width=4)
        >>> x = torch.rand(2, 3, 16, 16)
        >>> model.encode(x).stddev.shape
        torch.Size([2, 8])
        >>> loss, parts = model.loss(x, torch.zeros(2, 8))
        >>> torch.allclose(loss, parts["nll"] + parts["kl"])
        True
    """

    numbers_per_latent = 2

    def encode(self, x: Tensor) -> Normal:
        """The posterior `q(z | x)`, a Normal over `(B, latent_size)`."""
        return normal_of(self.encoder(x))

    def loss(
        self, x: Tensor, eps: Tensor | None = None, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""The negative evidence lower bound, in nats per image.

        .. math::
            L = -\log \mathcal{N}(x \mid g(\mu + \sigma \epsilon), \sigma_x^2 I)
                + \beta \, \mathrm{KL}(\mathcal{N}(\mu, \sigma^2) \,\|\, \mathcal{N}(0, I))

        Arguments:
            x: Images in [0, 1], `(B, channels, resolution, resolution)`.
            eps: Standard normal noise, `(B, latent_size)`.
            beta: Weight of the KL, at least 0; 1 is the bound itself.

        Returns:
            The mean loss, and its parts by name, detached.

        Raises:
            InputError: If `eps` is missing.
        """
        if eps is None:
            raise InputError("A ConvVAE is trained with noise: pass eps (B, latent_size).")
        q = self.encode(x)
        nll = self._pixel_nll(x, q.mean + q.stddev * eps)
        kl = kl_divergence(q)
        return nll + beta * kl, {"nll": nll.detach(), "kl": kl.detach()}


def _he_init(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    # torch's default shrinks the signal at every layer and slows the start of training
    inputs = layer.in_channels * math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):
        inputs //= math.prod(layer.stride)  # the other positions are zeros of the upsampling
    nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))


def accepts(model: object) -> bool:
    """Whether `model` is one of the two classes of this module."""
    return isinstance(model, ConvAE)


def wrap(model: ConvAE, **options: Any) -> Decoder:
    """The frozen decoder of `model`, with `options` as in `latentctl.wrap`."""
    return square_decoder(model, **options)


load = loader(wrap, ConvAE)

r"""A normalizing flow over pixels as a frozen decoder: its encoder is its inverse.

An image of bytes :math:`v = 255 x` is dequantised by a uniform draw :math:`u` in each bin,
:math:`y = (v + u) / 256 - \frac12`. Patches of `p x p` pixels become the channels of a grid, over
which :math:`f` is a `LatentFlow`,

.. math:: z = \mathrm{squeeze}(t(y)), \quad e = f(z) \sim \mathcal{N}(0, I)

where :math:`t` is the identity or, by default, marginal Gaussianization: :math:`t = \Phi^{-1}
\circ F` with the cumulative histogram :math:`F` of all pixels of the training images, which is 256
numbers that need no training. Without it the noise within the bin of black is a hundred times
narrower than the strokes, and a flow of affine maps needs layers to separate the two.

The density of the dequantised image is exact. In bits per dimension, of `D`, it is

.. math:: b(x, u) = 8 - \frac{1}{D} \log_2 \Big( q(z) \prod_i \frac{dt}{dy_i} \Big)

where 8 is the width of a bin, :math:`2^{-8}`. The expectation :math:`\mathbb{E}_u\, b(x, u)` is an
upper bound of the code length of the bytes under :math:`q`. It is 8 bits for uniform noise at best,
and 0 for a constant image.

The whitening of the flow, the same in every cell of the grid, is the tiled invertible linear map of
the paper.

References:
    | TzK Flow - Conditional Generative Model (Livne & Fleet, 2018)
    | https://arxiv.org/abs/1811.01837
    | A Note on the Evaluation of Generative Models (Theis et al., 2015)
    | https://arxiv.org/abs/1511.01844
    | Iterative Gaussianization: from ICA to Random Rotations (Laparra et al., 2011)
    | https://arxiv.org/abs/1602.00229
"""

from __future__ import annotations

__all__ = ["PixelFlow", "accepts", "load", "wrap"]

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from latentctl.decoder import Decoder
from latentctl.errors import InputError, ShapeError
from latentctl.latents import Latents
from latentctl.nn.precision import double_precision
from latentctl.priors.flow import LatentFlow
from latentctl.random import noise
from latentctl.storage import register_to_config

from .wrapping.outputs import decode_view, encode_view
from .wrapping.pretrained import Pretrained, loader

if TYPE_CHECKING:
    from typing_extensions import Self

CELLS, PIXELS = "n (c p q) h w", "n c (h p) (w q)"
CHUNK = 500  # images at a time, in double precision
EDGE = 1e-5  # mass beyond the darkest and the brightest level, so that none is at infinity
UNSEEN = 1e-3  # mass spread over all levels, for those absent from the training images
SIZES = {"width": 64, "depth": 2, "blocks": 4, "dropout": 0.0}
LOG_2PI = math.log(2 * math.pi)


class PixelFlow(Pretrained, kind="pixel-flow"):
    """A flow over square images of bytes, with base noise as the latent.

    Arguments:
        resolution: Height and width of the images in pixels.
        channels: Colour channels.
        patch: Height and width of the patches whose pixels become channels of the grid. A patch
            as large as the image gives a vector, and fully connected networks.
        kind: `coupling` or `spline`.
        width: Units of each layer of a coupling's network.
        depth: Layers of it.
        blocks: Blocks of two couplings.
        dropout: Share of units that couplings drop while training.
        gaussianise: Make the marginal distribution of all pixels normal first.

    Raises:
        InputError: If patches do not fill the image.

    Example:
        >>> model = PixelFlow(resolution=8, channels=1, patch=2, width=8, blocks=1)
        >>> x = torch.rand(3, 1, 8, 8)
        >>> model.encode(x).shape, torch.allclose(model.decode(model.encode(x)), x, atol=1e-4)
        (torch.Size([3, 4, 4, 4]), True)
        >>> model.bits_per_dimension(x, torch.rand_like(x)).shape
        torch.Size([3])
    """

    levels: Tensor

    @register_to_config
    def __init__(
        self,
        resolution: int = 32,
        channels: int = 1,
        patch: int = 4,
        kind: str = "coupling",
        width: int = 64,
        depth: int = 2,
        blocks: int = 4,
        dropout: float = 0.0,
        gaussianise: bool = True,
    ) -> None:
        super().__init__()
        if min(resolution, channels, patch) < 1 or resolution % patch:
            raise InputError(
                f"Images of {channels} x {resolution} x {resolution} cannot be cut into patches of "
                f"{patch} x {patch}: the resolution must be a multiple of the patch."
            )
        if kind not in ("coupling", "spline"):
            raise InputError(
                f"Bits per dimension need a density that is exact and quick: kind is coupling or "
                f"spline, not {kind!r}."
            )
        self.sample_shape = (channels, resolution, resolution)
        side = resolution // patch
        features = channels * patch * patch
        self.latent_shape = (features, side, side) if side > 1 else (features,)
        self.register_buffer("levels", torch.full((256,), 1 / 256))
        sizes: dict[str, Any] = {"width": width, "depth": depth, "blocks": blocks}
        self.flow = LatentFlow(self.latent_shape, kind, dropout=dropout, **sizes)

    def dequantise(self, x: Tensor, u: Tensor | float = 0.5) -> Tensor:
        """The grid `(N, *latent_shape)` of images `x (N, C, S, S)` in [0, 1].

        Arguments:
            x: Images of 256 levels; for a density, `255 * x` must be integers.
            u: The place within a bin, in [0, 1), as `x` or one number for all.

        Raises:
            ShapeError: If `x` has another shape.
            InputError: If `u` is not in [0, 1).
        """
        return self._grid(self._places(x, u))[0]

    def image(self, z: Tensor) -> Tensor:
        """Images `(N, C, S, S)` in [0, 1] of grids `z (N, *latent_shape)`; not rounded to bytes."""
        p = self.config["patch"]
        side = self.config["resolution"] // p
        y = rearrange(z.view(len(z), -1, side, side), f"{CELLS} -> {PIXELS}", p=p, q=p)
        if self.config["gaussianise"]:
            share, below = self._shares()
            mass = (torch.special.ndtr(double_precision(y)) - EDGE) / (1 - 2 * EDGE)
            mass = mass.clamp(0, 1 - 1e-9)
            level = (torch.bucketize(mass.detach(), below, right=True) - 1).clamp(0, 255)
            places = (level + (mass - below[level]) / share[level]).to(y)
        else:
            places = 256 * (y + 0.5)
        x: Tensor = ((places - 0.5) / 255).clamp(0, 1)
        return x

    def decode(self, e: Tensor) -> Tensor:
        """Images `(N, C, S, S)` in [0, 1] of base noise `e (N, *latent_shape)`."""
        return self.image(self.flow.from_base(e))

    def encode(self, x: Tensor) -> Tensor:
        """Base noise `(N, *latent_shape)` of images in [0, 1], at the centres of their bins."""
        return self.flow.to_base(self.dequantise(x))

    def log_prob(
        self, x: Tensor, u: Tensor, density: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Log-density of the dequantised images in nats, `(N,)`; exact.

        Arguments:
            x: Images of bytes in [0, 1], `(N, C, S, S)`.
            u: Uniform draws in [0, 1), as `x`.
            density: Another log-density over grids, such as `log_prob` of a `Knowledge`; this
                flow's own if not given.
        """
        z, log_det = self._grid(self._places(x, u))
        nats: Tensor = (density or self.flow.log_prob)(z) + log_det
        return nats

    @torch.no_grad()
    def bits_per_dimension(
        self, x: Tensor, u: Tensor, density: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Bits per dimension, `(N,)`, lower is better; arguments as in `log_prob`."""
        parts = zip(x.split(CHUNK), u.split(CHUNK), strict=True)
        nats = torch.cat([self.log_prob(a, b, density) for a, b in parts])
        return 8 - nats / (math.log(2) * math.prod(self.sample_shape))

    def _shares(self) -> tuple[Tensor, Tensor]:
        """The share of each level, and of all levels below it, in double precision."""
        share = double_precision(self.levels)
        share = share / share.sum()
        return share, torch.cat([share.new_zeros(1), share.cumsum(0)[:-1]])

    def _places(self, x: Tensor, u: Tensor | float) -> Tensor:
        """`255 x + u`, in [0, 256)."""
        if x.shape[1:] != self.sample_shape:
            raise ShapeError(
                f"This flow is over images (N, {', '.join(map(str, self.sample_shape))}), found "
                f"{tuple(x.shape)}. Pad or resize them."
            )
        u = torch.as_tensor(u)
        if not bool(((u >= 0) & (u < 1)).all()):
            raise InputError("u, the place within a bin, must be in [0, 1); draw it by torch.rand.")
        return 255 * x + u.to(x)

    def _grid(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The grid of places within 256 bins, and the log-determinant `(N,)` of the map."""
        y, log_det = places / 256 - 0.5, places.new_zeros(len(places))
        if self.config["gaussianise"]:
            share, below = self._shares()
            exact = double_precision(places)
            level = exact.detach().long().clamp(0, 255)
            mass = below[level] + share[level] * (exact - level)
            y = torch.special.ndtri(EDGE + (1 - 2 * EDGE) * mass)
            slope = (256 * (1 - 2 * EDGE) * share[level]).log() + 0.5 * (y.square() + LOG_2PI)
            y, log_det = y.to(places), slope.flatten(1).sum(1).to(places)
        p = self.config["patch"]
        grid = rearrange(y, f"{PIXELS} -> {CELLS}", p=p, q=p)
        return grid.view(-1, *self.latent_shape), log_det

    @classmethod
    def fit(
        cls,
        images: Tensor,
        *,
        patch: int = 4,
        kind: str = "coupling",
        gaussianise: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """A flow over images, each dequantised once.

        Arguments:
            images: Bytes, or floats in [0, 1], `(N, C, S, S)`.
            patch: As in the class.
            kind: As in the class.
            gaussianise: As in the class.
            seed: Decides every random number.
            options: `width`, `depth`, `blocks` and `dropout` as in the class, and further arguments
                of `LatentFlow.fit`, such as `max_train_steps`.

        Raises:
            ShapeError: If they are not square images.
            InputError: If they leave [0, 1], or are too few.
        """
        if images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ShapeError(
                f"A flow over pixels needs images (N, C, S, S), found {tuple(images.shape)}. Pad "
                f"or crop them to squares."
            )
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise InputError("Images must be bytes, or floats in [0, 1] without a NaN.")
        options = {**SIZES, **options}
        sizes = {name: options[name] for name in SIZES}
        model = cls(x.shape[2], x.shape[1], patch, kind, gaussianise=gaussianise, **sizes)
        levels = (255 * x).round().long().flatten()
        counts = double_precision(torch.bincount(levels, minlength=256))
        model.levels.copy_((1 - UNSEEN) * counts / counts.sum() + UNSEEN / 256)
        u = noise(0, len(x), model.sample_shape, seed=seed, purpose="dequantise", uniform=True)
        parts = zip(x.split(CHUNK), u.split(CHUNK), strict=True)
        latents = Latents(torch.cat([model.dequantise(a, b) for a, b in parts]))
        model.flow = LatentFlow.fit(latents, kind, seed=seed, **options)
        return model.eval()


def accepts(model: object) -> bool:
    """Whether `model` is a `PixelFlow`."""
    return isinstance(model, PixelFlow)


def wrap(model: PixelFlow, **options: Any) -> Decoder:
    """The frozen decoder of `model`, with `options` as in `latentctl.wrap`."""
    if options.keys() - {"prior", "value_range"}:
        from . import torch_module

        return torch_module.wrap(model, **options)
    return Decoder(
        model,
        decode_view,
        encode_view,
        latent_shape=model.latent_shape,
        sample_shape=model.sample_shape,
        value_range=options.get("value_range", (0.0, 1.0)),
        prior=options.get("prior"),
    )


load = loader(wrap, PixelFlow)

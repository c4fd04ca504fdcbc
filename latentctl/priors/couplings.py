r"""Coupling flows: one half of the dimensions is transformed given the other half.

.. math:: y_a = x_a, \quad y_b = \tau(x_b \mid h(x_a))

with :math:`\tau` affine (RealNVP) or a monotonic rational-quadratic spline (neural spline flows).
A block transforms both halves in turn. Each block has its own random halves, which is the fixed
random permutation of Generative Latent Flow. On cells `(C, ...)` the network is convolutional and
the halves are checkerboards and sets of channels, so that the number of parameters does not grow
with `h * w`.

The transformations are zuko's. Both directions take one pass, whereas an autoregressive spline
samples in one pass for each dimension.

References:
    | Density Estimation using Real NVP (Dinh et al., 2016)
    | https://arxiv.org/abs/1605.08803
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

__all__ = ["Couplings"]

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.transforms import (
    CouplingTransform,
    DependentTransform,
    MonotonicAffineTransform,
    MonotonicRQSTransform,
)
from zuko.utils import unpack

from ..nn.grids import append_cells, layer, start_at_zero
from ..nn.trunk import Trunk
from ..random import generator
from .whitening import Whitening

CLAMP = 2.0  # an affine coupling scales by e^-2 to e^2, as in Generative Latent Flow
BINS = 8
BOUND = 6.0  # splines are the identity beyond


class Couplings(nn.Module):
    """Whitening and coupling layers: an invertible map from latents to noise.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.
        spline: Splines instead of affine transformations.
        width: Units of each layer of a coupling's network.
        depth: Number of its layers.
        blocks: Number of blocks, two couplings each.
        dropout: Dropout of its networks.

    Example:
        >>> from latentctl.random import noise
        >>> couplings = Couplings((4, 8, 8), spline=True, width=8, blocks=1)
        >>> z = noise(0, 2, (4, 8, 8), seed=0)
        >>> e, log_det = couplings.to_base(z)
        >>> torch.allclose(couplings.from_base(e), z, atol=1e-4), log_det.shape
        (True, torch.Size([2]))
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        spline: bool = False,
        width: int = 256,
        depth: int = 2,
        blocks: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.white = Whitening(latent_shape)
        layers: list[nn.Module] = []
        for block in range(blocks):
            half = _half(self.latent_shape, block)
            layers += [_Coupling(mask, spline, width, depth, dropout) for mask in (half, ~half)]
        self.transform = LazyComposedTransform(*layers)

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise `(B, *latent_shape)` of latents, and the log-determinant `(B,)` of the map."""
        white = self.white(z)
        e, log_det = self.transform().call_and_ladj(white.flatten(1))
        return e.view_as(z), log_det + self.white.log_det

    def from_base(self, e: Tensor) -> Tensor:
        """The inverse of `to_base`."""
        white: Tensor = self.transform().inv(e.flatten(1))
        return self.white.inverse(white.view_as(e))


class _Coupling(LazyTransform):  # type: ignore[misc]
    """One coupling: given the entries of `mask`, the others are transformed."""

    mask: Tensor

    def __init__(self, mask: Tensor, spline: bool, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.shapes = [(BINS,), (BINS,), (BINS - 1,)] if spline else [(), ()]
        self.univariate: Callable[..., Any] = (
            partial(MonotonicRQSTransform, bound=BOUND)
            if spline
            else partial(MonotonicAffineTransform, slope=math.exp(-CLAMP))
        )
        self.numbers = sum(math.prod(shape) for shape in self.shapes)
        self.trunk = Trunk(tuple(mask.shape), width=width, depth=depth, dropout=dropout)
        self.head = layer(self.trunk.axes, width, mask.shape[0] * self.numbers)
        start_at_zero(self.head)  # nearly the identity

    def meta(self, fixed: Tensor) -> Any:
        seen = fixed.new_zeros(len(fixed), self.mask.numel())
        seen[:, self.mask.flatten()] = fixed
        out = self.head(self.trunk(seen.view(-1, *self.mask.shape))).to(fixed.dtype)
        out = out.unflatten(1, (self.mask.shape[0], self.numbers)).movedim(2, -1)
        parameters = unpack(out.flatten(1, -2)[:, ~self.mask.flatten()], self.shapes)
        return DependentTransform(self.univariate(*parameters), 1)

    def forward(self, c: Tensor | None = None) -> Any:
        return CouplingTransform(self.meta, self.mask.flatten())


def _half(shape: tuple[int, ...], block: int) -> Tensor:
    """Half of the entries for a block; of grids a checkerboard or half of the channels."""
    order = torch.randperm(shape[0], generator=generator(0, block, purpose="coupling"))
    if len(shape) == 1:
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[order[: (shape[0] + 1) // 2]] = True
        return mask
    if block % 2 and shape[0] > 1:
        return append_cells(order[None] % 2 == 0, len(shape) - 1)[0].expand(shape).clone()
    places = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    return torch.stack(places).sum(0) % 2 == 0

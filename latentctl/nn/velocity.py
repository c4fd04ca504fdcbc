"""The network of flow matching: a velocity at a latent and a time, for vectors and cells."""

from __future__ import annotations

__all__ = ["Velocity"]

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grids import check_shape, layer, start_at_zero
from .unet import UNet

FREQUENCIES = 16  # of the time


class Velocity(nn.Module):
    """A velocity at a latent and a time, `(z, time, context) -> (B, *latent_shape)`.

    Residual blocks with layer normalisation and additive conditioning on time and context; for a
    sequence, a grid or a volume, a U-Net of them. The initial output is zero.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.
        context: Number of context features, 0 for none.
        width: Units of each layer; for a grid, at the lowest resolution.
        depth: Number of residual blocks; for a grid, at the lowest resolution.

    Example:
        >>> Velocity((8,), width=16)(torch.zeros(5, 8), torch.zeros(5, 1)).shape
        torch.Size([5, 8])
    """

    frequencies: Tensor

    def __init__(
        self, latent_shape: Sequence[int], *, context: int = 0, width: int = 512, depth: int = 4
    ) -> None:
        super().__init__()
        axes = check_shape(latent_shape)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 4, FREQUENCIES)))
        context, size = context + 1 + 2 * FREQUENCIES, latent_shape[0]
        self.net: UNet | None = None
        self.leave: nn.Module
        if axes:
            self.net = UNet(size, axes, context=context, width=width, depth=depth)
            self.leave = layer(axes, self.net.outputs, size, kernel=3)
        else:
            self.embed, self.enter = nn.Linear(context, width), nn.Linear(size, width)
            self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(depth))
            self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.leave = nn.Linear(width, size)
            for outer in self.outer:
                start_at_zero(outer)
        start_at_zero(self.leave)

    def forward(self, z: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        waves = time * self.frequencies
        parts = [time, waves.sin(), waves.cos(), *([] if context is None else [context])]
        velocity: Tensor = self.leave(self._features(z, torch.cat(parts, dim=1)))
        return velocity.to(z.dtype)  # autocast makes half precision of it

    def _features(self, z: Tensor, context: Tensor) -> Tensor:
        if self.net is not None:
            grid: Tensor = self.net(z, context)
            return grid
        embedding = F.silu(self.embed(context))
        features: Tensor = self.enter(z) + embedding
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=True):
            features = features + outer(F.silu(inner(norm(features) + embedding)))
        return features

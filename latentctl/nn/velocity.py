"""The network of flow matching: a velocity at a latent and a time, for vectors and grids alike."""

from __future__ import annotations

__all__ = ["Velocity"]

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .trunk import check_shape
from .unet import UNet, start_at_zero

FREQUENCIES = 16  # of the time


class Velocity(nn.Module):
    """A velocity at a latent and a time, `(z, time, context) -> (B, *latent_shape)`.

    Residual blocks with layer normalisation, each told the time and the context; of a grid, a
    U-Net of them. It starts at zero.

    Arguments:
        latent_shape: `(D,)` or `(C, h, w)`.
        context: Number of context features, 0 for none.
        width: Units of each layer; of a grid, of its coarsest level.
        depth: Number of residual blocks, likewise.

    Example:
        >>> Velocity((8,), width=16)(torch.zeros(5, 8), torch.zeros(5, 1)).shape
        torch.Size([5, 8])
    """

    frequencies: Tensor

    def __init__(
        self, latent_shape: Sequence[int], *, context: int = 0, width: int = 512, depth: int = 4
    ) -> None:
        super().__init__()
        check_shape(latent_shape)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 4, FREQUENCIES)))
        told, size = 1 + 2 * FREQUENCIES + context, latent_shape[0]
        self.net: UNet | None = None
        self.leave: nn.Module
        if len(latent_shape) == 3:
            self.net = UNet(size, told=told, width=width, depth=depth)
            self.leave = nn.Conv2d(self.net.outputs, size, 3, padding=1)
        else:
            self.embed, self.enter = nn.Linear(told, width), nn.Linear(size, width)
            self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(depth))
            self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.leave = nn.Linear(width, size)
            for layer in self.outer:
                start_at_zero(layer)
        start_at_zero(self.leave)

    def forward(self, z: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        waves = time * self.frequencies
        told = [time, waves.sin(), waves.cos(), *([] if context is None else [context])]
        velocity: Tensor = self.leave(self._features(z, torch.cat(told, dim=1)))
        return velocity

    def _features(self, z: Tensor, told: Tensor) -> Tensor:
        if self.net is not None:
            seen: Tensor = self.net(z, told)
            return seen
        shown = F.silu(self.embed(told))
        features: Tensor = self.enter(z) + shown
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=True):
            features = features + outer(F.silu(inner(norm(features) + shown)))
        return features

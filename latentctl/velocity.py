"""The network of flow matching: a velocity at a latent and a time, for vectors and grids alike.

References:
    | U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015)
    | https://arxiv.org/abs/1505.04597
"""

from __future__ import annotations

__all__ = ["Velocity"]

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nets import COORDINATES, check_shape, coordinates

FREQUENCIES = 16  # of the time


class Block(nn.Module):
    """A residual layer on features `(B, width)` or `(B, width, h, w)`, told what is `shown`.

    It starts as the identity.
    """

    def __init__(self, width: int, spatial: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.inner, self.outer = _layer(width, width, spatial), _layer(width, width, spatial)
        _start_at_zero(self.outer)

    def forward(self, features: Tensor, shown: Tensor) -> Tensor:
        out: Tensor = features + self.outer(F.silu(self.inner(self.norm(features) + shown)))
        return out


class Velocity(nn.Module):
    """A velocity at a latent and a time, `(z, time, context) -> (B, *latent_shape)`.

    Residual blocks with layer normalisation, each told the time and the context. A grid is halved
    twice on the way in, with twice the channels each time up to `width`, and doubled on the way
    out: local layers alone would not see that two eyes belong together. It starts at zero.

    Arguments:
        latent_shape: `(D,)` or `(C, h, w)`.
        context: Number of context features, 0 for none.
        width: Units of each layer; of a grid, of its coarsest.
        depth: Number of residual blocks; of a grid, of its coarsest, beside two of each other.

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
        self.spatial = len(latent_shape) == 3
        fine = [max(1, width // 4), max(1, width // 2)] if self.spatial else []
        widths = [*fine, width]
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 4, FREQUENCIES)))
        told = 1 + 2 * FREQUENCIES + context
        self.embeds = nn.ModuleList(nn.Linear(told, units) for units in widths)
        features = latent_shape[0] + (COORDINATES if self.spatial else 0)
        self.enter = _layer(features, widths[0], self.spatial)
        pairs = list(itertools.pairwise(widths))
        self.before = nn.ModuleList(Block(units, True) for units in fine)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.blocks = nn.ModuleList(Block(width, self.spatial) for _ in range(depth))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairs)
        self.after = nn.ModuleList(Block(units, True) for units in fine)
        self.leave = _layer(widths[0], latent_shape[0], self.spatial)
        _start_at_zero(self.leave)

    def forward(self, z: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        waves = time * self.frequencies
        told = torch.cat(
            [time, waves.sin(), waves.cos(), *([] if context is None else [context])], 1
        )
        shown = [F.silu(embed(told)) for embed in self.embeds]
        if self.spatial:
            shown = [each[:, :, None, None] for each in shown]
            z = torch.cat([z, coordinates(z)], dim=1)
        features = self.enter(z) + shown[0]
        kept = []
        for level, (block, shrink) in enumerate(zip(self.before, self.shrink, strict=True)):
            kept.append(block(features, shown[level]))
            features = shrink(kept[-1])
        for block in self.blocks:
            features = block(features, shown[-1])
        for level in reversed(range(len(kept))):
            wide = F.interpolate(features, size=kept[level].shape[2:])
            features = self.after[level](kept[level] + self.grow[level](wide), shown[level])
        velocity: Tensor = self.leave(features)
        return velocity


def _layer(features: int, outputs: int, spatial: bool) -> nn.Module:
    if spatial:
        return nn.Conv2d(features, outputs, 3, padding=1)
    return nn.Linear(features, outputs)


def _start_at_zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))

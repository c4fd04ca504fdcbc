"""A small U-Net for grids, with additive conditioning on a vector at every level.

References:
    | U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015)
    | https://arxiv.org/abs/1505.04597
"""

from __future__ import annotations

__all__ = ["COORDINATES", "Block", "UNet", "coordinates", "start_at_zero"]

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout

COORDINATES = 2  # channels with the position of a cell


class Block(nn.Module):
    """A residual layer on features `(B, width, h, w)` plus an embedding; initially the identity."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = Dropout(dropout)
        start_at_zero(self.outer)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        inner = self.dropout(F.silu(self.inner(self.norm(features) + embedding)))
        out: Tensor = features + self.outer(inner)
        return out


class UNet(nn.Module):
    """Features `(B, outputs, h, w)` of a grid `(B, channels, h, w)`, `outputs = width // 4`.

    The resolution is halved twice while the channels double up to `width`, and then restored, so
    that each output depends on the whole grid.

    Arguments:
        channels: Channels of the grid.
        context: Number of context features, 0 for none.
        width: Channels at the lowest resolution.
        depth: Residual blocks at the lowest resolution; the other levels have two.
        dropout: Share of units dropped in each block while training.

    Example:
        >>> net = UNet(4, context=3, width=16, depth=2)
        >>> net(torch.zeros(5, 4, 7, 8), torch.zeros(5, 3)).shape, net.outputs
        (torch.Size([5, 4, 7, 8]), 4)
    """

    def __init__(
        self, channels: int, *, context: int, width: int, depth: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        fine = [max(1, width // 4), max(1, width // 2)]
        widths = [*fine, width]
        self.outputs = widths[0]
        self.embeds = nn.ModuleList(nn.Linear(max(1, context), units) for units in widths)
        self.enter = nn.Conv2d(channels + COORDINATES, widths[0], 3, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.before = nn.ModuleList(Block(units, dropout) for units in fine)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairs)
        self.after = nn.ModuleList(Block(units, dropout) for units in fine)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        context = z.new_zeros(len(z), 1) if context is None else context
        embeddings = [F.silu(embed(context))[:, :, None, None] for embed in self.embeds]
        features: Tensor = self.enter(torch.cat([z, coordinates(z)], dim=1)) + embeddings[0]
        kept = []
        for level, (block, shrink) in enumerate(zip(self.before, self.shrink, strict=True)):
            kept.append(block(features, embeddings[level]))
            features = shrink(kept[-1])
        for block in self.blocks:
            features = block(features, embeddings[-1])
        for level in reversed(range(len(kept))):
            wide = F.interpolate(features, size=kept[level].shape[2:])
            features = self.after[level](kept[level] + self.grow[level](wide), embeddings[level])
        return features


def start_at_zero(layer: nn.Module) -> None:
    """Initialises a linear layer or a convolution with zeros."""
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))


def coordinates(z: Tensor) -> Tensor:
    """Row and column of each cell of a grid in [-1, 1], `(B, 2, h, w)`."""
    height, width = z.shape[2:]
    rows = torch.linspace(-1, 1, height, device=z.device).view(1, 1, -1, 1)
    columns = torch.linspace(-1, 1, width, device=z.device).view(1, 1, 1, -1)
    return torch.cat([c.expand(len(z), 1, height, width) for c in (rows, columns)], dim=1)

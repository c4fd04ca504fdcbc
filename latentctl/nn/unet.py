"""A small U-Net over cells, with additive conditioning on a vector at every level.

References:
    | U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015)
    | https://arxiv.org/abs/1505.04597
"""

from __future__ import annotations

__all__ = ["Block", "UNet"]

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout
from .grids import append_cells, coordinates, layer, start_at_zero


class Block(nn.Module):
    """A residual layer on features `(B, width, ...)` plus an embedding; initially the identity."""

    def __init__(self, width: int, axes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.inner = layer(axes, width, width, kernel=3)
        self.outer = layer(axes, width, width, kernel=3)
        self.dropout = Dropout(dropout)
        start_at_zero(self.outer)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        inner = self.dropout(F.silu(self.inner(self.norm(features) + embedding)))
        out: Tensor = features + self.outer(inner)
        return out


class UNet(nn.Module):
    """Features `(B, outputs, ...)` of cells `(B, channels, ...)`, `outputs = width // 4`.

    The resolution is halved twice while the channels double up to `width`, and then restored, so
    that each output depends on all cells.

    Arguments:
        channels: Channels of a cell.
        axes: Axes of cells: 1 of sequences, 2 of grids, 3 of volumes.
        context: Number of context features, 0 for none.
        width: Channels at the lowest resolution.
        depth: Residual blocks at the lowest resolution; the other levels have two.
        dropout: Share of units dropped in each block while training.

    Example:
        >>> net = UNet(4, 2, context=3, width=16, depth=2)
        >>> net(torch.zeros(5, 4, 7, 8), torch.zeros(5, 3)).shape, net.outputs
        (torch.Size([5, 4, 7, 8]), 4)
    """

    def __init__(
        self,
        channels: int,
        axes: int,
        *,
        context: int,
        width: int,
        depth: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.axes = axes
        fine = [max(1, width // 4), max(1, width // 2)]
        widths = [*fine, width]
        self.outputs = widths[0]
        self.embeds = nn.ModuleList(nn.Linear(max(1, context), units) for units in widths)
        self.enter = layer(axes, channels + axes, widths[0], kernel=3)
        pairs = list(itertools.pairwise(widths))
        self.before = nn.ModuleList(Block(units, axes, dropout) for units in fine)
        self.shrink = nn.ModuleList(layer(axes, a, b, kernel=3, stride=2) for a, b in pairs)
        self.blocks = nn.ModuleList(Block(width, axes, dropout) for _ in range(depth))
        self.grow = nn.ModuleList(layer(axes, b, a, kernel=3) for a, b in pairs)
        self.after = nn.ModuleList(Block(units, axes, dropout) for units in fine)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        context = z.new_zeros(len(z), 1) if context is None else context
        embeddings = [append_cells(F.silu(embed(context)), self.axes) for embed in self.embeds]
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

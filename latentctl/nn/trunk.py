r"""Networks over latents: vectors `(B, D)`, sequences, grids and volumes `(B, C, ...)` alike.

On a vector latent they are the multilayer perceptrons of Engel et al. (2017): the context is
embedded by one linear layer without a nonlinearity and concatenated to the latent, then come
`depth` layers of `width` rectified units. Otherwise the first axis has the channels, and the layers
are convolutions over the others, with the context and the coordinates of each cell as further
channels, so that the number of parameters does not grow with the number of cells. Tokens `(T, D)`
are taken as `T` channels. Scores of a grid come from a pyramid, and moves from a U-Net: of ten
log-odds of faces with 8 x 8 cells a pyramid explained 0.86 of the variance (R2), and convolutions
of constant resolution 0.63.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["GatedResidual", "ScoreNet", "Trunk", "encode_targets"]

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError, check_rows
from .dropout import Dropout
from .grids import append_cells, check_shape, coordinates, layer
from .unet import UNet

CONSTANT = 1e-6  # relative std below which a dimension counts as constant
NARROWEST = 32  # layer of a pyramid
GATE_BIAS = -2.0


class Trunk(nn.Module):
    """Features of a latent and a context: `(B, features)`, or `(B, features, ...)` of cells.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.
        context: Number of context features, 0 for none.
        width: Units of each layer.
        depth: Number of layers.
        dropout: Share of units dropped after each layer while training.
        smooth: Use SiLU, whose derivative is continuous, instead of ReLU.
        grid: Layers over cells. `flat` keeps the resolution; `pyramid` halves it after each layer
            but the first and doubles the channels up to `width`; `unet` is a U-Net with
            `width // 4` features.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        context: int = 0,
        *,
        width: int = 512,
        depth: int = 4,
        dropout: float = 0.0,
        smooth: bool = False,
        grid: Literal["flat", "pyramid", "unet"] = "flat",
    ) -> None:
        super().__init__()
        self.axes = check_shape(latent_shape)
        self.latent_shape, self.context = tuple(latent_shape), context
        self.spatial = self.axes > 0
        self.unet: UNet | None = None
        if self.spatial and grid == "unet":
            sizes: dict[str, Any] = {"context": context, "width": width, "depth": depth}
            self.unet = UNet(latent_shape[0], self.axes, dropout=dropout, **sizes)
            self.features = self.unet.outputs
        else:
            widths, strides = [width] * depth, [1] * depth
            if self.spatial and grid == "pyramid":
                widths = [max(min(width, NARROWEST), width >> k) for k in reversed(range(depth))]
                strides = [1] + [2] * (depth - 1)
            self.features = width
            self.embed = nn.Linear(context, widths[0]) if context else None
            features = latent_shape[0] + (widths[0] if context else 0) + self.axes
            layers: list[nn.Module] = []
            for units, stride in zip(widths, strides, strict=True):
                layers.append(layer(self.axes, features, units, kernel=3, stride=stride))
                layers.append(nn.SiLU() if smooth else nn.ReLU())
                if dropout:
                    layers.append(Dropout(dropout))
                features = units
            self.layers = nn.Sequential(*layers)
        self.register_buffer("shift", torch.zeros(self.latent_shape))
        self.register_buffer("scale", torch.ones(self.latent_shape))

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Makes `(z - mean) / std` the input; constant dimensions are only shifted."""
        self.shift.copy_(mean)
        # what counts as constant depends on the latents' own scale, and on rounding of the mean
        floor = CONSTANT * torch.maximum(std.max(), mean.abs())
        self.scale.copy_(torch.where(std > floor, std, torch.ones_like(std)))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        check_rows(
            z, self.latent_shape, "This network takes latents", "It was made for another decoder."
        )
        if self.context and context is None:
            raise InputError("This network is conditional: pass the target `y`.")
        standard = (z - self.shift) / self.scale
        if self.unet is not None:
            seen: Tensor = self.unet(standard, context)
            return seen
        parts = [standard]
        if self.spatial:
            parts.append(coordinates(z))
        if self.embed is not None:
            embedded = append_cells(self.embed(context), self.axes)
            parts.append(embedded.expand(-1, -1, *self.latent_shape[1:]))
        features: Tensor = self.layers(torch.cat(parts, dim=1))
        return features


class ScoreNet(nn.Module):
    """Scores of a latent: `(z, context) -> (B, outputs)`.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells. The features are then the
            mean and the maximum over the cells of a pyramid.
        outputs: Scores per latent.
        width: Units of each layer.
        smooth: Use SiLU instead of ReLU.
        options: `context`, `depth` and `dropout` of the trunk.

    Example:
        >>> ScoreNet((4, 8, 8), 3, width=16, depth=2)(torch.zeros(5, 4, 8, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        outputs: int,
        *,
        width: int = 512,
        smooth: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(latent_shape, width=width, smooth=smooth, grid="pyramid", **options)
        self.head: nn.Module = nn.Linear(width, outputs)
        if self.trunk.spatial:
            unit = nn.SiLU() if smooth else nn.ReLU()
            self.head = nn.Sequential(nn.Linear(2 * width, width), unit, self.head)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        features = self.trunk(z, context)
        if self.trunk.spatial:
            cells = features.flatten(2)
            features = torch.cat([cells.mean(2), cells.amax(2)], dim=1)
        out: Tensor = self.head(features)
        return out.to(z.dtype)  # autocast makes half precision of it


class GatedResidual(nn.Module):
    r"""A gated move of a latent, `(z, context) -> z'`.

    .. math:: z' = (1 - g) \odot z + g \odot d, \quad g = \mathrm{sigmoid}(\tilde g)

    with the destination :math:`d` and the gate :math:`\tilde g` as outputs of the network.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.
        options: `context`, `width`, `depth` and `dropout` of the trunk.

    Example:
        >>> GatedResidual((8,), context=2, width=16)(torch.zeros(5, 8), torch.zeros(5, 2)).shape
        torch.Size([5, 8])
    """

    def __init__(self, latent_shape: Sequence[int], **options: Any) -> None:
        super().__init__()
        self.trunk = Trunk(latent_shape, grid="unet", **options)
        features, outputs = self.trunk.features, 2 * latent_shape[0]
        self.head = layer(self.trunk.axes, features, outputs)
        # the first moves are small: a gate of one half would shrink every latent to the mean
        nn.init.constant_(self.head.get_parameter("bias")[latent_shape[0] :], GATE_BIAS)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        destination, gate = self.head(self.trunk(z, context)).to(z.dtype).chunk(2, dim=1)
        destination = destination * self.trunk.scale + self.trunk.shift
        return torch.lerp(z, destination, gate.sigmoid())


def encode_targets(y: Tensor) -> Tensor:
    """Targets `(B, K)` in [0, 1], NaN = free, as network input `(B, 2K)`: signed value and mask.

    Example:
        >>> encode_targets(torch.tensor([[1.0, 0.0, torch.nan]]))
        tensor([[ 1., -1.,  0.,  1.,  1.,  0.]])
    """
    known = ~torch.isnan(y)
    signed = torch.where(known, 2 * y - 1, torch.zeros_like(y))
    return torch.cat([signed, known.to(y.dtype)], dim=1)

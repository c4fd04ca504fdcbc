"""Layers over latents of any number of axes: vectors, sequences, grids and volumes."""

from __future__ import annotations

__all__ = ["append_cells", "check_shape", "coordinates", "layer", "start_at_zero"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_shape(latent_shape: Sequence[int]) -> int:
    """The number of axes of cells: 0 of vectors `(D,)`, 1 to 3 of `(C, ...)`.

    Raises:
        InputError: If latents have no axis or more than four.

    Example:
        >>> [check_shape(shape) for shape in ((8,), (4, 16), (4, 8, 8), (2, 4, 4, 4))]
        [0, 1, 2, 3]
    """
    if len(latent_shape) not in range(1, 5) or min(latent_shape) < 1:
        raise InputError(
            f"Latents are vectors (D,), sequences (C, T), grids (C, h, w) or volumes (C, d, h, w), "
            f"this one is {tuple(latent_shape)}. Flatten or reshape it in `encode` and `decode`."
        )
    return len(latent_shape) - 1


def layer(axes: int, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1) -> nn.Module:
    """A linear layer, or a convolution over `axes` axes of cells that keeps their number.

    Arguments:
        axes: Number of axes of cells, 0 for vectors.
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Cells along each axis of the kernel; odd.
        stride: Step of the kernel; not of a linear layer.
    """
    if axes == 0:
        return nn.Linear(inputs, outputs)
    return CONVOLUTIONS[axes - 1](inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def coordinates(z: Tensor) -> Tensor:
    """Position of each cell of `z (B, C, ...)` in [-1, 1], a channel for each axis of cells.

    Example:
        >>> coordinates(torch.zeros(1, 4, 2, 3))[0, 1]
        tensor([[-1.,  0.,  1.],
                [-1.,  0.,  1.]])
    """
    lines = [torch.linspace(-1, 1, size, device=z.device) for size in z.shape[2:]]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    return places.expand(len(z), *places.shape)


def append_cells(vector: Tensor, axes: int) -> Tensor:
    """A vector `(B, F)` for every cell, `(B, F, 1, ...)` with `axes` axes of size 1."""
    return vector.reshape(*vector.shape, *[1] * axes)


def start_at_zero(module: nn.Module) -> None:
    """Initialises a linear layer or a convolution with zeros."""
    nn.init.zeros_(module.get_parameter("weight"))
    nn.init.zeros_(module.get_parameter("bias"))

"""The region that may change: cells of a latent that is a grid, as the page paints them."""

from __future__ import annotations

__all__ = ["grid_of", "mask_code", "mask_of", "read_region"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..decoder import Decoder
from ..errors import InputError

Region = tuple[str, ...]
"""A row of "0" and "1" for each row of cells; none of them for everywhere."""


def grid_of(decoder: Decoder) -> tuple[int, int] | None:
    """Rows and columns of cells of the latents of pictures; None where latents are no grids."""
    latent, sample = decoder.latent_shape, decoder.sample_shape
    if len(latent) != 3 or len(sample) != 3 or latent[1] * latent[2] == 1:
        return None
    return latent[1], latent[2]


def read_region(rows: Any, decoder: Decoder) -> Region:
    """A region from what the page sends; () where every cell may change.

    Raises:
        InputError: If it does not fit the latents, or no cell may change.
    """
    grid = grid_of(decoder)
    found = tuple(map(str, rows)) if isinstance(rows, Sequence) else ()
    fits = grid is not None and [len(row) for row in found] == [grid[1]] * grid[0]
    if not fits or not {*"".join(found)} <= {"0", "1"}:
        raise InputError("The page sent a region that cannot be read. Reload the page.")
    cells = set("".join(found))
    if cells == {"0"}:
        raise InputError("No cell may change. Paint some, or press Everywhere.")
    return () if cells == {"1"} else found


def mask_of(region: Region, decoder: Decoder) -> Tensor:
    """The pixels that may change, `(h, w)` booleans."""
    cells = torch.tensor([[cell == "1" for cell in row] for row in region])
    size = decoder.sample_shape[1:]
    down, across = (torch.arange(n) * m // n for n, m in zip(size, cells.shape, strict=True))
    return cells[down][:, across]


def mask_code(region: Region, decoder: Decoder) -> str:
    """Lines of Python that assign `mask`, as `mask_of` does."""
    height, width = decoder.sample_shape[1:]
    rows, columns = len(region), len(region[0])
    cells = "\n".join(region)
    return (
        f'import torch\n\ncells = """\n{cells}\n""".split()  # of the latent: 1 may change\n'
        f'mask = torch.tensor([[cell == "1" for cell in row] for row in cells])\n'
        f"mask = mask[torch.arange({height}) * {rows} // {height}]\n"
        f"mask = mask[:, torch.arange({width}) * {columns} // {width}]"
    )

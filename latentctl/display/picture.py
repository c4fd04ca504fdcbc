"""Samples as one PNG picture."""

from __future__ import annotations

__all__ = ["grid", "png", "save_pictures"]

import io
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import InputError


def grid(
    x: Tensor,
    *,
    columns: int | None = None,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    margin: int = 2,
) -> Tensor:
    """One picture of many, `(H, W, 3)` bytes.

    Arguments:
        x: Images, `(B, 1, h, w)` or `(B, 3, h, w)`.
        columns: Images in a row; as near to a square as it gets if not given.
        value_range: Values of black and white; the lowest and highest of `x` where they are None
            or not finite.
        margin: White pixels between images.

    Raises:
        InputError: If `x` are not images.

    Example:
        >>> grid(torch.zeros(6, 3, 8, 8), columns=3).shape
        torch.Size([22, 32, 3])
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise InputError(
            f"A picture needs images (B, 1, h, w) or (B, 3, h, w), it was given {tuple(x.shape)}."
        )
    columns = columns or max(1, round(len(x) ** 0.5))
    x = x.detach().float().cpu()
    if value_range is None or not all(map(math.isfinite, value_range)):
        value_range = x.min().item(), x.max().item()
    low, high = value_range
    x = ((x - low) / ((high - low) or 1.0)).clamp(0, 1)
    x = x.expand(-1, 3, -1, -1)
    x = torch.cat([x, x.new_ones(-len(x) % columns, *x.shape[1:])])
    x = F.pad(x, (0, margin, 0, margin), value=1.0)
    picture = rearrange(x, "(r c) ch h w -> (r h) (c w) ch", c=columns)
    picture = F.pad(picture, (0, 0, margin, 0, margin, 0), value=1.0)
    return (picture * 255).round().to(torch.uint8)


def png(picture: Tensor) -> bytes:
    """The PNG file of a picture `(H, W, 3)` in bytes.

    Example:
        >>> png(torch.zeros(2, 2, 3, dtype=torch.uint8))[:4]
        b'\\x89PNG'
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture.contiguous().numpy()).save(file, format="PNG")
    return file.getvalue()


def save_pictures(
    path: str | Path, x: Tensor, *, columns: int | None = None, margin: int = 2
) -> Path:
    """Writes pictures `(B, 3, h, w)` in [0, 1] as one PNG file, and makes its folder."""
    image = png(grid(x, columns=columns, margin=margin))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image)
    return path

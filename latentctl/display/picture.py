"""Samples as one PNG picture, with texts in the file."""

from __future__ import annotations

__all__ = ["grid", "pixel_hash", "png", "save_pictures", "with_fields"]

import hashlib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import InputError

COMPRESSED = 2000  # characters of a text from which on it is compressed


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


def pixel_hash(picture: Tensor) -> str:
    """SHA-256 over the size and the bytes of a picture `(H, W, 3)`."""
    raw = picture.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{tuple(picture.shape)}".encode() + raw).hexdigest()


def png(picture: Tensor, fields: Mapping[str, str] | None = None) -> bytes:
    """The PNG file of a picture `(H, W, 3)` in bytes.

    Arguments:
        picture: The picture.
        fields: Texts by name, such as `Software`, for the metadata of the file.

    Example:
        >>> png(torch.zeros(2, 2, 3, dtype=torch.uint8))[:4]
        b'\\x89PNG'
    """
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(picture.contiguous().numpy())
    image.save(file, format="PNG", pnginfo=_texts(fields or {}))
    return file.getvalue()


def with_fields(raw: bytes, fields: Mapping[str, str]) -> bytes:
    """A PNG file with texts added to its metadata.

    Example:
        >>> b"Software" in with_fields(png(torch.zeros(2, 2, 3, dtype=torch.uint8)),
        ...                            {"Software": "latentctl"})
        True
    """
    from PIL import Image

    with Image.open(io.BytesIO(raw)) as image:
        file, texts = io.BytesIO(), {**getattr(image, "text", {}), **fields}
        image.save(file, format="PNG", pnginfo=_texts(texts), dpi=image.info.get("dpi", ()) or None)
    return file.getvalue()


def _texts(fields: Mapping[str, str]) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in fields.items():
        if text.isascii() and len(text) < COMPRESSED:
            info.add_text(name, text)
        else:
            info.add_itxt(name, text, zip=len(text) >= COMPRESSED)
    return info


def save_pictures(
    path: str | Path, x: Tensor, *, columns: int | None = None, margin: int = 2
) -> Path:
    """Writes pictures `(B, 3, h, w)` in [0, 1] as one PNG file, and makes its folder."""
    image = png(grid(x, columns=columns, margin=margin))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image)
    return path

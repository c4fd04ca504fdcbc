"""Samples as pictures for the page: PNG files inside the page, which nothing is written for."""

from __future__ import annotations

__all__ = ["data_uri", "difference", "png_of", "tiles", "uris"]

import base64
from collections.abc import Sequence

import torch
from torch import Tensor

from ..decoder import Decoder
from ..display import grid, png


def png_of(decoder: Decoder, x: Tensor) -> bytes:
    """The PNG file of one sample `(1, *sample_shape)`."""
    return png(grid(decoder.display(x), margin=0))


def data_uri(file: bytes, kind: str = "image/png") -> str:
    """A file as an address that holds it.

    Example:
        >>> data_uri(b"{}", "application/json")
        'data:application/json;base64,e30='
    """
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"


def uris(decoder: Decoder, x: Tensor) -> list[str]:
    """The pictures of samples `(B, *sample_shape)`."""
    return [data_uri(png(grid(picture[None], margin=0))) for picture in decoder.display(x)]


def difference(decoder: Decoder, before: Tensor, after: Tensor) -> str:
    """Where two samples `(1, *sample_shape)` differ: the largest difference is white."""
    shown = (decoder.display(after) - decoder.display(before)).abs().amax(1, keepdim=True)
    return data_uri(png(grid(shown / shown.max().clamp_min(0.05), margin=0)))


def tiles(
    decoder: Decoder, x: Tensor, captions: Sequence[str], marks: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """What the page's grid of pictures shows: `src`, `caption` and `mark` of each."""
    if not len(x):
        return []
    marks = marks if marks is not None else [""] * len(x)
    found = zip(uris(decoder, torch.as_tensor(x)), captions, marks, strict=True)
    return [{"src": src, "caption": caption, "mark": mark} for src, caption, mark in found]

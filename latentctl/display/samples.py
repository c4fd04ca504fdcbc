"""How samples are shown: pictures, curves, rolls of symbols, tables, or what a function draws."""

from __future__ import annotations

__all__ = ["Display", "Show", "thumbnails"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import InputError
from .markup import Markup, html_picture
from .picture import grid, png

Show: TypeAlias = str | tuple[int, ...] | Callable[[Tensor], Tensor] | None
"""`"picture"`, `"curve"`, `"roll"`, `"table"`; the shape `(C, h, w)` of flattened pictures; or a
function from samples `(B, *sample_shape)` to pictures `(B, 1 or 3, h, w)` in [0, 1]. None decides
by the shape."""

HEIGHT, WIDEST, LEAST = 64, 512, 96  # pixels of curves and rolls
SYMBOLS = 256  # most rows of a roll
KINDS = ("picture", "curve", "roll", "table")


@dataclass(frozen=True)
class Display:
    """Draws samples `(B, *sample_shape)` as pictures.

    By default images are shown as they are, `(h, w)` as a grey table, a vector of floats as a
    curve, a vector of whole numbers as a roll (one row for each symbol, time to the right), and
    volumes by their middle slice.

    Arguments:
        show: How; see `Show`.
        value_range: Values of black and white; the extremes of the samples if None.

    Example:
        >>> Display()(torch.zeros(2, 1, 8, 8)).shape, Display()(torch.ones(2, 100)).shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 64, 100]))
    """

    show: Show = None
    value_range: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.show, str) and self.show not in KINDS:
            raise InputError(
                f"show= is one of {', '.join(KINDS)}, a shape (C, h, w), or a function from "
                f"samples to pictures; it was {self.show!r}."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures `(B, 3, h, w)` in [0, 1] of samples `(B, *sample_shape)`.

        Raises:
            InputError: If samples of that shape cannot be shown so.
        """
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() else x
        drawn = self._drawn(x)
        if drawn.ndim != 4 or drawn.shape[1] not in (1, 3) or drawn.shape[0] != len(x):
            raise InputError(
                f"Samples {tuple(x.shape[1:])} cannot be shown. Say how: latentctl.wrap(model, "
                f"show=...) with {', '.join(KINDS)}, a shape (C, h, w) of flattened pictures, or "
                f"a function from samples to pictures (B, 3, h, w) in [0, 1]."
            )
        return drawn.float().clamp(0, 1).expand(-1, 3, -1, -1)

    def _drawn(self, x: Tensor) -> Tensor:
        if isinstance(self.show, tuple):
            if math.prod(self.show) != x[0:1].numel():
                raise InputError(
                    f"Samples {tuple(x.shape[1:])} are no flattened pictures {self.show}."
                )
            return self._scaled(x.reshape(-1, *self.show))
        if callable(self.show):
            return self.show(x)
        kind = self.show or _kind(x)
        if kind == "curve":
            return _curve(x.flatten(1).float())
        if kind == "roll":
            return _roll(x.flatten(1))
        if kind == "table":
            x = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
            return _enlarged(self._scaled(x.float())[:, None])
        return self._scaled(_picture(x))

    def _scaled(self, x: Tensor) -> Tensor:
        low, high = self.value_range or (x.min().item(), x.max().item())
        return (x.float() - low) / ((high - low) or 1.0)


def thumbnails(display: Display, x: Tensor) -> list[Markup]:
    """Samples as HTML images of about `LEAST` pixels; words where they cannot be shown."""
    try:
        pictures = display(x)
    except InputError:
        return [Markup("not shown")] * len(x)
    width = pictures.shape[-1] * max(1, round(LEAST / pictures.shape[-1]))
    return [
        html_picture(png(grid(picture[None], margin=0)), f"sample {number}", width=width)
        for number, picture in enumerate(pictures)
    ]


def _kind(x: Tensor) -> str:
    if x.ndim == 2:
        return "curve" if x.is_floating_point() else "roll"
    return "table" if x.ndim == 3 else "picture"


def _picture(x: Tensor) -> Tensor:
    while x.ndim > 4:  # the middle of a volume or of a film
        x = x[:, :, x.shape[2] // 2]
    if x.ndim == 4 and x.shape[1] == 4:  # on white
        x = x[:, :3] * x[:, 3:] + 1 - x[:, 3:]
    return x[:, None] if x.ndim == 3 else x


def _curve(x: Tensor) -> Tensor:
    """The range of values in each column of pixels, black on white, `(B, 1, HEIGHT, w)`."""
    x = x.repeat_interleave(max(1, math.ceil(LEAST / x.shape[1])), 1)
    width = min(x.shape[1], WIDEST)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    rows = (high - x) / (high - low).clamp_min(1e-12) * (HEIGHT - 1)
    columns = torch.tensor_split(rows, width, dim=1)
    top = torch.stack([part.amin(1) for part in columns], 1)
    bottom = torch.stack([part.amax(1) for part in columns], 1)
    reached = torch.cat([bottom[:, :1], bottom[:, :-1]], 1)  # joined to the column before
    top, bottom = torch.minimum(top, reached).round(), torch.maximum(bottom, top).round()
    y = torch.arange(HEIGHT)[None, :, None]
    return 1 - ((y >= top[:, None]) & (y <= bottom[:, None])).float()[:, None]


def _roll(x: Tensor) -> Tensor:
    """Which symbol each step has, black on white, the largest symbol at the top."""
    if x.is_floating_point():
        raise InputError("A roll is of whole numbers; show these samples as a curve or a table.")
    x = x.long()
    low, high = int(x.min()), int(x.max())
    count = max(high - low + 1, 8)
    if count > SYMBOLS:
        raise InputError(
            f"A roll has up to {SYMBOLS} symbols, these samples have {low} to {high}. Show them as "
            f"a table or by a function."
        )
    symbols = torch.arange(low + count - 1, low - 1, -1)
    return _enlarged(1 - (symbols[:, None] == x[:, None, None]).float())


def _enlarged(x: Tensor) -> Tensor:
    """Cells `(B, 1, h, w)` as squares of several pixels, where there are few."""
    times = max(1, min(8, math.ceil(LEAST / max(x.shape[-2:]))))
    return x.repeat_interleave(times, 2).repeat_interleave(times, 3)

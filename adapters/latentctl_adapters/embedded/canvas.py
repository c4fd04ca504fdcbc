"""A canvas of faces: coordinates on a turned head, and painting with anti-aliased masks.

Every shape is a signed distance `d` to its edge; its coverage of a pixel of width `h` is
`clamp(1/2 - d / h, 0, 1)`, which anti-aliases it at any size. The head is a cylinder: with
`s = X / W` a point seen at `X` has the face coordinate
`U = W (s cos(yaw) - sqrt(1 - s^2) sin(yaw))`, in which both halves of a face mirror each other.
"""

from __future__ import annotations

__all__ = ["WHITE", "Canvas", "bump", "mix", "norm", "palette", "rgb"]

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

SHADOW = torch.tensor([0.7, 1.0, 1.1]).view(3, 1, 1)  # red falls off last in shaded skin
WHITE = torch.ones(3, 1, 1)
EYE_Y = -0.03
ZOOM = 1.08  # crop around the head


def rgb(*values: float) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def mix(low: Tensor | float, high: Tensor | float, amount: Tensor) -> Tensor:
    blend: Tensor = amount * (high - low) + low
    return blend


def bump(x: Tensor, y: Tensor | float = 0.0) -> Tensor:
    """A smooth spot of radius one: 1 in the middle, 0 with zero slope at the rim."""
    return (1 - x * x - y * y).clamp_min(0).square()


def norm(x: Tensor, y: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt()


def palette(hue: Tensor, lightness: Tensor | float, chroma: float) -> Tensor:
    """A colour `(B, 3, 1, 1)` on the circle of hues; 0 is red, 1/3 green, 2/3 blue."""
    phase = 2 * math.pi * (hue - rgb(0, 1 / 3, 2 / 3))
    return (chroma * torch.cos(phase) + lightness).clamp(0, 1)


class Canvas:
    """A batch of pictures, painted back to front.

    Factors and attributes are `(B, 1, 1, 1)` in [0, 1], coordinates and masks `(B, 1, H, W)`,
    colours `(B, 3, 1, 1)`. One unit is half the height of the uncropped picture; x grows to the
    right, y grows downwards.
    """

    def __init__(self, factor: Mapping[str, Tensor], has: Mapping[str, Tensor], size: int) -> None:
        self.factor, self.has = factor, has
        self.male, self.smile = self.has["Male"], self.has["Smiling"]
        self.old, self.bald = 1 - self.has["Young"], self.has["Bald"]
        self.light = self.to("light_side", -1, 1)
        self.pixel = 2 / size / ZOOM
        self.rgb = torch.empty(len(self.male), 3, size, size)
        axis = (torch.arange(size) + 0.5) * self.pixel - 1 / ZOOM
        x = self.x0 = axis - self.to("shift_x", -0.06, 0.06)
        y = self.y0 = axis[:, None] - self.to("shift_y", -0.05, 0.05)
        roll, self.yaw = self.to("roll", -0.14, 0.14), self.to("yaw", -0.30, 0.30)
        self.x, self.y = x * roll.cos() + y * roll.sin(), y * roll.cos() - x * roll.sin()
        self.width = self.to("face_width", 0.46, 0.54) + 0.025 * self.male
        radius = self.width + 0.06
        s = (self.x / radius).clamp(-0.99, 0.99)
        self.u = radius * (s * self.yaw.cos() - (1 - s * s).sqrt() * self.yaw.sin())
        self.eye_x = self.to("eye_spacing", 0.205, 0.255)
        self.v, self.down = self.u.abs() - self.eye_x, self.y - EYE_Y  # from the eyes

    def to(self, name: str, low: float, high: float) -> Tensor:
        """A factor, scaled from [0, 1] to a range."""
        return mix(low, high, self.factor[name])

    def cover(self, distance: Tensor, soft: float = 0.0) -> Tensor:
        """The share of a pixel inside an edge, which is `soft` units or 1.25 pixels wide."""
        return (0.5 - distance / max(soft, 1.25 * self.pixel)).clamp(0, 1)

    def between(self, y: Tensor, lo: Tensor | float, hi: Tensor | float, soft: float = 0) -> Tensor:
        return self.cover(lo - y, soft) * self.cover(y - hi, soft)

    def paint(self, mask: Tensor, colour: Tensor) -> None:
        self.rgb.lerp_(colour.expand_as(self.rgb), mask)

    def shade(self, amount: Tensor, tint: Tensor = SHADOW) -> None:
        """Darken by `amount`; a negative amount lightens."""
        self.rgb *= 1 - amount * tint

    def crop(self, top: float, bottom: float, side: float, *names: str) -> Self:
        """A view of part of the pictures, their coordinates and the masks of these names."""
        part = copy.copy(self)
        edges = [round((edge + 1 / ZOOM) / self.pixel) for edge in (top, bottom, -side, side)]
        window = (..., slice(*edges[:2]), slice(*edges[2:]))
        for name in ("rgb", "x", "y", "u", "v", "down", *names):
            setattr(part, name, getattr(self, name)[window])
        return part

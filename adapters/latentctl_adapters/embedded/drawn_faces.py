r"""Faces drawn by formulas: a data set without a download, whose ground truth is known.

A face is `render(identity, attributes)`: 46 continuous identity factors, uniform in [0, 1], fix the
person and the view of the camera; 15 attributes have CelebA's names. `portrait` paints it.

Attributes are sampled in CelebA's order of dependence: sex, age, then the others. Shares:

| attribute | all | women, young | women, older | men, young | men, older |
|---|---|---|---|---|---|
| Male | .42 | 0 | 0 | 1 | 1 |
| Young | .77 | 1 | 0 | 1 | 0 |
| Bald | .025 | 0 | 0 | .023 | .12 |
| Wearing_Hat (never Bald) | .05 | .028 | .019 | .08 | .09 |
| Gray_Hair (hair colours exclude each other) | .04 | .001 | .065 | .004 | .24 |
| Black_Hair | .26 | .24 | .15 | .385 | .17 |
| Blond_Hair | .14 | .22 | .30 | .02 | .02 |
| Brown_Hair | .27 | .30 | .27 | .26 | .15 |
| No_Beard | .84 | 1 | 1 | .59 | .65 |
| Mustache (with a beard only) | .035 | 0 | 0 | .08 | .08 |
| Smiling | .49 | .53 | .68 | .38 | .44 |
| Eyeglasses | .07 | .025 | .07 | .07 | .22 |
| Bangs (never Bald, never under a hat) | .15 | .18 | .33 | .10 | .03 |
| Wearing_Lipstick | .46 | .80 | .76 | 0 | 0 |
| Pale_Skin (fair skin only) | .045 | .055 | .05 | .03 | .025 |

Hair that is none of the four colours is auburn; under a hat a colour is named 0.4 times as often.
Black and brown are a little more frequent than in CelebA, where two in five have no named colour.
Dark skin correlates with black hair and fair skin with blond hair, within these shares.

References:
    | Deep Learning Face Attributes in the Wild (Liu et al., 2015): names and correlations
    | https://arxiv.org/abs/1411.7766
"""

from __future__ import annotations

__all__ = ["ATTRIBUTES", "FACTORS", "Factors", "ProceduralFaces", "render", "sample_factors"]

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentctl.errors import InputError, ShapeError, UnknownNameError
from latentctl.random import noise

from .portrait import Portrait

FACTORS: tuple[str, ...] = (
    *("face_width", "face_length", "jaw", "chin", "skin_tone", "skin_undertone", "blush"),
    *("eye_size", "eye_spacing", "eye_tilt", "eye_colour", "eye_lightness", "gaze"),
    *("brow_height", "brow_thickness", "brow_arch", "nose_width", "nose_length"),
    *("mouth_width", "mouth_height", "mouth_curve", "lip_fullness", "lip_tint"),
    *("hair_shade", "hair_volume", "hair_length", "hair_part", "hair_wave", "hairline"),
    *("beard_extent", "glasses_shape", "glasses_colour", "hat_shape", "hat_colour"),
    *("clothes_hue", "clothes_lightness", "yaw", "roll", "shift_x", "shift_y"),
    *("light_side", "light_height", "light_warmth"),
    *("background_hue", "background_lightness", "background_gradient"),
)
# before exclusions; of women: young, older; of men: young, older
SHARES = {
    "Bald": (0.0, 0.0, 0.023, 0.123),
    "Black_Hair": (0.24, 0.15, 0.40, 0.18),
    "Blond_Hair": (0.22, 0.30, 0.02, 0.02),
    "Brown_Hair": (0.31, 0.28, 0.27, 0.16),
    "Eyeglasses": (0.025, 0.07, 0.07, 0.22),
    "Male": (0.42,) * 4,
    "No_Beard": (1.0, 1.0, 0.59, 0.65),
    "Smiling": (0.53, 0.68, 0.38, 0.44),
    "Wearing_Hat": (0.028, 0.019, 0.08, 0.10),
    "Young": (0.87, 0.87, 0.64, 0.64),
    "Bangs": (0.185, 0.335, 0.108, 0.035),
    "Gray_Hair": (0.001, 0.065, 0.004, 0.24),
    "Mustache": (0.0, 0.0, 0.20, 0.22),
    "Pale_Skin": (0.055, 0.05, 0.03, 0.025),
    "Wearing_Lipstick": (0.80, 0.76, 0.0, 0.0),
}
ATTRIBUTES: tuple[str, ...] = tuple(SHARES)
CHUNK = 32  # faces drawn together: more would not fit the processor's cache
SPLITS = {"train": 0, "validation": 2**40, "test": 2**41}


@torch.no_grad()
def render(identity: Tensor, attributes: Tensor, size: int = 64) -> Tensor:
    """Draw faces: the same factors give the same picture, whatever else is in the batch.

    Arguments:
        identity: `(B, 46)` in [0, 1], columns as in `FACTORS`, on the CPU.
        attributes: `(B, 15)` in [0, 1], columns as in `ATTRIBUTES`; values in between are drawn in
            between.
        size: Height and width in pixels, 8 or more.

    Returns:
        Pictures `(B, 3, size, size)` in [0, 1].

    Raises:
        ShapeError: The two do not have the columns above or not the same number of rows.
        InputError: A factor is outside [0, 1] or not finite, or the size is too small.

    Example:
        >>> render(torch.rand(2, 46), torch.zeros(2, 15), size=32).shape
        torch.Size([2, 3, 32, 32])
    """
    columns: dict[str, dict[str, Tensor]] = {}
    for what, value, names in (
        ("identity", identity, FACTORS),
        ("attributes", attributes, ATTRIBUTES),
    ):
        expected = (len(identity), len(names))
        if value.shape != expected:
            raise ShapeError(f"{what} must be {expected}, found {tuple(value.shape)}.")
        if not ((value >= 0) & (value <= 1)).all():
            raise InputError(f"{what} must lie in [0, 1]; found a value outside or not finite.")
        columns[what] = dict(zip(names, value.float().T[..., None, None, None], strict=True))
    return Portrait(columns["identity"], columns["attributes"], _checked(size)).picture()


@dataclass(frozen=True)
class Factors:
    """Ground truth of faces: `identity (B, 46)` in [0, 1] and `attributes (B, 15)`, 0 or 1."""

    identity: Tensor
    attributes: Tensor


def sample_factors(start: int, count: int, *, seed: int) -> Factors:
    """The ground truth of faces `start ... start + count - 1`, each a function of its index alone.

    Arguments:
        start: Index of the first face in the endless sequence of this seed.
        count: Number of faces.
        seed: Any integer.

    Returns:
        `identity (count, 46)`, independent and uniform in [0, 1], columns as in `FACTORS`;
        `attributes (count, 15)`, 0 or 1, columns as in `ATTRIBUTES`.

    Raises:
        InputError: A negative start or count.

    Example:
        >>> sample_factors(0, 5, seed=0).attributes.shape
        torch.Size([5, 15])
    """
    if start < 0 or count < 0:
        raise InputError(f"Asked for {count} faces from {start} on; both must be 0 or more.")
    columns = len(FACTORS) + len(ATTRIBUTES)
    draws = noise(start, count, (columns,), seed=seed, purpose="procedural faces", uniform=True)
    identity, chances = draws.split([len(FACTORS), len(ATTRIBUTES)], 1)
    draw = dict(zip(ATTRIBUTES, chances.unbind(1), strict=True))
    tone = identity[:, FACTORS.index("skin_tone")]
    male = draw["Male"] < SHARES["Male"][0]
    young = draw["Young"] < torch.where(male, SHARES["Young"][2], SHARES["Young"][0])
    group = 2 * male + 1 * ~young
    share = {name: torch.tensor(values)[group] for name, values in SHARES.items()}
    is_: dict[str, Tensor] = {name: draw[name] < share[name] for name in ATTRIBUTES}
    is_ |= {"Male": male, "Young": young}
    is_["Wearing_Hat"] &= ~is_["Bald"]
    is_["Bangs"] &= ~is_["Bald"] & ~is_["Wearing_Hat"]
    is_["Mustache"] &= ~is_["No_Beard"]
    is_["Pale_Skin"] = (draw["Pale_Skin"] < 2 * share["Pale_Skin"]) & (tone < 0.5)
    # one draw picks the hair colour; a tilt in skin tone of mean one keeps every colour's share
    tilt = {"Black_Hair": 0.4 + 1.2 * tone, "Blond_Hair": 1.8 - 1.6 * tone}
    below, free = torch.zeros_like(tone), ~is_["Bald"]
    for name in ("Gray_Hair", "Black_Hair", "Blond_Hair", "Brown_Hair"):
        chance = share[name] * tilt.get(name, 1.0) * torch.where(is_["Wearing_Hat"], 0.4, 1.0)
        chance = chance / (1 - share["Bald"])
        is_[name] = free & (draw["Black_Hair"] >= below) & (draw["Black_Hair"] < below + chance)
        below = below + chance
    return Factors(identity, torch.stack([is_[name] for name in ATTRIBUTES], 1).float())


class ProceduralFaces(Dataset[dict[str, Any]]):
    """A map-style data set of drawn faces, with rows like those of CelebA on the hub.

    Arguments:
        n: Number of faces.
        seed: Every seed is another endless sequence of people.
        start: Where in that sequence face 0 lies.
        size: Height and width in pixels.
        attributes: The names to give, in this order; all of `ATTRIBUTES` by default.

    Raises:
        InputError: A negative number of faces or start, or too small a size.
        UnknownNameError: A name that is not drawn.

    Example:
        >>> faces = ProceduralFaces(100, attributes=["Smiling", "Male"])
        >>> row = faces[0]
        >>> row["image"].shape, row["image"].dtype, type(row["Smiling"]).__name__, len(row)
        (torch.Size([3, 64, 64]), torch.uint8, 'bool', 3)
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        start: int = 0,
        size: int = 64,
        attributes: Sequence[str] | None = None,
    ) -> None:
        if n < 0 or start < 0:
            raise InputError(f"Asked for {n} faces from {start} on; both must be 0 or more.")
        self.attributes = ATTRIBUTES if attributes is None else tuple(attributes)
        for name in self.attributes:
            if name not in ATTRIBUTES:
                raise UnknownNameError("attribute of the drawn faces", name, ATTRIBUTES)
        self.n, self.seed, self.start, self.size = n, seed, start, _checked(size)
        self.columns = [ATTRIBUTES.index(name) for name in self.attributes]

    @classmethod
    def split(
        cls,
        name: str,
        n: int,
        seed: int = 0,
        size: int = 64,
        attributes: Sequence[str] | None = None,
    ) -> ProceduralFaces:
        """`n` faces of `train`, `validation` or `test`; no two splits of one seed share a face."""
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS)
        if n > SPLITS["validation"]:
            raise InputError(f"Asked for {n} faces; a split holds {SPLITS['validation']} at most.")
        return cls(n, seed, SPLITS[name], size, attributes)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a whole batch, drawn together; `DataLoader` calls this by itself."""
        places = [i + self.n if i < 0 else i for i in map(operator.index, indices)]
        for place in places:
            if not 0 <= place < self.n:
                raise IndexError(f"Asked for face {place} of a data set of {self.n}.")
        parts = [self.factors(place, 1) for place in places]
        attributes = torch.cat([part.attributes for part in parts])
        pictures = self.draw(Factors(torch.cat([part.identity for part in parts]), attributes))
        labels = attributes[:, self.columns].bool().tolist()
        return [
            {"image": picture, **dict(zip(self.attributes, row, strict=True))}
            for picture, row in zip(pictures, labels, strict=True)
        ]

    def factors(self, start: int, count: int) -> Factors:
        """Ground truth of faces `start ... start + count - 1` of this data set."""
        if start < 0 or count < 0 or start + count > self.n:
            last = start + count
            raise InputError(f"Asked for faces {start} to {last} of a data set of {self.n}.")
        return sample_factors(self.start + start, count, seed=self.seed)

    def draw(self, factors: Factors) -> Tensor:
        pairs = zip(factors.identity.split(CHUNK), factors.attributes.split(CHUNK), strict=True)
        return torch.cat([(255 * render(*pair, self.size)).round().byte() for pair in pairs])

    def images(self, start: int, count: int) -> Tensor:
        """The pictures `(count, 3, size, size)` of a range of faces, as uint8."""
        return self.draw(self.factors(start, count))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All pictures `(n, 3, size, size)` as uint8 and all labels `(n, K)` as 0.0 or 1.0."""
        factors = self.factors(0, self.n)
        return self.draw(factors), factors.attributes[:, self.columns]


def _checked(size: int) -> int:
    if size < 8:
        raise InputError(f"Asked for pictures of {size} pixels; a face needs 8 or more.")
    return size

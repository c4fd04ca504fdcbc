"""Counterfactual pairs of drawn faces: the same person with one attribute changed.

An edit of a drawn face has a right answer, since the renderer can draw it: all identity factors and
all other attributes as before. Two kinds of pairs are left out, by rules (`is_fair`):

- the truth would uncover what the picture hides: the new value takes away a hat, a bald head or the
  absence of a beard that the person has. A hair colour for a bald person needs hair whose shape
  nothing shows, and a mustache is drawn only together with a beard.
- the change cannot be seen: fewer than 0.25 % of the pixels (10 of 64 x 64) change by more than 0.1
  in some channel, as with a dark beard on dark skin.
"""

from __future__ import annotations

__all__ = [
    "Pairs",
    "changed_region",
    "counterfactuals",
    "dataset",
    "is_fair",
    "turned",
    "turned_over",
]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentctl.errors import AdapterError, UnknownNameError
from latentctl.random import generator

from .drawn_faces import ATTRIBUTES, FACTORS, Factors, ProceduralFaces

if TYPE_CHECKING:
    import datasets

UNCOVERING = ("Bald", "Wearing_Hat", "No_Beard")  # not to be taken away beside the request
CHANGED = 4 / 255  # of the largest channel, from which a pixel belongs to the region
SEEN, SEEN_SHARE = 0.1, 0.0025
COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
EXCLUDED: dict[str, tuple[str, ...]] = {  # what a face with the attribute cannot have
    "Bald": (*COLOURS, "Bangs", "Wearing_Hat"),
    "Wearing_Hat": ("Bald", "Bangs"),
    "Bangs": ("Bald", "Wearing_Hat"),
    "Mustache": ("No_Beard",),
    "No_Beard": ("Mustache",),
    **{name: ("Bald", *(other for other in COLOURS if other != name)) for name in COLOURS},
}


@dataclass(frozen=True)
class Pairs:
    """Pictures of people before and after one attribute changes, in the order of the faces."""

    attribute: str
    """The attribute that changes."""
    rows: Tensor
    """Place of each person in the data set, `(B,)`."""
    value: Tensor
    """The new value, `(B,)` booleans."""
    image: Tensor
    """Before, uint8 `(B, 3, size, size)`."""
    truth: Tensor
    """After, uint8 `(B, 3, size, size)`."""
    identity: Tensor
    """The factors, the same in both, `(B, 46)` as in `FACTORS`."""
    before: Tensor
    """Attributes of `image`, `(B, 15)` as in `ATTRIBUTES`."""
    after: Tensor
    """Attributes of `truth`, `(B, 15)`; may differ from `before` in what the value excludes."""
    region: Tensor
    """Where the truth differs from the image, `(B, 1, size, size)` booleans."""

    def __len__(self) -> int:
        return len(self.rows)


def counterfactuals(
    faces: ProceduralFaces,
    attribute: str,
    value: bool | None = None,
    *,
    fair: bool = True,
    images: Tensor | None = None,
) -> Pairs:
    """Each person with one attribute changed, and everything else as it is.

    Arguments:
        faces: The people, such as `ProceduralFaces.split("test", 500)`.
        attribute: One of `ATTRIBUTES`.
        value: The new value, of those who have the other one; by default it is turned over.
        fair: Whether the pairs that `is_fair` refuses are left out.
        images: Pictures of all faces, if they are drawn already, `(n, 3, size, size)`.

    Raises:
        UnknownNameError: If there is no such attribute.

    Example:
        >>> pairs = counterfactuals(ProceduralFaces(8, size=32), "Smiling")
        >>> pairs.truth.shape == pairs.image.shape, bool((pairs.value != pairs.before[:, 7]).all())
        (True, True)
    """
    if attribute not in ATTRIBUTES:
        raise UnknownNameError("attribute of the drawn faces", attribute, ATTRIBUTES)
    column, factors = ATTRIBUTES.index(attribute), faces.factors(0, len(faces))
    new = factors.attributes[:, column] < 0.5
    after = torch.where(
        new[:, None],
        turned(factors.attributes, attribute, True),
        turned(factors.attributes, attribute, False),
    )
    kept = torch.ones_like(new) if value is None else new == value
    if fair:
        kept &= _uncovers_nothing(factors.attributes, after, column)
    rows = kept.nonzero().flatten()
    identity, before, after = factors.identity[rows], factors.attributes[rows], after[rows]
    image = faces.draw(Factors(identity, before)) if images is None else images[rows]
    truth = faces.draw(Factors(identity, after))
    seen = is_fair(image, truth, before, after, column) if fair else torch.ones(len(rows)).bool()
    parts = (rows, new[rows], image, truth, identity, before, after, changed_region(image, truth))
    return Pairs(attribute, *(part[seen] for part in parts))


def dataset(
    faces: ProceduralFaces, attributes: Sequence[str] = ATTRIBUTES, *, fair: bool = True
) -> datasets.Dataset:
    """The pairs of several attributes as a `datasets.Dataset`.

    A row has `image` and `truth` (pictures), `region` (a black and white picture), `attribute`,
    `value`, `person` (the place in `faces`), `identity` (46 factors by name), and `before` and
    `after` (15 attributes by name).

    Arguments:
        faces: The people.
        attributes: The attributes that are turned over, one at a time.
        fair: As in `counterfactuals`.

    Raises:
        AdapterError: If `datasets` is not installed.
        UnknownNameError: If there is no such attribute.
    """
    try:
        import datasets
        from PIL import Image
    except ImportError as error:
        raise AdapterError(
            "Counterfactual pairs as a data set need `datasets`: pip install 'latentctl[recipes]'."
        ) from error
    picture, flags = datasets.Image(), {name: datasets.Value("bool") for name in ATTRIBUTES}
    features = datasets.Features(
        {
            **{"image": picture, "truth": picture, "region": picture},
            "attribute": datasets.Value("string"),
            "value": datasets.Value("bool"),
            "person": datasets.Value("int64"),
            "identity": {name: datasets.Value("float32") for name in FACTORS},
            **{"before": flags, "after": flags},
        }
    )

    def rows() -> Any:
        images = faces.images(0, len(faces))
        for attribute in attributes:
            pairs = counterfactuals(faces, attribute, fair=fair, images=images)
            for i in range(len(pairs)):
                yield {
                    "image": Image.fromarray(pairs.image[i].permute(1, 2, 0).numpy()),
                    "truth": Image.fromarray(pairs.truth[i].permute(1, 2, 0).numpy()),
                    "region": Image.fromarray((255 * pairs.region[i, 0].byte()).numpy()),
                    "attribute": attribute,
                    "value": bool(pairs.value[i]),
                    "person": int(pairs.rows[i]),
                    "identity": _by_name(FACTORS, pairs.identity[i].tolist()),
                    "before": _by_name(ATTRIBUTES, pairs.before[i].bool().tolist()),
                    "after": _by_name(ATTRIBUTES, pairs.after[i].bool().tolist()),
                }

    return datasets.Dataset.from_list(list(rows()), features=features)


def turned(attributes: Tensor, attribute: int | str, value: bool) -> Tensor:
    """The attributes of the same people with one attribute given.

    What the new value excludes is taken away with it: a bald head has neither hair colour, bangs
    nor hat, and a new hair colour replaces the old one. All else stays.

    Arguments:
        attributes: `(..., 15)`, 0 or 1, columns as in `ATTRIBUTES`.
        attribute: A name or a column.
        value: Whether they are to have it.

    Returns:
        A new tensor of the same shape.

    Example:
        >>> from latentctl_adapters.embedded.drawn_faces import sample_factors
        >>> dark = sample_factors(0, 100, seed=0).attributes
        >>> bald = turned(dark, "Bald", True)
        >>> bool(bald[:, ATTRIBUTES.index("Black_Hair")].any())
        False
    """
    name = ATTRIBUTES[attribute] if isinstance(attribute, int) else attribute
    if name not in ATTRIBUTES:
        raise UnknownNameError("attribute of the drawn faces", name, ATTRIBUTES)
    new = attributes.clone()
    new[..., ATTRIBUTES.index(name)] = float(value)
    if value:
        new[..., [ATTRIBUTES.index(other) for other in EXCLUDED.get(name, ())]] = 0.0
    return new


def turned_over(attributes: Tensor, *, seed: int, start: int = 0) -> Tensor:
    """Attributes `(B, 15)` with one to three of each row turned over, for rare combinations.

    Bald women and young men with gray hair are hardly among faces with the natural shares. An
    attribute may be turned over twice.

    Arguments:
        attributes: 0 or 1, columns as in `ATTRIBUTES`.
        seed: Decides which ones.
        start: Number of this batch among others of the same seed.
    """
    draws = generator(seed, start, purpose="turned over")
    rows = []
    for row in attributes:
        for _ in range(int(torch.randint(1, 4, (), generator=draws))):
            k = int(torch.randint(len(row), (), generator=draws))
            row = turned(row, k, bool(row[k] < 0.5))
        rows.append(row)
    return torch.stack(rows) if rows else attributes.clone()


def changed_region(image: Tensor, truth: Tensor) -> Tensor:
    """Pixels in which two pictures of bytes `(B, 3, h, w)` differ, `(B, 1, h, w)` booleans."""
    return _difference(image, truth) > CHANGED


def is_fair(image: Tensor, truth: Tensor, before: Tensor, after: Tensor, column: int) -> Tensor:
    """Which pairs have a change that can be seen and that uncovers nothing, `(B,)` booleans.

    Arguments:
        image: Pictures of bytes before the change, `(B, 3, h, w)`.
        truth: Pictures after it.
        before: Attributes before the change, `(B, 15)`.
        after: Attributes after it.
        column: The attribute that was requested.
    """
    seen = (_difference(image, truth) > SEEN).float().flatten(1).mean(1) >= SEEN_SHARE
    return seen & _uncovers_nothing(before, after, column)


def _difference(image: Tensor, truth: Tensor) -> Tensor:
    return (image.float() - truth.float()).abs().amax(1, keepdim=True) / 255


def _uncovers_nothing(before: Tensor, after: Tensor, column: int) -> Tensor:
    others = [i for name in UNCOVERING if (i := ATTRIBUTES.index(name)) != column]
    return ~(before > after)[:, others].any(1)


def _by_name(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))

"""Labelled faces for the recipes: from the hub, from a local folder, or drawn here.

The source is the first of: `--train_data_dir` (a folder that `datasets.load_dataset` reads: parquet
files, or images with a `metadata.csv`), `--dataset_name` (a data set on the hub), and the embedded
procedural faces, which need neither network nor files. The log names the source.
"""

from __future__ import annotations

__all__ = [
    "PAPER_ATTRIBUTES",
    "DataFlags",
    "Faces",
    "as_bytes",
    "as_face",
    "as_samples",
    "direction",
    "load_faces",
    "read_images",
    "reconstruct",
]

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.embedded.counterfactuals import turned_over
from latentctl_adapters.embedded.drawn_faces import Factors, ProceduralFaces
from torch import Tensor

from latentctl import Decoder
from latentctl.decoder.pictures import read_picture
from latentctl.errors import InputError, UnknownNameError

from .images import Images, SampledFlags, image_column, load_splits
from .reading import label_matrix, read_pictures, undecoded

logger = logging.getLogger(__name__)

PAPER_ATTRIBUTES = (
    *("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses"),
    *("Male", "No_Beard", "Smiling", "Wearing_Hat", "Young"),
)
DRAWN = {"train": 4000, "validation": 200, "test": 500}


@dataclass
class DataFlags(SampledFlags):
    """The faces; drawn here if no source is named."""

    center_crop: int = 148  # Side of the square cut from the middle of images that are not square.
    attributes: tuple[str, ...] = PAPER_ATTRIBUTES  # The label columns.
    resolution: int = 64  # Height and width of the images for the decoder.

    @property
    def drawn(self) -> bool:
        """Whether the faces are drawn, since the flags name no source."""
        return self.train_data_dir is None and self.dataset_name is None


class Faces(Images):
    """Images with labels, in memory: bytes `(N, 3, h, w)`, and `(N, K)` with 0, 1 or NaN."""

    def __init__(self, images: Tensor, labels: Tensor, names: tuple[str, ...]) -> None:
        super().__init__(images, labels)
        self.names = names

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def mirrored(self) -> Faces:
        """The faces and their mirror images, which have the same attributes."""
        images = torch.cat([self.images, self.images.flip(-1)])
        return Faces(images, self.labels.repeat(2, 1), self.names)


def load_faces(flags: DataFlags, seed: int = 0) -> dict[str, Faces]:
    """The splits `train`, `validation` and `test`.

    Raises:
        InputError: If a file or a split is missing.
        UnknownNameError: If an attribute is not a column; the message has the nearest names.
    """
    if flags.drawn:
        logger.warning(
            "Faces: the embedded procedural set, drawn here, half of the training faces with some "
            "attributes turned over (pass --train_data_dir or --dataset_name for "
            "photographs)."
        )
        return {name: _drawn(name, count, flags, seed) for name, count in DRAWN.items()}
    names = {"test": ("test",), "validation": ("validation", "valid")}
    splits = load_splits(flags, names, seed)
    return {name: _decoded(split, flags) for name, split in splits.items()}


def as_face(image: Any, resolution: int, center_crop: int) -> Tensor:
    """A picture (see `latentctl.decoder.pictures`) as bytes `(3, resolution, resolution)`.

    Of an image that is not square, the square of side `center_crop` in its middle is used, or a
    smaller one that fits.
    """
    import numpy as np
    from PIL import Image

    image = read_picture(image, "RGB")
    width, height = image.size
    if width != height:
        side = min(center_crop, width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_samples(images: Tensor, decoder: Decoder) -> Tensor:
    """Bytes `(N, 3, h, w)` as samples in the decoder's range, on its device."""
    low, high = decoder.picture_range
    return low + (high - low) * images.to(decoder.device).float() / 255


@torch.no_grad()
def reconstruct(images: Tensor, decoder: Decoder, batch_size: int = 128) -> Tensor:
    """Reconstructions of bytes `(N, 3, h, w)`, in the decoder's range, on the CPU."""
    parts = (as_samples(part, decoder) for part in images.split(batch_size))
    return torch.cat([decoder.decode(decoder.encode(part).mean).cpu() for part in parts])


def as_bytes(samples: Tensor, decoder: Decoder) -> Tensor:
    """The inverse of `as_samples`."""
    low, high = decoder.picture_range
    return (255 * (samples - low) / (high - low)).round().clamp(0, 255).byte()


def read_images(
    folder: Path, count: int, resolution: int, center_crop: int, *, skip_bad: bool = False
) -> tuple[Tensor, list[str]]:
    """The first `count` images of a folder as bytes `(N, 3, h, w)`, and their file names.

    Raises:
        InputError: If there is no image, or one cannot be read and `skip_bad` is not set.
    """
    from PIL import Image

    if not folder.is_dir():
        raise InputError(f"--images {folder} is not a folder.")
    suffixes = Image.registered_extensions()
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]
    found = read_pictures(
        paths, lambda path: as_face(path, resolution, center_crop), skip_bad=skip_bad, limit=count
    )
    images = {paths[place].name: image for place, image in found}
    if not images:
        raise InputError(f"{folder} holds no image that can be read ({len(paths)} image files).")
    logger.warning("Faces: %d of the %d image files in %s.", len(images), len(paths), folder)
    return torch.stack(list(images.values())), list(images)


def _drawn(split: str, count: int, flags: DataFlags, seed: int) -> Faces:
    limit = flags.max_train_samples if split == "train" else flags.max_test_samples
    count = count if limit is None else min(count, limit)
    faces = ProceduralFaces.split(split, count, seed, flags.resolution, flags.attributes)
    factors = faces.factors(0, count)
    if split == "train":  # a critic of the natural shares would hardly know a bald woman
        natural, others = factors.attributes.split([count - count // 2, count // 2])
        attributes = torch.cat([natural, turned_over(others, seed=seed)])
        factors = Factors(factors.identity, attributes)
    return Faces(faces.draw(factors), factors.attributes[:, faces.columns], tuple(flags.attributes))


def _decoded(split: Any, flags: DataFlags) -> Faces:
    """A split of `datasets` as tensors."""
    column = image_column(split, flags.image_column)
    for name in flags.attributes:
        if name not in split.column_names:
            raise UnknownNameError("label column", name, split.column_names)
    labels = label_matrix(split, flags.attributes)
    found = read_pictures(
        undecoded(split, column),
        lambda picture: as_face(picture, flags.resolution, flags.center_crop),
        skip_bad=flags.on_bad_sample == "skip",
    )
    images = torch.empty(len(split), 3, flags.resolution, flags.resolution, dtype=torch.uint8)
    rows = []
    for row, image in found:
        images[len(rows)] = image
        rows.append(row)
    if not rows and len(split):
        raise InputError(f"The column {column!r} has no picture that can be read.")
    return Faces(images[: len(rows)], labels[rows], tuple(flags.attributes))


def direction(attribute: str, value: bool) -> str:
    """A change of an attribute in words.

    Example:
        >>> direction("Smiling", False)
        'Smiling → no'
    """
    return f"{attribute} → {'yes' if value else 'no'}"

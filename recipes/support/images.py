"""Small images for the recipes, such as MNIST and Fashion-MNIST: from the hub or a local folder.

The source is `--train_data_dir` (a folder of parquet files or images that `datasets.load_dataset`
reads, or of idx files as MNIST is distributed, gzipped or not) or else `--dataset_name` (a data set
on the hub). The columns of images and labels are found by their type. The log names the source.
"""

from __future__ import annotations

__all__ = ["ImageFlags", "Images", "SampledFlags", "SourceFlags", "load_images", "load_splits"]

import dataclasses
import gzip
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from latentctl.decoder.pictures import read_picture
from latentctl.errors import InputError, UnknownNameError
from latentctl.random import permutation
from latentctl.storage import digest

from .reading import read_pictures, undecoded

logger = logging.getLogger(__name__)

HUB = "ylecun/mnist"
LABELS = ("label", "labels", "class", "fine_label", "digit")
IDX = {"train": "train-{}-idx{}-ubyte*", "test": "t10k-{}-idx{}-ubyte*"}


@dataclass
class SourceFlags:
    """The source of the images."""

    train_data_dir: str | None = None  # A local folder of parquet files or images, by split.
    dataset_name: str | None = None  # A data set on the hub, such as flwrlabs/celeba.
    dataset_config_name: str | None = None  # Its configuration, where it has several.
    cache_dir: str | None = None  # Folder of downloads.
    image_column: str | None = None  # The column of images; found by its type if not given.
    on_bad_sample: Literal["raise", "skip"] = "raise"  # For pictures that cannot be read.

    def source(self) -> dict[str, Any]:
        """The fields of `SourceFlags` alone, for other flags of the same source."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(SourceFlags)}


@dataclass
class SampledFlags(SourceFlags):
    """The source of the images, and how many are used."""

    max_train_samples: int | None = None  # Largest number of training images, drawn at random.
    max_test_samples: int | None = None  # Largest number of images of the other splits.


@dataclass
class ImageFlags(SampledFlags):
    """The images."""

    label_column: str | None = None  # The column of classes; by its type or name if not given.
    resolution: int | None = None  # Height and width to resize to; their own if not given.


class Images(Dataset[Any]):
    """Images in memory, bytes `(N, C, H, W)`, with classes `(N,)`, -1 where there is none."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Tensor) -> Any:
        return self.images[index]

    def identity(self) -> dict[str, str]:
        """A hash of the images, which a resumed run must have in common."""
        return {"images": digest({"images": [self.images]})}

    def pixels(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Images as floats in [0, 1]."""
        return self.images[index].float() / 255


def load_splits(
    flags: SampledFlags, names: Mapping[str, Sequence[str]], seed: int
) -> dict[str, Any]:
    """Splits of `datasets`: `train` and others, with the rows that the flags select.

    Arguments:
        flags: The source.
        names: By other split, the names that it may have; where there is none of them, a tenth of
            the training images is held out.
        seed: Seed of what is held out and of the rows.

    Raises:
        InputError: If there is no such folder, or no split `train`.
    """
    import datasets

    source = flags.train_data_dir or flags.dataset_name
    where = "the local folder" if flags.train_data_dir else "the hub's data set"
    logger.warning("Images: %s %s.", where, source)
    if flags.train_data_dir and not Path(flags.train_data_dir).is_dir():
        raise InputError(f"--train_data_dir {flags.train_data_dir} is not a folder.")
    loaded = datasets.load_dataset(
        str(source), name=flags.dataset_config_name, cache_dir=flags.cache_dir
    )
    if "train" not in loaded:
        raise InputError(f"{source} has the splits {', '.join(loaded)}, but none named 'train'.")
    splits = {"train": loaded["train"]}
    for split, candidates in names.items():
        found = next((loaded[name] for name in candidates if name in loaded), None)
        if found is None:
            logger.warning("No %s split: a tenth of the training images is held out.", split)
            parts = splits["train"].train_test_split(0.1, seed=seed)
            splits["train"], found = parts["train"], parts["test"]
        splits[split] = found
    return {
        split: part.select(chosen_rows(split, len(part), flags, seed))
        for split, part in splits.items()
    }


def chosen_rows(split: str, count: int, flags: SampledFlags, seed: int) -> Tensor:
    """Numbers of the rows that are used: of the training images, some drawn at random."""
    if split != "train":
        return torch.arange(count)[: flags.max_test_samples]
    if flags.max_train_samples is None or flags.max_train_samples >= count:
        return torch.arange(count)
    order = permutation(count, seed=seed, epoch=0, purpose="max_train_samples")
    return order[: flags.max_train_samples]


def image_column(split: Any, name: str | None) -> str:
    """The column of images of a `datasets` split.

    Raises:
        UnknownNameError: If there is no column `name`.
        InputError: If no column holds images.
    """
    import datasets

    columns = split.features
    if name is not None and name not in columns:
        raise UnknownNameError("image column", name, columns)
    images = (key for key in columns if isinstance(columns[key], datasets.Image))
    found = name or next(images, None)
    if found is None:
        raise InputError(f"No column holds images, of {', '.join(columns)}: name --image_column.")
    return found


def load_images(flags: ImageFlags, seed: int = 0) -> dict[str, Images]:
    """The splits `train` and `test`; a tenth is held out where there is no test split.

    Raises:
        InputError: If no source is named, or it holds no images of one square size.
        UnknownNameError: If a column that was named does not exist.
    """
    if flags.train_data_dir is None and flags.dataset_name is None:
        raise InputError(
            f"No images are named. Pass --dataset_name {HUB} (from the hub) or --train_data_dir "
            f"FOLDER (parquet files, images, or idx files such as train-images-idx3-ubyte.gz)."
        )
    folder = Path(flags.train_data_dir) if flags.train_data_dir else None
    if folder is not None and any(folder.glob("*-idx3-ubyte*")):
        logger.warning("Images: the idx files in %s.", folder)
        splits = {name: _idx(folder, name, flags, seed) for name in IDX}
    else:
        parts = load_splits(flags, {"test": ("test", "validation")}, seed)
        splits = {name: _decoded(part, flags) for name, part in parts.items()}
    train, test = splits["train"], splits["test"]
    height, width = train.images.shape[2:]
    if height != width:
        raise InputError(f"Images should be square, these are {height} x {width}: --resolution.")
    sizes = " x ".join(map(str, train.images.shape[1:]))
    logger.warning("%d training and %d test images, %s.", len(train), len(test), sizes)
    return splits


def _decoded(split: Any, flags: ImageFlags) -> Images:
    """A split of `datasets` as tensors; grey where the first image is."""
    import datasets
    import numpy as np

    column, columns = image_column(split, flags.image_column), split.features
    label = flags.label_column
    if label is not None and label not in columns:
        raise UnknownNameError("label column", label, columns)
    named = [name for name in columns if isinstance(columns[name], datasets.ClassLabel)]
    label = label or next(iter([*named, *(name for name in LABELS if name in columns)]), None)
    mode = ""

    def read(value: Any) -> Tensor:
        nonlocal mode
        image = read_picture(value, mode or None)
        mode = mode or image.mode
        if flags.resolution and image.size != (flags.resolution, flags.resolution):
            image = image.resize((flags.resolution, flags.resolution))
        array = torch.from_numpy(np.array(image))
        return array[None] if array.ndim == 2 else array.permute(2, 0, 1)

    skip = flags.on_bad_sample == "skip"
    pixels = dict(read_pictures(undecoded(split, column), read, skip_bad=skip))
    if not pixels:
        raise InputError(f"The column {column!r} has no picture that can be read.")
    first = next(iter(pixels.values())).shape
    for row, image in pixels.items():
        if image.shape != first:
            raise InputError(
                f"Image {row} has the shape {tuple(image.shape)}, the first has {tuple(first)}. "
                f"Pass --resolution to resize all of them."
            )
    classes = [] if label is None else [-1 if value is None else value for value in split[label]]
    labels = torch.tensor(classes) if classes else torch.full((len(split),), -1)
    return Images(torch.stack(list(pixels.values())), labels[list(pixels)])


def _idx(folder: Path, split: str, flags: ImageFlags, seed: int) -> Images:
    """A split of a folder of idx files."""
    images = _idx_file(folder, IDX[split].format("images", 3))[:, None]
    rows = chosen_rows(split, len(images), flags, seed)
    labels = _idx_file(folder, IDX[split].format("labels", 1)).long()
    images, labels, side = images[rows], labels[rows], flags.resolution
    if side is not None and images.shape[2:] != (side, side):
        x = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        images = x.round().to(torch.uint8)
    return Images(images, labels)


def _idx_file(folder: Path, pattern: str) -> Tensor:
    files = sorted(folder.glob(pattern))
    if not files:
        raise InputError(f"{folder} holds idx files, but no {pattern}. Add it to the folder.")
    data = files[0].read_bytes()
    try:
        data = gzip.decompress(data) if files[0].suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{files[0]} cannot be decompressed: {error}. Get it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise InputError(f"{files[0]} is not an idx file of bytes.")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    if len(data) - start != torch.Size(shape).numel():
        raise InputError(
            f"{files[0]} is truncated: {len(data) - start} bytes for a shape of {shape}."
        )
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)

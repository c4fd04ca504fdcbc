"""Small images for the recipes, such as MNIST and Fashion-MNIST: from the hub or a local folder.

In use is `--train_data_dir` (a folder of parquet files or images that `datasets.load_dataset`
reads, or of idx files as MNIST comes in, packed or not) or else `--dataset_name` (a data set on
the hub). The columns of images and labels are found by their type. The log says what is in use.
"""

from __future__ import annotations

__all__ = ["ImageFlags", "Images", "load_images"]

import gzip
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from latentctl.errors import InputError, UnknownNameError
from latentctl.random import permutation

logger = logging.getLogger(__name__)

HUB = "ylecun/mnist"
LABELS = ("label", "labels", "class", "fine_label", "digit")
IDX = {"train": "train-{}-idx{}-ubyte*", "test": "t10k-{}-idx{}-ubyte*"}


@dataclass
class ImageFlags:
    """Where the images come from, and which of them are used."""

    train_data_dir: str | None = None
    """A local folder of parquet files, images or idx files; splits train and test."""
    dataset_name: str | None = None
    """A data set on the hub, such as ylecun/mnist or zalando-datasets/fashion_mnist."""
    dataset_config_name: str | None = None
    """Its configuration, where it has several."""
    cache_dir: str | None = None
    """Where downloads go."""
    image_column: str | None = None
    """The column of images; found by its type if not given."""
    label_column: str | None = None
    """The column of classes; found by its type or name if not given. None is needed."""
    resolution: int | None = None
    """Height and width to resize to; images stay as they are if not given."""
    max_train_samples: int | None = None
    """Use only so many training images, drawn at random."""
    max_test_samples: int | None = None
    """Use only the first so many test images."""


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, bytes `(N, C, H, W)`, with classes `(N,)`, -1 where there is none."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        return self.images[index]

    def pixels(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Images as floats in [0, 1]."""
        return self.images[index].float() / 255


def load_images(flags: ImageFlags, seed: int = 0) -> dict[str, Images]:
    """The splits `train` and `test`; a tenth is held out where there is no test split.

    Raises:
        InputError: If no source is named, or it holds no images of one square size.
        UnknownNameError: If a column that was named does not exist.
    """
    if flags.train_data_dir is None and flags.dataset_name is None:
        raise InputError(
            f"Which images? Pass --dataset_name {HUB} (from the hub) or --train_data_dir FOLDER "
            f"(parquet files, images, or idx files such as train-images-idx3-ubyte.gz)."
        )
    if flags.train_data_dir is not None and not Path(flags.train_data_dir).is_dir():
        raise InputError(f"--train_data_dir {flags.train_data_dir} is not a folder.")
    folder = None if flags.train_data_dir is None else Path(flags.train_data_dir)
    where = f"the hub's data set {flags.dataset_name}" if folder is None else f"the folder {folder}"
    logger.warning("Images: %s.", where)
    if folder is not None and any(folder.glob("*-idx3-ubyte*")):
        splits = {name: _idx(folder, name, flags, seed) for name in IDX}
    else:
        splits = _from_datasets(flags, seed)
    train, test = splits["train"], splits["test"]
    height, width = train.images.shape[2:]
    if height != width:
        raise InputError(f"Images should be square, these are {height} x {width}: --resolution.")
    sizes = " x ".join(map(str, train.images.shape[1:]))
    logger.warning("%d training and %d test images, %s.", len(train), len(test), sizes)
    return splits


def _from_datasets(flags: ImageFlags, seed: int) -> dict[str, Images]:
    import datasets

    source = flags.train_data_dir or flags.dataset_name
    loaded = datasets.load_dataset(
        str(source), name=flags.dataset_config_name, cache_dir=flags.cache_dir
    )
    train, test = loaded.get("train"), loaded.get("test", loaded.get("validation"))
    if train is None:
        raise InputError(f"{source} has the splits {', '.join(loaded)}, but none named 'train'.")
    if test is None:
        logger.warning("There is no test split: a tenth of the training images is held out.")
        parts = train.train_test_split(0.1, seed=seed)
        train, test = parts["train"], parts["test"]
    parts = {"train": train, "test": test}
    return {
        name: _decoded(part.select(_rows(name, len(part), flags, seed)), flags)
        for name, part in parts.items()
    }


def _rows(split: str, count: int, flags: ImageFlags, seed: int) -> Tensor:
    """Which rows are used: of the training images, some drawn at random."""
    if split == "test":
        return torch.arange(count)[: flags.max_test_samples]
    if flags.max_train_samples is None or flags.max_train_samples >= count:
        return torch.arange(count)
    order = permutation(count, seed=seed, epoch=0, purpose="max_train_samples")
    return order[: flags.max_train_samples]


def _decoded(split: Any, flags: ImageFlags) -> Images:
    """A split of `datasets` as tensors; grey where the first image is."""
    import datasets
    import numpy as np

    columns = split.features
    images = [name for name in columns if isinstance(columns[name], datasets.Image)]
    classes = [name for name in columns if isinstance(columns[name], datasets.ClassLabel)]
    classes += [name for name in LABELS if name in columns]
    for name in (flags.image_column, flags.label_column):
        if name is not None and name not in columns:
            raise UnknownNameError("column", name, columns)
    column = flags.image_column or next(iter(images), None)
    if column is None:
        raise InputError(f"No column holds images, of {', '.join(columns)}: name --image_column.")
    pixels: list[Tensor] = []
    mode = ""
    for image in split[column]:
        mode = mode or ("L" if image.mode in ("1", "L", "I", "I;16") else "RGB")
        image = image.convert(mode)
        if flags.resolution and image.size != (flags.resolution, flags.resolution):
            image = image.resize((flags.resolution, flags.resolution))
        array = torch.from_numpy(np.array(image))
        pixels.append(array[None] if array.ndim == 2 else array.permute(2, 0, 1))
        if pixels[-1].shape != pixels[0].shape:
            raise InputError(
                f"Image {len(pixels) - 1} has the shape {tuple(pixels[-1].shape)}, the first has "
                f"{tuple(pixels[0].shape)}. Pass --resolution to resize all of them."
            )
    if not pixels:
        raise InputError(f"The column {column!r} is empty.")
    label = flags.label_column or next(iter(classes), None)
    labels = torch.full((len(pixels),), -1) if label is None else torch.tensor(list(split[label]))
    return Images(torch.stack(pixels), labels)


def _idx(folder: Path, split: str, flags: ImageFlags, seed: int) -> Images:
    """A split of a folder of idx files."""
    images = _idx_file(folder, IDX[split].format("images", 3))[:, None]
    rows = _rows(split, len(images), flags, seed)
    labels = _idx_file(folder, IDX[split].format("labels", 1)).long()
    images, labels, side = images[rows], labels[rows], flags.resolution
    if side is not None and images.shape[2:] != (side, side):
        x = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        images = x.round().to(torch.uint8)
    return Images(images, labels)


def _idx_file(folder: Path, pattern: str) -> Tensor:
    files = sorted(folder.glob(pattern))
    if not files:
        raise InputError(f"{folder} holds no file {pattern}, which belongs to the idx files there.")
    data = files[0].read_bytes()
    try:
        data = gzip.decompress(data) if files[0].suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{files[0]} cannot be unpacked: {error}. Get it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise InputError(f"{files[0]} is not an idx file of bytes.")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    if len(data) - start != torch.Size(shape).numel():
        raise InputError(f"{files[0]} is cut: {len(data) - start} bytes for a shape of {shape}.")
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)

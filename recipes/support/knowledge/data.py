"""MNIST and Omniglot as `knowledge` takes them: of one size, bright on black, with labels."""

from __future__ import annotations

__all__ = ["LATE", "NAMES", "DataFlags", "load", "together"]

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latentctl.errors import InputError

from ..images import ImageFlags, Images, load_images

logger = logging.getLogger(__name__)

SETS = ("mnist", "omniglot")
DIGITS = tuple(f"digit_{digit}" for digit in range(10))
NAMES = ("mnist", *DIGITS, "omniglot")  # in the order in which they are added
LATE = ("digit_9", "omniglot")  # added to a base that is already in use


@dataclass
class DataFlags:
    """The two data sets."""

    mnist: str | None = None  # A local folder with MNIST, or its name on the hub: ylecun/mnist.
    omniglot: str | None = None  # The same for Omniglot.
    resolution: int = 28  # Height and width that images are resized to.
    padded: int = 32  # Height and width after padding with black.
    max_train_samples: int | None = 20_000  # Largest number of training images of each.
    max_test_samples: int | None = None  # Largest number of test images of each, the first ones.


def load(flags: DataFlags, seed: int) -> dict[str, dict[str, Images]]:
    """Padded images of both data sets, strokes bright on black, by split."""
    splits: dict[str, dict[str, Images]] = {"train": {}, "test": {}}
    for name in SETS:
        source = getattr(flags, name)
        if source is None:
            raise InputError(
                f"No {name} is named. Pass --{name} with a local folder of parquet files, images "
                f"or idx files, or with the name of a data set on the hub."
            )
        local = Path(source).is_dir()
        images = load_images(
            ImageFlags(
                train_data_dir=source if local else None,
                dataset_name=None if local else source,
                resolution=flags.resolution,
                max_train_samples=flags.max_train_samples,
                max_test_samples=flags.max_test_samples,
            ),
            seed,
        )
        inverted = images["train"].images.float().mean() > 127
        if inverted:
            logger.warning("%s is dark on bright: it is inverted.", name)
        margin = flags.padded - flags.resolution
        if margin < 0:
            raise InputError(f"--padded {flags.padded} is below --resolution {flags.resolution}.")
        border = (margin // 2, margin - margin // 2) * 2
        for split, part in images.items():
            grey = part.images.float().mean(1, keepdim=True).round().to(torch.uint8)
            grey = F.pad(255 - grey if inverted else grey, border)
            splits[split][name] = Images(grey, part.labels)
    digits = splits["train"]["mnist"].labels.unique().tolist()
    if digits != list(range(10)):
        raise InputError(f"MNIST has the labels 0 to 9, these are {digits}: check --mnist.")
    return splits


def together(split: dict[str, Images]) -> tuple[Tensor, Tensor]:
    """Images of both data sets `(N, 1, S, S)` in bytes, and the labels `NAMES`, `(N, 12)`."""
    mnist, omniglot = split["mnist"], split["omniglot"]
    labels = torch.zeros(len(mnist) + len(omniglot), len(NAMES))
    labels[: len(mnist), 0] = 1
    labels[: len(mnist), 1:-1] = F.one_hot(mnist.labels, 10).float()
    labels[len(mnist) :, -1] = 1
    return torch.cat([mnist.images, omniglot.images]), labels

"""Reads the pictures and labels of a data set or a folder, and names those that cannot be used."""

from __future__ import annotations

__all__ = ["label_matrix", "read_pictures", "undecoded"]

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latentctl.decoder.pictures import file_of
from latentctl.errors import InputError

logger = logging.getLogger(__name__)


def undecoded(split: Any, column: str) -> Any:
    """The column of pictures as bytes and paths, so that a broken file is one bad sample."""
    import datasets

    if isinstance(split.features[column], datasets.Image):
        split = split.cast_column(column, datasets.Image(decode=False))
    return split[column]


def read_pictures(
    pictures: Iterable[Any],
    read: Callable[[Any], Tensor],
    *,
    skip_bad: bool,
    limit: float = math.inf,
) -> Iterator[tuple[int, Tensor]]:
    """The pictures that can be read, each with its place.

    Arguments:
        pictures: Paths, mappings of `bytes` and `path`, or PIL images.
        read: From one of them to a tensor.
        skip_bad: Whether one that cannot be read is left out and logged, instead of an error.
        limit: The most that are read.

    Raises:
        InputError: If one cannot be read; the message has its place and its file.
    """
    count = 0
    for place, picture in enumerate(pictures):
        if count == limit:
            return
        try:
            image = read(picture)
        except (InputError, OSError) as error:
            named = f"{file_of(picture) or 'no file name'}, number {place}"
            if not skip_bad:
                raise InputError(
                    f"A picture ({named}) cannot be used: {error} Repair or remove it, or pass "
                    f"--on_bad_sample skip to leave it out."
                ) from error
            logger.warning("Skipped a picture (%s): %s", named, error)
            continue
        count += 1
        yield place, image


def label_matrix(split: Any, names: Sequence[str]) -> Tensor:
    """Labels `(N, K)` in [0, 1], NaN where unknown; of data that say -1 and 1 alone, 0 and 1.

    Raises:
        InputError: If a label is no such number, or -1 stands beside 0, where it may mean either
            absent or unknown.
    """
    columns: list[Tensor] = []
    for name in names:
        try:
            values = [math.nan if value is None else float(value) for value in split[name]]
        except (TypeError, ValueError) as error:
            raise InputError(f"The label column {name!r} holds no numbers: {error}.") from error
        columns.append(torch.tensor(values))
    if not columns:
        return torch.empty(len(split), 0)
    labels = torch.stack(columns, 1)
    known = labels[~labels.isnan()]
    if bool((known == -1).any()) and bool((known.abs() == 1).all()):  # some copies of CelebA
        return (labels + 1) / 2
    outside = (labels < 0) | (labels > 1)
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        raise InputError(
            f"The label {names[column]!r} of row {row} is {labels[row, column]:g}, where other "
            f"labels are 0 or fractions. Labels are in [0, 1], or empty if unknown: map -1 to 0 if "
            f"it means absent, and to an empty value if it means unknown."
        )
    return labels

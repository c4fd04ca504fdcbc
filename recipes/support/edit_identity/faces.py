"""The faces that `edit_identity.py` edits, and labelled ones to calibrate an evaluator on."""

from __future__ import annotations

__all__ = ["PART", "FaceFlags", "read_faces"]

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from latentctl import Decoder
from latentctl.errors import InputError, UnknownNameError

from ..faces import DataFlags, Faces, SourceFlags, as_samples, load_faces, read_images

logger = logging.getLogger(__name__)

CALIBRATION = 500  # labelled faces
PART = 64  # faces decoded at once


@dataclass
class FaceFlags(SourceFlags):
    """Where the faces come from."""

    images: str | None = None
    """A folder of image files; comes before a data set, which then only calibrates the evaluator."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """What to do with a file in it that cannot be read."""


def read_faces(
    flags: FaceFlags, decoder: Decoder, count: int, labels: Sequence[str], seed: int
) -> tuple[Tensor, list[str], Faces | None]:
    """Faces `(N, 3, h, w)` as the decoder takes them, what each is called, and labelled ones.

    Arguments:
        flags: Where they come from.
        decoder: What takes them.
        count: How many.
        labels: Attributes of the labelled faces, which are of the validation split; there are
            none if this is empty, or no data set of the same kind of faces has such labels.
        seed: Of drawn faces.

    Raises:
        InputError: If the decoder takes no faces, or there are none.
    """
    shape = decoder.sample_shape
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise InputError(f"Faces are square and in colour; {decoder.name} has samples {shape}.")
    if count < 1:
        raise InputError(f"--num_faces is 1 or more, it was given as {count}.")
    source = {f.name: getattr(flags, f.name) for f in dataclasses.fields(SourceFlags)}
    source |= {"resolution": shape[1], "max_train_samples": 0}
    own = flags.images is not None
    if own and flags.train_data_dir is None and flags.dataset_name is None:
        labels = ()  # drawn faces are no measure of what is seen in photographs
    splits = _labelled(source, labels, max(count, CALIBRATION), seed)
    labelled = None if splits is None else splits["validation"]
    if flags.images is not None:
        skip = flags.on_bad_sample == "skip"
        folder, crop = Path(flags.images), flags.center_crop
        images, files = read_images(folder, count, shape[1], crop, skip_bad=skip)
    else:
        if splits is None:
            splits = load_faces(DataFlags(**source, attributes=(), max_test_samples=count), seed)
        images = splits["test"].images[:count]
        files = [f"test_{row:05d}" for row in range(len(images))]
    return as_samples(images, decoder), files, labelled


def _labelled(
    source: dict[str, Any], labels: Sequence[str], limit: int, seed: int
) -> dict[str, Faces] | None:
    """The splits with labels, or None where there are none."""
    if not labels:
        return None
    try:
        flags = DataFlags(**source, attributes=tuple(labels), max_test_samples=limit)
        return load_faces(flags, seed)
    except UnknownNameError as error:
        if error.name not in labels:
            raise
        logger.warning("The evaluator is not calibrated, for there are no labels: %s", error)
        return None

"""The faces of `edit_identity.py`: to edit, to calibrate on, and as examples of an attribute."""

from __future__ import annotations

__all__ = ["PART", "FaceFlags", "learn", "read_faces"]

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latentctl import Conditional, Decoder, Latents
from latentctl.critics import Critic, ExampleCritic
from latentctl.critics.network import NetworkCritic
from latentctl.errors import InputError, UnknownNameError

from ..faces import DataFlags, Faces, as_samples, load_faces, read_images
from ..images import SourceFlags

logger = logging.getLogger(__name__)

CALIBRATION = 500  # labelled faces
PART = 64  # faces decoded at once
PAIRS, KINDS = ("before", "after"), ("without", "with")
MOST_EXAMPLES = 1000  # images of each kind
ENCODINGS = 2000  # unlabelled encodings for the critic of examples


@dataclass
class FaceFlags(SourceFlags):
    """The faces."""

    images: str | None = None  # A folder of image files; a data set then calibrates only.
    center_crop: int = 148  # Side of the square cut from the middle of images that are not square.

    @property
    def only_images(self) -> bool:
        """Whether no data set of the same kind of faces is named."""
        named = self.train_data_dir is not None or self.dataset_name is not None
        return self.images is not None and not named

    def load(self, decoder: Decoder, labels: Sequence[str], seed: int, **limits: int) -> Any:
        """The splits of the data set, at the decoder's resolution."""
        size = decoder.sample_shape[1]
        source = {**self.source(), "center_crop": self.center_crop, "resolution": size}
        return load_faces(DataFlags(**source, **limits, attributes=tuple(labels)), seed)

    def read(self, folder: Path, count: int, decoder: Decoder) -> tuple[Tensor, list[str]]:
        """Samples of the first image files in a folder, and their names."""
        size, skip = decoder.sample_shape[1], self.on_bad_sample == "skip"
        images, files = read_images(folder, count, size, self.center_crop, skip_bad=skip)
        return as_samples(images, decoder), files


def read_faces(
    flags: FaceFlags, decoder: Decoder, count: int, labels: Sequence[str], seed: int
) -> tuple[Tensor, list[str], Faces | None]:
    """Samples `(N, 3, h, w)` of faces, their names, and labelled faces of the validation split.

    There are no labelled faces if `labels` is empty, or if no data set of the same kind of faces
    has such labels.

    Raises:
        InputError: If the decoder takes no faces, or there are none.
    """
    shape = decoder.sample_shape
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise InputError(f"Faces are square and in colour; {decoder.name} has samples {shape}.")
    if count < 1:
        raise InputError(f"--num_faces must be 1 or more, it is {count}.")
    splits: dict[str, Faces] | None = None
    if labels and not flags.only_images:  # drawn faces do not calibrate for photographs
        try:
            limit = max(count, CALIBRATION)
            splits = flags.load(decoder, labels, seed, max_train_samples=0, max_test_samples=limit)
        except UnknownNameError as error:
            if error.name not in labels:
                raise
            logger.warning("The evaluator is not calibrated, since labels are missing: %s", error)
    labelled = None if splits is None else splits["validation"]
    if flags.images is not None:
        return *flags.read(Path(flags.images), count, decoder), labelled
    if splits is None:
        splits = flags.load(decoder, (), seed, max_train_samples=0, max_test_samples=count)
    images = splits["test"].images[:count]
    files = [f"test_{row:05d}" for row in range(len(images))]
    return as_samples(images, decoder), files, labelled


def learn(folder: Path, pack: Conditional, flags: FaceFlags, seed: int) -> Critic:
    """The critic of a new attribute, fitted to a folder of examples and named after it.

    The folder has images in `with/` and `without/`, or pairs of equal names in `before/` and
    `after/`. The features are those of the pack's critic; other faces, without labels, are from the
    source of the flags or from the prior.

    Raises:
        InputError: If the folder holds no such images, or pairs do not match.
    """
    pairs = all((folder / part).is_dir() for part in PAIRS)
    if not pairs and not all((folder / part).is_dir() for part in KINDS):
        raise InputError(
            f"--from_examples {folder} needs images in with/ and without/, or pairs of equal names "
            f"in before/ and after/."
        )
    decoder = pack.decoder
    found = [flags.read(folder / p, MOST_EXAMPLES, decoder) for p in (PAIRS if pairs else KINDS)]
    (low, names), (high, other_names) = (
        (decoder.encode(x, batch_size=PART).mean, files) for x, files in found
    )
    if pairs and names != other_names:
        alone = sorted(set(names) ^ set(other_names))
        raise InputError(
            f"Each image in {folder}/before needs one of the same name in after/; without a "
            f"partner: {', '.join(alone[:8])}."
        )
    if flags.only_images:  # drawn faces are not like photographs; the prior's samples are
        others = decoder.prior.sample(ENCODINGS, seed=seed)
    else:
        faces = flags.load(decoder, (), seed, max_train_samples=ENCODINGS, max_test_samples=1)
        samples = as_samples(faces["train"].images, decoder)
        others = decoder.encode(samples, batch_size=PART).mean
    title = folder.resolve().name
    fit = ExampleCritic.from_pairs if pairs else ExampleCritic.fit
    first, second = (low, high) if pairs else (high, low)
    known = pack.critic if isinstance(pack.critic, NetworkCritic) else None
    critic = fit(title, first, second, latents=Latents(others), known=known)
    return critic.to(decoder.device)[title]

"""An attribute that nobody has labelled, from a folder with a few examples.

The folder has images in `with/` and `without/`, or pairs of equal names in `before/` and `after/`;
the attribute is called as the folder is.
"""

from __future__ import annotations

__all__ = ["learn"]

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from latentctl import Conditional, Decoder, Latents
from latentctl.critics import Critic, ExampleCritic
from latentctl.critics.network import NetworkCritic
from latentctl.errors import InputError

from ..faces import DataFlags, SourceFlags, as_samples, load_faces, read_images
from .faces import PART, FaceFlags

PAIRS, KINDS = ("before", "after"), ("without", "with")
MOST = 1000  # images of each kind
OTHERS = 2000  # encodings that tell how features vary


def learn(folder: Path, pack: Conditional, flags: FaceFlags, seed: int) -> Critic:
    """The critic of what distinguishes two kinds of images.

    Arguments:
        folder: With `with/` and `without/`, or `before/` and `after/`.
        pack: Knows other attributes, whose features the new one is told in.
        flags: Where other faces come from.
        seed: Of drawn faces, or of samples of the prior.

    Raises:
        InputError: If the folder holds no such images, or pairs do not match.
    """
    pairs = all((folder / part).is_dir() for part in PAIRS)
    if not pairs and not all((folder / part).is_dir() for part in KINDS):
        raise InputError(
            f"--from_examples {folder} needs images in with/ and without/, or pairs of equal names "
            f"in before/ and after/."
        )
    decoder, skip = pack.decoder, flags.on_bad_sample == "skip"
    encoded, names = [], []
    for part in PAIRS if pairs else KINDS:
        images, files = read_images(
            folder / part, MOST, decoder.sample_shape[1], flags.center_crop, skip_bad=skip
        )
        encoded.append(encode(images, decoder))
        names.append(files)
    if pairs and names[0] != names[1]:
        alone = sorted(set(names[0]) ^ set(names[1]))
        raise InputError(
            f"Each image in {folder}/before needs one of the same name in after/; without a "
            f"partner: {', '.join(alone[:8])}."
        )
    known = pack.attributes if isinstance(pack.attributes, NetworkCritic) else None
    others = Latents(encode_others(flags, decoder, seed))
    low, high = encoded
    title = folder.resolve().name
    if pairs:
        critic = ExampleCritic.from_pairs(title, low, high, latents=others, known=known)
    else:
        critic = ExampleCritic.fit(title, high, low, latents=others, known=known)
    return critic.to(decoder.device)[title]


def encode_others(flags: FaceFlags, decoder: Decoder, seed: int) -> Tensor:
    """Encodings of other faces; the prior's samples where no data set is of their kind."""
    if flags.images is not None and flags.train_data_dir is None and flags.dataset_name is None:
        return decoder.prior.sample(OTHERS, seed=seed)
    source = {f.name: getattr(flags, f.name) for f in dataclasses.fields(SourceFlags)}
    limits = {"max_train_samples": OTHERS, "max_test_samples": 1}
    data = DataFlags(**source, **limits, attributes=(), resolution=decoder.sample_shape[1])
    return encode(load_faces(data, seed)["train"].images, decoder)


@torch.no_grad()
def encode(images: Tensor, decoder: Decoder) -> Tensor:
    """Posterior means of bytes `(N, 3, h, w)`."""
    parts = (as_samples(part, decoder) for part in images.split(PART))
    return torch.cat([decoder.encode(part).mean for part in parts])

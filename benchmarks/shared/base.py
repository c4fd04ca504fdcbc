"""What every benchmark reads, and a frozen decoder on many images, in batches.

Data is read from the folder in the environment variable `LATENTCTL_DATA` (`celeba64/`, `mnist/`,
...), weights from the folder `weights` beside it. Neither is part of this project: CelebA is for
non-commercial research only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latentctl import Decoder, Latents
from latentctl.errors import FingerprintError, InputError
from latentctl.random import generator

Model = TypeVar("Model", bound=nn.Module)
BATCH = 250
SHARES = (0.01, 0.1, 1.0)


def data_folder() -> Path:
    """The folder named by `LATENTCTL_DATA`."""
    value = os.environ.get("LATENTCTL_DATA")
    if not value or not Path(value).is_dir():
        raise InputError(
            f"LATENTCTL_DATA should name the folder that holds celeba64/, found {value!r}. "
            "Set it to your copy of the data and run again."
        )
    return Path(value)


def weights_file(name: str) -> Path:
    """A file or folder of pretrained weights."""
    return data_folder().parent / "weights" / name


def load_weights(model: Model, name: str) -> Model:
    """The model with the weights in `NAME/model.safetensors`, float32, frozen, in eval mode."""
    state = load_file(str(weights_file(name) / "model.safetensors"))
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)
    return model.eval().requires_grad_(False)


def pixels(images: Tensor) -> Tensor:
    """Images in [0, 1], of bytes or of floats in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def encode(
    decoder: Decoder, images: Tensor, labels: Tensor | None = None, names: Sequence[str] = ()
) -> Latents:
    """Posteriors of images, bytes or floats in [0, 1], with their labels `(N, K)`."""
    parts = [decoder.encode(pixels(part)) for part in images.split(BATCH)]
    std = [part.std for part in parts if part.std is not None]
    mean = torch.cat([part.mean for part in parts])
    return Latents(mean, torch.cat(std) if std else None, labels, names)


@torch.no_grad()
def decode(decoder: Decoder, z: Tensor) -> Tensor:
    """Images in [0, 1] of latents."""
    return decoder.decode(z, batch_size=BATCH).clamp(0, 1)


def reconstruct(decoder: Decoder, images: Tensor) -> Tensor:
    """Images decoded from the posterior means of images, in [0, 1]."""
    return decode(decoder, encode(decoder, images).mean)


@torch.no_grad()
def nats(prior: Any, z: Tensor) -> float:
    """Negative log-density in nats per dimension, the mean over latents; lower is better."""
    return -prior.log_prob(z).mean().item() / z[0].numel()


@contextmanager
def unchanged(decoder: Decoder) -> Iterator[None]:
    """Raises a `FingerprintError` at the end if the frozen weights have changed."""
    before = decoder.fingerprint()
    yield
    if decoder.fingerprint() != before:
        raise FingerprintError(f"The frozen {decoder.name} has changed.")


def with_fewer_labels(train: Latents, seed: int) -> Iterator[tuple[float, str, Latents]]:
    """Encodings with 1 %, 10 % and 100 % of their labels: all of them, and the labelled ones."""
    for share in SHARES:
        kept = torch.rand(len(train), generator=generator(seed, purpose="labels")) < share
        labels = train.labels.clone()
        labels[~kept] = torch.nan
        yield share, "semi-supervised", train.with_labels(labels, train.names)
        if share < 1:
            yield share, "supervised only", train[kept]

"""Labelled samples on which `teach` trains networks: read, reconstructed, or drawn and scored."""

from __future__ import annotations

__all__ = ["as_bytes", "draw_labelled", "read_labelled", "reconstruct"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..critics import PixelCritic
from ..critics.prior_labels import drawn
from ..decoder import Decoder
from ..decoder.dataset import SampleReader, Source
from ..errors import InputError
from ..latents import Latents
from ..progress import track
from ..random import permutation

BATCH = 128


def read_labelled(
    decoder: Decoder,
    data: Any,
    names: tuple[str, ...],
    image_column: str,
    transform: Callable[[Any], Any] | None,
    most: int,
    seed: int,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Samples `(N, *sample_shape)` and labels `(N, K)` in a random order."""
    source = Source(data, image_column)
    if source.length is None:
        raise InputError("teach reads a map-style data set, with __len__; found a stream.")
    reader = SampleReader(decoder, source, names, image_column, transform, seed)
    order = permutation(source.length, seed=seed, epoch=0, purpose="teach")[:most].tolist()
    rows = [reader(index) for index in track(order, "Read", "image", progress=progress)]
    if not rows:
        raise InputError("The data set is empty.")
    return torch.stack([row.x for row in rows]), torch.stack([row.labels for row in rows])


@torch.no_grad()
def reconstruct(
    decoder: Decoder, x: Tensor, labels: Tensor, names: tuple[str, ...], progress: bool
) -> tuple[Tensor, Latents]:
    """Reconstructions of samples, and their labelled encodings, on the CPU."""
    means: list[Tensor] = []
    stds: list[Tensor] = []
    out: list[Tensor] = []
    for part in track(x.split(BATCH), "Reconstruct", "batch", progress=progress):
        posterior = decoder.encode(part.to(decoder.device))
        means.append(posterior.mean.cpu())
        if posterior.std is not None:
            stds.append(posterior.std.cpu())
        out.append(decoder.decode(posterior.mean).cpu())
    std = torch.cat(stds) if stds else None
    return torch.cat(out), Latents(torch.cat(means), std, labels, names)


def draw_labelled(scorer: PixelCritic, n: int, seed: int, progress: bool) -> tuple[Tensor, Latents]:
    """Samples of the decoder's prior, and their latents with labels by a scorer, on the CPU."""
    options: dict[str, Any] = {"prior": None, "batch_size": BATCH}
    batches = drawn(scorer, n, seed=seed, progress=progress, **options)
    z, x, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return x, Latents(z, None, labels, scorer.names)


def as_bytes(x: Tensor, decoder: Decoder) -> Tensor:
    """Samples of the decoder as bytes."""
    low, high = decoder.picture_range
    return (255 * (x - low) / (high - low)).round().clamp(0, 255).byte()

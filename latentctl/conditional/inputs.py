"""What callers pass to a `Conditional`, as tensors and critics."""

from __future__ import annotations

__all__ = ["as_text", "read_count", "read_inputs", "read_mask", "read_where"]

import operator
from typing import Any

import torch
from torch import Tensor

from ..critics import Critic
from ..critics.expression import parse
from ..decoder import Decoder, read_samples
from ..decoder.pictures import is_picture, read_picture
from ..decoder.signatures import warn_of_signatures
from ..errors import FingerprintError, InputError, ShapeError, check_kind
from ..latents import Latents


def read_inputs(x: Any, decoder: Decoder) -> Latents | Tensor:
    """Samples `(B, *sample_shape)`, or latents that were made by this decoder.

    Raises:
        InputError: If they cannot be read; as in `latentctl.decoder.read_samples`.
        ShapeError: If the shape is another.
        FingerprintError: If latents were made by another decoder.
    """
    if not isinstance(x, Latents):
        warn_of_signatures(x)
        return read_samples(x, decoder)
    if x.latent_shape != decoder.latent_shape:
        raise ShapeError(
            f"{decoder.name} has latents {decoder.latent_shape}, these are {x.latent_shape}. "
            f"Encode with this decoder: latentctl.encode_dataset."
        )
    if x.fingerprint and x.fingerprint != decoder.fingerprint():
        raise FingerprintError(
            f"These latents were encoded by another decoder ({x.fingerprint[:12]}...) than "
            f"{decoder.name}. Encode with this one: latentctl.encode_dataset."
        )
    return x


def read_where(where: Any, critic: Critic) -> Critic | None:
    """A critic, or the text of a logical expression over the attributes of `critic`."""
    if isinstance(where, str):
        return parse(where, critic)
    if where is not None:
        check_kind(
            where, Critic, "where=", 'Write an expression of names, such as "Smiling | ~Male".'
        )
    return where  # type: ignore[no-any-return]


def as_text(where: Any) -> str | None:
    """The expression, if `where` was given as text."""
    return where if isinstance(where, str) else None


def read_mask(mask: Any) -> Tensor:
    """A mask as a tensor: a picture is 1 where it is white, an array or lists are kept."""
    if is_picture(mask):
        try:
            image = read_picture(mask, "L")
        except InputError as error:
            raise InputError(f"The mask cannot be used: {error}") from error
        grey = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return grey.view(image.height, image.width) > 127
    try:
        return torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"A mask is a tensor, an array or a picture of 0 and 1; this is a "
            f"{type(mask).__name__}."
        ) from error


def read_count(count: Any) -> int:
    """A number of samples, 0 or more."""
    try:
        number = operator.index(count)
    except TypeError:
        number = -1
    if number < 0 or isinstance(count, Tensor):
        raise InputError(f"A number of samples is a whole number >= 0, it was given as {count!r}.")
    return number

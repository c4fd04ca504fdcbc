"""Samples of a decoder from what users have: pictures, paths, arrays, tensors, and lists of these.

Bytes, booleans and 16-bit values are scaled to the decoder's range, and channels may come first or
last. Nothing is resized, padded or clipped: what does not fit is refused.
"""

from __future__ import annotations

__all__ = ["fit_images", "picture_mode", "read_samples", "sample_of"]

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from .pictures import WHITE, file_of, is_image, is_picture, read_picture, unit_values

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Layout(Protocol):
    """The attributes of a `Decoder` that say how its samples are laid out."""

    name: str
    sample_shape: tuple[int, ...]
    value_range: tuple[float, float] | None

    @property
    def picture_range(self) -> tuple[float, float]: ...
    def check_sample(self, x: Tensor) -> None: ...


def picture_mode(decoder: Layout) -> str:
    """The mode of pictures that have the channels of a decoder's samples."""
    shape = decoder.sample_shape
    return MODES.get(shape[0], "RGB") if len(shape) == 3 else "L"


def fit_images(decoder: Layout) -> Any:
    """Crops and resizes images to what the decoder takes; leaves everything else as it is."""

    def transform(value: Any) -> Any:
        if not hasattr(value, "getbands") or len(decoder.sample_shape) != 3:
            return value
        from PIL import Image, ImageOps

        height, width = decoder.sample_shape[1:]
        return ImageOps.fit(value, (width, height), Image.Resampling.BICUBIC)

    return transform


def sample_of(value: Any, decoder: Layout) -> Tensor:
    """One sample `(*sample_shape)` of a decoder, from what a user has.

    Arguments:
        value: A picture (see `read_picture`), an array or tensor with channels first or last, or a
            list of numbers. Bytes, booleans and 16-bit values are scaled to the decoder's range;
            floats must be in it.
        decoder: The decoder.

    Raises:
        ShapeError: If it has another shape.
        InputError: If it cannot be read, is not finite, or leaves the range.
    """
    shape = decoder.sample_shape
    if is_picture(value):
        value = read_picture(value, picture_mode(decoder))
    x = _in_range(_as_tensor(value), decoder)
    if x.ndim == 3 and x.shape != shape and (x.shape[2], *x.shape[:2]) == shape:
        x = x.permute(2, 0, 1)
    if (1, *x.shape) == shape:
        x = x[None]
    if x.shape != shape:
        raise ShapeError(
            f"it has shape {tuple(x.shape)}, and {decoder.name} takes {shape}. Crop or resize it "
            f"first, for a data set with transform=."
        )
    decoder.check_sample(x[None])
    return x


def read_samples(values: Any, decoder: Layout) -> Tensor:
    """Samples `(B, *sample_shape)` of a decoder, from what a user has.

    Arguments:
        values: One sample as `sample_of` takes it, a batch `(B, ...)` as array or tensor, or a
            sequence of samples: a list, or a column of `datasets`.
        decoder: The decoder.

    Raises:
        InputError: If one of them cannot be used; the message has its place and its file.

    Example:
        >>> from PIL import Image
        >>> from latentctl import Decoder
        >>> decoder = Decoder(torch.nn.Identity(), lambda m, z: z, latent_shape=(3, 2, 2),
        ...                   sample_shape=(3, 2, 2), value_range=(-1, 1))
        >>> read_samples([Image.new("RGB", (2, 2)), Image.new("L", (2, 2))], decoder).shape
        torch.Size([2, 3, 2, 2])
    """
    if (batch := _batch(values, decoder.sample_shape)) is not None:
        if batch.shape[1:] != decoder.sample_shape:
            decoder.check_sample(batch)  # raises
        return batch if batch.is_floating_point() else _in_range(batch, decoder)
    if _is_one(values, decoder.sample_shape):
        return _sample(values, decoder, None)[None]
    if isinstance(values, Mapping) or not (
        hasattr(values, "__len__") and hasattr(values, "__getitem__")
    ):
        raise InputError(
            f"{decoder.name} takes samples {decoder.sample_shape}: a tensor, an array, a PIL "
            f"image, a path, or a list of these. This is a {type(values).__name__}."
        )
    samples = [_sample(values, decoder, index) for index in range(len(values))]
    return torch.stack(samples) if samples else torch.empty(0, *decoder.sample_shape)


def _batch(given: Any, shape: tuple[int, ...]) -> Tensor | None:
    """A batch, channels first or last, as a tensor, whose shape may be wrong; None for others."""
    values: Tensor = given
    if not isinstance(given, Tensor):
        if is_picture(given) or not hasattr(given, "__array_interface__"):
            return None
        try:
            values = torch.as_tensor(given)
        except (TypeError, ValueError):  # an array of objects, such as paths
            return None
    channels_last = values.ndim == 4 and (values.shape[3], *values.shape[1:3]) == shape
    if channels_last and values.shape[1:] != shape:
        return values.permute(0, 3, 1, 2)
    return values if values.ndim == len(shape) + 1 else None


def _is_one(values: Any, shape: tuple[int, ...]) -> bool:
    """Whether `values` is one sample, and not several."""
    if is_picture(values):
        return True
    found = getattr(values, "shape", None)
    if found is not None:
        greys = shape[0] == 1 and found[0:1] != (1,) and tuple(found[1:]) == shape[1:]
        return not greys and len(found) in (0, len(shape), len(shape) - 1)
    return isinstance(values, Sequence) and len(values) > 0 and isinstance(values[0], Number)


def _sample(values: Any, decoder: Layout, index: int | None) -> Tensor:
    """Sample `index` of a sequence, or `values` itself; errors name the place and the file."""
    place, value = "The input", values
    try:
        if index is not None:
            place = f"Input {index}"
            value = values[index]
        if file := file_of(value):
            place = f"{place} ({file})"
        return sample_of(value, decoder)
    except ShapeError as error:
        raise ShapeError(f"{place} cannot be used: {error}") from error
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{place} cannot be used: {reason}") from error


def _as_tensor(value: Any) -> Tensor:
    if is_image(value):
        import numpy as np

        x = torch.from_numpy(np.array(value))
        return x.permute(2, 0, 1) if x.ndim == 3 else x
    if isinstance(value, Mapping):
        raise InputError(
            f"it is a {type(value).__name__} of {', '.join(map(str, value))}. Give one column, "
            f'such as dataset["image"].'
        )
    if value is None:
        raise InputError("it is None, a NoneType.")
    return torch.as_tensor(value)


def _in_range(x: Tensor, decoder: Layout) -> Tensor:
    """Floats as they are, and whole numbers with a known white in the decoder's range."""
    if x.is_floating_point():
        return x.float()
    picture = decoder.value_range is not None or len(decoder.sample_shape) == 3
    if not picture or x.dtype not in WHITE:
        return x
    low, high = decoder.picture_range
    return unit_values(x) * (high - low) + low

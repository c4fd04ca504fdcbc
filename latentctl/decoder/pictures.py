"""Pictures, and whatever else a user has, as samples of a decoder.

A picture is a path, a mapping of `bytes` and `path` as in `datasets`, or a PIL image. It is read
whole, turned upright by its EXIF orientation, and has 8 bits a channel: 16-bit greys are divided by
257, floats are in [0, 1], and transparent pixels are shown on white. Files that are truncated, or
whose checksums do not match, are refused each time. Nothing is resized, padded or clipped.
"""

from __future__ import annotations

__all__ = ["file_of", "is_picture", "picture_mode", "read_picture", "read_samples", "sample_of"]

import io
import os
from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from .decoder import Decoder

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
WHITE = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
DARKEST = 4096  # a 16-bit picture whose greatest value is less was written with fewer bits


def is_picture(value: Any) -> bool:
    """Whether `value` is a path, a mapping of `bytes` and `path`, or a PIL image."""
    if isinstance(value, Mapping):
        return set(value) == {"bytes", "path"}
    return isinstance(value, str | os.PathLike) or _is_image(value)


def picture_mode(decoder: Decoder) -> str:
    """The mode of pictures that have the channels of a decoder's samples."""
    shape = decoder.sample_shape
    return MODES.get(shape[0], "RGB") if len(shape) == 3 else "L"


def read_picture(value: Any, mode: str | None = None) -> Image:
    """A picture as a PIL image: whole, upright, with 8 bits a channel.

    Arguments:
        value: A path, a mapping of `bytes` and `path`, or a PIL image, which is not changed.
        mode: "L", "RGB" or "RGBA"; "L" for grey pictures and "RGB" for others if not given.

    Raises:
        InputError: If it cannot be read, or its white is not defined; the message has the reason
            and not the file.

    Example:
        >>> from PIL import Image
        >>> read_picture(Image.new("I;16", (2, 2), 65535)).getpixel((0, 0))
        255
    """
    from PIL import ImageOps

    try:
        image = _loaded(value) if _is_image(value) else _opened(_bytes(value))
        upright = ImageOps.exif_transpose(image)
        grey = upright.mode in ("1", "L", "LA", "I", "F") or upright.mode.startswith("I;16")
        return _flat(_eight_bits(upright, image.format), mode or ("L" if grey else "RGB"))
    except InputError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds
        reason = f"{type(error).__name__}: {error}".strip(": ")
        raise InputError(f"it cannot be read as a picture ({reason}).") from error


def sample_of(value: Any, decoder: Decoder) -> Tensor:
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


def read_samples(values: Any, decoder: Decoder) -> Tensor:
    """Samples `(B, *sample_shape)` of a decoder, from what a user has.

    Arguments:
        values: One sample as `sample_of` takes it, a batch `(B, ...)` of arrays or tensors, or a
            sequence of samples: a list, or a column of `datasets`.
        decoder: The decoder.

    Raises:
        InputError: If one of them cannot be used; the message has its place and its file.

    Example:
        >>> from PIL import Image
        >>> decoder = Decoder(torch.nn.Identity(), lambda m, z: z, latent_shape=(3, 2, 2),
        ...                   sample_shape=(3, 2, 2), value_range=(-1, 1))
        >>> read_samples([Image.new("RGB", (2, 2)), Image.new("L", (2, 2))], decoder).shape
        torch.Size([2, 3, 2, 2])
    """
    floats = isinstance(values, Tensor) and values.is_floating_point()
    if floats and values.shape[1:] == decoder.sample_shape:
        return values  # type: ignore[no-any-return]
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


def _is_one(values: Any, shape: tuple[int, ...]) -> bool:
    """Whether `values` is one sample, and not several."""
    if is_picture(values):
        return True
    found = getattr(values, "shape", None)
    if found is not None:
        last = (found[-1], *found[:-1]) if len(found) == 3 else None
        return tuple(found) in (shape, shape[1:]) if last is None else shape in (found, last)
    return isinstance(values, Sequence) and len(values) > 0 and isinstance(values[0], Number)


def _sample(values: Any, decoder: Decoder, index: int | None) -> Tensor:
    """Sample `index` of a sequence, or `values` itself; errors name the place and the file."""
    place, value = "The input", values
    try:
        if index is not None:
            place = f"Input {index}"
            value = values[index]
        if file := file_of(value):
            place = f"{place} ({file})"
        return sample_of(value, decoder)
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{place} cannot be used: {reason}") from error


def file_of(value: Any) -> str:
    """The file of a picture, "" if it has none."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    path = value.get("path") if isinstance(value, Mapping) else getattr(value, "filename", None)
    return str(path or "")


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _bytes(value: Any) -> bytes:
    raw, path = (value["bytes"], value["path"]) if isinstance(value, Mapping) else (None, value)
    if raw is not None:
        return bytes(raw)
    if not Path(path).is_file():
        raise InputError("there is no such file.")
    return Path(path).read_bytes()


def _opened(raw: bytes) -> Image:
    from PIL import Image

    image = Image.open(io.BytesIO(raw))
    _check_sums(image, raw)
    image.load()
    return image


def _loaded(image: Any) -> Image:
    """The picture that the user opened, which stays unread if it is refused.

    Pillow itself refuses a corrupted picture once, and gives what it has the second time.
    """
    file, tile = getattr(image, "fp", None), list(getattr(image, "tile", ()))
    if tile and file is not None:
        place = file.tell()
        file.seek(0)
        _check_sums(image, file.read())
        file.seek(place)
    try:
        image.load()
    except Exception:
        image.tile = tile
        raise
    return image  # type: ignore[no-any-return]


def _check_sums(image: Image, raw: bytes) -> None:
    """Raises unless the checksums of a PNG file hold, which `load` does not compare."""
    from PIL import Image

    if image.format == "PNG":
        Image.open(io.BytesIO(raw)).verify()


def _eight_bits(image: Image, file_format: str | None) -> Image:
    """`image` with 8 bits a channel."""
    import numpy as np
    from PIL import Image

    kind = image.mode
    if kind == "I" and file_format != "PNG":  # Pillow before 11 opens 16-bit PNG files as "I"
        raise InputError(
            "it holds 32-bit whole numbers, whose white is not defined. Scale it to 8 or 16 bits."
        )
    if kind == "I" or kind.startswith("I;16"):
        values = torch.from_numpy(np.asarray(image).astype(np.int32))
        unit = _unit(values.to(torch.uint16))
    elif kind == "F":
        unit = torch.from_numpy(np.array(image))
        if not bool(((unit >= 0) & (unit <= 1)).all()):  # a NaN is neither
            raise InputError(
                f"it holds floats in [{unit.min():g}, {unit.max():g}]; black is 0 and white is 1. "
                f"Scale it first."
            )
    else:
        return image
    return Image.fromarray((255 * unit).round().byte().numpy())


def _flat(image: Image, mode: str) -> Image:
    """`image` in `mode`, on white where it is transparent and `mode` is not."""
    from PIL import Image

    transparent = {"A", "a"} & set(image.getbands()) or "transparency" in image.info
    if transparent and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _as_tensor(value: Any) -> Tensor:
    if _is_image(value):
        import numpy as np

        x = torch.from_numpy(np.array(value))
        return x.permute(2, 0, 1) if x.ndim == 3 else x
    return torch.as_tensor(value)


def _unit(x: Tensor) -> Tensor:
    """Bytes, booleans or 16-bit values as floats in [0, 1]."""
    unit = x.float() / WHITE[x.dtype]
    top = unit.max().item() * 65535 if x.dtype == torch.uint16 and len(x) else 0
    if 0 < top < DARKEST:
        raise InputError(
            f"it has 16 bits and its greatest value is {top:.0f} of 65535: nearly black. If it was "
            f"written with fewer bits, scale it to all 16."
        )
    return unit


def _in_range(x: Tensor, decoder: Decoder) -> Tensor:
    """Floats as they are, and whole numbers with a known white in the decoder's range."""
    if x.is_floating_point():
        return x.float()
    picture = decoder.value_range is not None or len(decoder.sample_shape) == 3
    if not picture or x.dtype not in WHITE:
        return x
    low, high = decoder.picture_range
    return _unit(x) * (high - low) + low

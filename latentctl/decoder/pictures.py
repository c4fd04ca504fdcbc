"""Pictures that users have, as PIL images of 8 bits a channel.

A picture is a path, a mapping of `bytes` and `path` as in `datasets`, or a PIL image. It is read
whole, turned upright by its EXIF orientation, and has 8 bits a channel: 16-bit greys are divided by
257, floats are in [0, 1], and transparent pixels are shown on white. Files that are truncated, or
whose checksums do not match, are refused each time. Nothing is resized, padded or clipped.
"""

from __future__ import annotations

__all__ = [
    "WHITE",
    "file_of",
    "is_image",
    "is_picture",
    "read_picture",
    "unit_values",
    "with_bytes",
]

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
DARKEST = 4096  # a 16-bit picture whose greatest value is less was written with fewer bits


def is_picture(value: Any) -> bool:
    """Whether `value` is a path, a mapping of `bytes` and `path`, or a PIL image."""
    if isinstance(value, Mapping):
        return set(value) == {"bytes", "path"}
    return isinstance(value, str | os.PathLike) or is_image(value)


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
        image = _loaded(value) if is_image(value) else _opened(_bytes(value))
        upright = ImageOps.exif_transpose(image)
        grey = upright.mode in ("1", "L", "LA", "I", "F") or upright.mode.startswith("I;16")
        return _flat(_eight_bits(upright, image.format), mode or ("L" if grey else "RGB"))
    except InputError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds
        reason = f"{type(error).__name__}: {error}".strip(": ")
        raise InputError(f"it cannot be read as a picture ({reason}).") from error


def file_of(value: Any) -> str:
    """The file of a picture, "" if it has none."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    path = value.get("path") if isinstance(value, Mapping) else getattr(value, "filename", None)
    return str(path or "")


def is_image(value: Any) -> bool:
    """Whether `value` is a PIL image."""
    return hasattr(value, "convert") and hasattr(value, "getbands")


def with_bytes(value: Any) -> Any:
    """A path, or a mapping of `bytes` and `path`, as a mapping with bytes; others as they are."""
    if is_picture(value) and not is_image(value):
        return {"bytes": _bytes(value), "path": file_of(value)}
    return value


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
        unit = unit_values(values.to(torch.uint16))
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


def unit_values(x: Tensor) -> Tensor:
    """Bytes, booleans or 16-bit values as floats in [0, 1]."""
    unit = x.float() / WHITE[x.dtype]
    top = unit.max().item() * 65535 if x.dtype == torch.uint16 and len(x) else 0
    if 0 < top < DARKEST:
        raise InputError(
            f"it has 16 bits and its greatest value is {top:.0f} of 65535: nearly black. If it was "
            f"written with fewer bits, scale it to all 16."
        )
    return unit

"""Pictures from visitors: bounded in bytes and pixels, and brought to the decoder's size.

A file is read and never executed or kept. Its header is read first, so that a picture of too many
pixels is refused before it is decompressed.
"""

from __future__ import annotations

__all__ = ["FORMATS", "MOST_BYTES", "check_size", "picture_code", "read_upload", "start_of"]

import io
import warnings
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..decoder import Decoder, read_samples
from ..decoder.pictures import read_picture
from ..decoder.samples import fit_images, picture_mode
from ..errors import InputError
from .session import Start
from .source import Source, error

MOST_BYTES = 10 * 2**20
MOST_PIXELS = 40_000_000
MOST_SIDE = 12_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
UNLIKE = 4.0  # times the usual error of a reconstruction


def read_upload(path: str | Path, decoder: Decoder) -> Tensor:
    """A sample `(1, *sample_shape)` of an uploaded picture: its centre, resized to fit.

    Raises:
        InputError: If it is no picture, is too large, or the decoder cannot encode pictures.
    """
    if len(decoder.sample_shape) != 3 or not decoder.can_encode:
        raise InputError(f"{decoder.name} cannot encode pictures, so that none can be uploaded.")
    raw = _bounded(Path(path))
    try:
        image = read_picture({"bytes": raw, "path": None}, picture_mode(decoder))
    except InputError as problem:
        raise InputError(f"The picture cannot be used: {problem}") from problem
    return read_samples([fit_images(decoder)(image)], decoder).to(decoder.device)


def start_of(path: str | Path, source: Source) -> Start:
    """The start of an uploaded picture, with a note where the decoder does not know its like.

    Raises:
        InputError: As `read_upload`.
    """
    decoder, name = source.decoder, Path(path).name
    x = read_upload(path, decoder)
    z = decoder.encode(x).mean
    code = (
        f"{picture_code(name, decoder)}\n"
        f"start = latentctl.Latents(faces.decoder.encode(picture).mean)"
    )
    return Start(z, x, f"upload, {name}", code, note=unlike(x, z, source))


def picture_code(file: str, decoder: Decoder) -> str:
    """Lines of Python that assign `picture`: the centre of a file, resized to fit the decoder."""
    height, width = decoder.sample_shape[1:]
    return (
        f"from PIL import Image, ImageOps\n"
        f"from latentctl.decoder.pictures import read_picture\n\n"
        f"picture = read_picture({file!r}, {picture_mode(decoder)!r})\n"
        f"picture = ImageOps.fit(picture, ({width}, {height}), Image.Resampling.BICUBIC)"
    )


def unlike(x: Tensor, z: Tensor, source: Source) -> str:
    """A sentence where a sample `(1, ...)` is unlike what the decoder knows; "" otherwise."""
    ratio = float(error(source.decoder, x, z)[0]) / max(source.usual_error, 1e-12)
    if ratio > UNLIKE:
        return (
            f"This picture is unlike what the generator was trained on: its reconstruction has "
            f"{ratio:.0f} times the usual error. Expect an edit of the reconstruction, not of the "
            f"picture."
        )
    usual, realism = source.usual_realism, source.faces.realism
    if usual is not None and realism is not None:
        with torch.no_grad():
            found = float(realism.score(z)[0, 0])
        if found < usual - 2:
            return (
                f"The latent of this picture is unlike those of data (log-odds of realism "
                f"{found:.1f}, usually above {usual:.1f}). Edits may look unnatural."
            )
    return ""


def check_size(path: Path) -> None:
    """Raises an `InputError` if a file has too many bytes."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(
            f"The file has {size / 2**20:.0f} MB, and at most {MOST_BYTES // 2**20} MB are read. "
            f"Save it smaller."
        )


def _bounded(path: Path) -> bytes:
    """The bytes of a picture whose header is within the bounds."""
    check_size(path)
    raw = path.read_bytes()
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as problem:
        kinds = ", ".join(FORMATS)
        raise InputError(
            f"{path.name!r} is not a picture that can be read. Upload one of {kinds}."
        ) from problem
    if max(width, height) > MOST_SIDE or width * height > MOST_PIXELS:
        raise InputError(
            f"The picture has {width:,} x {height:,} pixels. At most {MOST_SIDE:,} in a row and "
            f"{MOST_PIXELS // 10**6} million in all are read. Resize it."
        )
    return raw

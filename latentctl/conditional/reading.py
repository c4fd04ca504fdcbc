"""Reads a saved picture and its receipts, and finds what contradicts within them."""

from __future__ import annotations

__all__ = ["SavedPicture", "read_saved"]

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..decoder.signatures import png_chunks, signature_of
from ..display import pixel_hash
from ..errors import CheckpointError, InputError
from ..storage.files import read_regular, unsealed, well_formed
from .receipt import FORMAT, KEY, fields_of, sidecar

CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"tEXt", b"iTXt", b"zTXt", b"caBX"}


@dataclass
class SavedPicture:
    """A picture, its receipt, and what was changed of them."""

    pixels: Tensor
    """`(H, W, 3)` bytes."""
    receipt: dict[str, Any]
    """The one beside the picture, or the one in it; empty if both were rewritten."""
    changed: dict[str, str] = field(default_factory=dict)
    """"metadata" and "pixels", with the evidence."""
    notes: list[str] = field(default_factory=list)


def read_saved(path: Path) -> SavedPicture:
    """The picture that `Outcome.save` wrote.

    Raises:
        InputError: If the file is no PNG picture, or has no receipt, nor one beside it.
    """
    try:
        raw = read_regular(path)
    except OSError as error:
        raise InputError(f"{path} cannot be verified: {error}.") from error
    pixels, fields, problem = _opened(path, raw)
    inside, beside = fields.get(KEY), _beside(path)
    if inside is None and beside is None:
        raise InputError(
            f"{path} has no receipt, and there is no {sidecar(path).name}: it was not saved by "
            f"Outcome.save, or its metadata were removed. Name a file that has its receipt."
        )
    receipts = {
        place: _unsealed(text, path)
        for place, text in ((path.name, inside), (sidecar(path).name, beside))
        if text is not None
    }
    intact = [receipt for receipt in receipts.values() if receipt is not None]
    found = SavedPicture(pixels, intact[-1] if intact else {})
    broken = [place for place, receipt in receipts.items() if receipt is None]
    try:
        with well_formed("The receipt", InputError):
            if broken:
                found.changed["metadata"] = f"the receipt in {' and '.join(broken)} was rewritten"
            elif None not in (inside, beside) and inside != beside:
                found.changed["metadata"] = f"{path.name} and {sidecar(path).name} differ"
            elif wrong := _wrong_fields(fields, png_chunks(raw), intact[0]):
                found.changed["metadata"] = f"{', '.join(wrong)} is not as it was written"
            if problem:
                found.changed["pixels"] = problem
            elif intact and pixel_hash(pixels) != found.receipt["picture"]["sha256"]:
                found.changed["pixels"] = "they are not those that the receipt was written for"
    except InputError as error:
        found.changed["metadata"], found.receipt = str(error).rstrip("."), {}
    if signature_of(raw):
        found.notes.append("The file is also signed by others (C2PA), which is not checked.")
    return found


def _opened(path: Path, raw: bytes) -> tuple[Tensor, dict[str, str], str]:
    """Pixels, texts, and what is wrong with the pixels, if anything."""
    import numpy as np
    from PIL import Image

    problem = ""
    try:
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as image:
            image.load()
            if image.mode != "RGB" or getattr(image, "n_frames", 1) > 1:
                problem = f"they are of another kind, {image.mode}"
            texts = dict(getattr(image, "text", {}))
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
    except Exception as error:  # Pillow raises errors of many kinds
        raise InputError(f"{path} cannot be read as a PNG picture ({error}).") from error
    return pixels, {str(key): str(value) for key, value in texts.items()}, problem


def _beside(path: Path) -> str | None:
    """The text of the receipt beside the picture, "" if it cannot be read, None without one."""
    if not sidecar(path).exists():
        return None
    try:
        return read_regular(sidecar(path)).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _unsealed(text: str, path: Path) -> dict[str, Any] | None:
    try:
        return unsealed(text.encode(), path, FORMAT, CheckpointError, "")
    except (CheckpointError, UnicodeEncodeError):
        return None


def _wrong_fields(
    fields: Mapping[str, str], chunks: list[bytes], receipt: dict[str, Any]
) -> list[str]:
    """Texts that are not as they were written, and kinds of chunks that are never written."""
    wrong = [name for name, text in fields_of(receipt).items() if fields.get(name) != text]
    return wrong + sorted({c.decode("latin-1") for c in chunks if c not in CHUNKS})

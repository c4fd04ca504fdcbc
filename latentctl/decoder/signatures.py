"""Signatures of others in picture files: C2PA manifests, which say who made a picture and how.

A manifest is a chunk `caBX` of a PNG file, or JUMBF boxes in APP11 segments of a JPEG file. It is
found, and neither read nor checked: a result is another picture, so it does not get a copy of it.

References:
    | Technical Specification, Embedding manifests (C2PA)
    | https://spec.c2pa.org/specifications/specifications/2.2/specs/C2PA_Specification.html
"""

from __future__ import annotations

__all__ = ["png_chunks", "signature_of", "warn_of_signatures"]

import logging
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .pictures import file_of

logger = logging.getLogger(__name__)

PNG = b"\x89PNG\r\n\x1a\n"
JPEG, APP11, SCAN = b"\xff\xd8", 0xEB, 0xDA
LARGEST = 1 << 28  # bytes of a file in which a signature is looked for


def png_chunks(raw: bytes) -> list[bytes]:
    """The types of the chunks of a PNG file, in order; none of another file.

    Example:
        >>> png_chunks(PNG + struct.pack(">I4sI", 0, b"IEND", 0))
        [b'IEND']
    """
    found, place = [], len(PNG)
    while raw.startswith(PNG) and place + 8 <= len(raw):
        length, kind = struct.unpack_from(">I4s", raw, place)
        found.append(kind)
        place += 12 + length
    return found


def signature_of(raw: bytes) -> str | None:
    """The kind of signature in the bytes of a picture file: "C2PA", or None."""
    signed = b"caBX" in png_chunks(raw) or _in_jpeg(raw)
    return "C2PA" if signed else None


def _in_jpeg(raw: bytes) -> bool:
    place = len(JPEG)
    while raw.startswith(JPEG) and place + 4 <= len(raw) and raw[place] == 0xFF:
        marker, length = raw[place + 1], int.from_bytes(raw[place + 2 : place + 4], "big")
        if marker == SCAN:
            break
        segment = raw[place + 4 : place + 2 + length]
        if marker == APP11 and segment[:2] == b"JP" and b"jumb" in segment[:32]:
            return True
        place += 2 + length
    return False


def warn_of_signatures(values: Any) -> None:
    """Warns if picture files are signed; `values` are as `read_samples` takes them."""
    if hasattr(values, "shape"):  # an array is of no file
        return
    one = isinstance(values, str | Path) or not isinstance(values, Iterable)
    signed = [file for file in map(_file, [values] if one else values) if file and _is_signed(file)]
    if signed:
        logger.warning(
            "%s %s signed (C2PA). The file stays as it is; the signature is not checked, and "
            "results do not have it, since it is not of them.",
            ", ".join(map(str, signed[:8])) + (", ..." if len(signed) > 8 else ""),
            "is" if len(signed) == 1 else "are",
        )


def _file(value: Any) -> str:
    named = isinstance(value, str | Path | dict) or hasattr(value, "filename")
    return file_of(value) if named else ""


def _is_signed(file: str) -> bool:
    path = Path(file)
    if not path.is_file() or path.stat().st_size > LARGEST:
        return False
    return signature_of(path.read_bytes()) is not None

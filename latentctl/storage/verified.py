"""Folders that are read: each byte is verified, and no name leads out of the folder.

The manifest lists the files with their sizes and hashes. A reader beside a process that saves may
find files of two saves, or none: if the folder was replaced meanwhile, it begins again.
"""

from __future__ import annotations

__all__ = ["ADVICE", "COMPANIONS", "FORMAT", "STATE", "SUFFIX", "read_listing", "read_verified"]

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import (
    MANIFEST,
    PLAIN,
    WrongSizeError,
    hidden,
    read_manifest,
    read_regular,
    well_formed,
)

FORMAT = 1
STATE, SUFFIX = "state.json", ".safetensors"
ADVICE = "Restore a copy of the folder, or save it again."
COMPANIONS = ("README.md", "LICENSE")  # files of model hubs, allowed beside hidden ones
REPLACEMENTS = 100  # of a folder while it is read, after which the reader gives up


def read_verified(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a folder, and the bytes of its files, after every byte was verified.

    Raises:
        CheckpointError: As `load_folder`.
    """
    for _ in range(REPLACEMENTS):
        before = _identity(path)
        try:
            return _read_once(path)
        except CheckpointError:
            if _identity(path) == before:
                raise
    return _read_once(path)


def read_listing(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """The manifest of a folder, and file name -> size and sha256 of every file that it lists.

    Raises:
        CheckpointError: If it is missing, truncated, corrupted, of a later format, or lists
            anything but the files that `save_folder` writes.
    """
    path = folder / MANIFEST
    with _reading(folder, MANIFEST):
        manifest = read_manifest(path, FORMAT, CheckpointError, ADVICE)
    with well_formed(path, CheckpointError):
        found = {name: (e["size"], e["sha256"]) for name, e in manifest["files"].items()}
    for name, (size, sha256) in found.items():
        ours = name == STATE or (PLAIN.fullmatch(name) and name.endswith(SUFFIX))
        if not ours or type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise CheckpointError(
                f"{path} lists {name!r}, which is not the name, the size and the sha256 of a file "
                f"that latentctl saves. Do not load this folder; ask for it again."
            )
    if STATE not in found:
        raise CheckpointError(f"{path} is malformed: it does not list {STATE}. {ADVICE}")
    return manifest, found


def _identity(path: Path) -> list[tuple[int, ...] | None]:
    """What changes when another process replaces the folder."""
    found: list[tuple[int, ...] | None] = []
    for folder in (path.resolve(), hidden(path.resolve(), "old")):
        try:
            stat = os.stat(folder)
            found.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))
        except OSError:
            found.append(None)
    return found


def _read_once(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    # each file is read once, so that the verified bytes are the ones used
    folder = path
    if not path.exists() and hidden(path.resolve(), "old").exists():
        folder = hidden(path.resolve(), "old")
    if not folder.is_dir():
        raise CheckpointError(f"{path} is missing, or is not a folder.")
    manifest, listing = read_listing(folder)
    files = {}
    for name, (size, sha256) in listing.items():
        with _reading(folder, name):
            data = files[name] = read_regular(folder / name, size)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(f"{folder / name} is truncated or corrupted. {ADVICE}")
    with _reading(folder, ""):
        names = sorted(os.listdir(folder))
    for name in names:
        if name not in {*files, MANIFEST, *COMPANIONS} and not name.startswith("."):
            raise CheckpointError(f"{folder / name} is not listed in {MANIFEST}. Remove it.")
    return manifest, files


@contextlib.contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder / name} is missing.") from error
    except WrongSizeError as error:
        raise CheckpointError(
            f"{folder / name} is truncated or corrupted: {error}. {ADVICE}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}.") from error

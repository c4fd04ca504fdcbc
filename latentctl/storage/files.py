"""Files that are replaced atomically or read with care, and manifests that carry their own hash.

Files are untrusted input. A file is read only if it is a regular one, and not larger
than expected. A manifest may carry a valid hash and still lack fields: `well_formed` turns the
errors that follow from that into one of latentctl's own.
"""

from __future__ import annotations

__all__ = [
    "MANIFEST",
    "PLAIN",
    "VERSION",
    "WrongSizeError",
    "append_line",
    "fsync_folder",
    "hidden",
    "read_manifest",
    "read_regular",
    "remove",
    "sealed",
    "unsealed",
    "well_formed",
    "write_atomic",
    "write_synced",
]

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import LatentctlError
from .lock import PATIENCE, lock

VERSION = importlib.metadata.version("latentctl")
MANIFEST = "manifest.json"
LARGEST = 1 << 26  # bytes of a manifest
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # file names: no folder, no pattern, not hidden
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest with the version and its own hash; the same in every later format."""
    body = {"latentctl_version": VERSION, **manifest}
    body.pop("sha256", None)
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": seal}, sort_keys=True, indent=1) + "\n").encode()


def unsealed(
    raw: bytes, path: Path, newest: int, error: type[LatentctlError], advice: str
) -> dict[str, Any]:
    """The manifest of `sealed` bytes that were read from `path`.

    Raises:
        LatentctlError: An `error`, if they are truncated, corrupted or of a format after `newest`.
    """
    try:
        manifest: dict[str, Any] = json.loads(raw)
        intact = isinstance(manifest, dict) and sealed(manifest) == raw
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise error(f"{path} is truncated or corrupted. {advice}")
    if type(manifest.get("format")) is not int or manifest["format"] < 1:
        raise error(f"{path} is malformed: it has no format number. {advice}")
    if manifest["format"] > newest:
        raise error(
            f"{path} has format {manifest['format']}, and this latentctl reads up to {newest}: "
            f"upgrade latentctl to >= {manifest['latentctl_version']}."
        )
    return manifest


class WrongSizeError(OSError):
    """A file has another size than its manifest says."""


@contextlib.contextmanager
def well_formed(path: Path | str, error: type[LatentctlError]) -> Iterator[None]:
    """A block that reads fields; raises an `error` where one is missing or of a wrong type."""
    try:
        yield
    except LatentctlError:
        raise
    except (*MALFORMED, MemoryError) as found:
        what = f"{type(found).__name__}: {found}".splitlines()[0][:200]
        raise error(
            f"{path} is malformed ({what}): it was edited, or written by something else than "
            f"latentctl. Save it again."
        ) from found


def read_manifest(path: Path, newest: int, error: type[LatentctlError], advice: str) -> Any:
    """The manifest in the file `path`; errors as of `unsealed`, and an `OSError`."""
    return unsealed(read_regular(path), path, newest, error, advice)


def read_regular(path: Path, size: int | None = None) -> bytes:
    """The bytes of a regular file: of a known size, or of at most 64 MiB.

    Raises:
        OSError: If it is missing, another kind of file (a link, a pipe, a device), or of another
            size. Of links, only those from a snapshot to a blob in the hub's cache are followed.
    """
    if path.is_symlink() and not _in_hub_cache(path):
        raise OSError("it is a symbolic link")
    # opening a pipe would wait for a writer
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        if size is None and found.st_size > LARGEST:
            raise OSError(f"it has {found.st_size} bytes, over the limit of {LARGEST}")
        if size is not None and found.st_size != size:
            raise WrongSizeError(f"it has {found.st_size} bytes instead of {size}")
        return file.read(found.st_size)


def _in_hub_cache(path: Path) -> bool:
    snapshots = path.absolute().parent.parent
    blobs = (snapshots.parent / "blobs").resolve()
    return snapshots.name == "snapshots" and path.resolve().parent == blobs


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file."""
    with open(path, "a") as file:
        file.write(line + "\n")


def write_atomic(path: Path, data: bytes) -> None:
    """Write one file by renaming a flushed temporary one, which is removed after an `OSError`.

    Processes that write the same file take turns.
    """
    stage = hidden(path, "partial")
    with lock(hidden(path, "lock"), PATIENCE):
        try:
            write_synced(stage, data)
            os.replace(stage, path)
            fsync_folder(path.parent)
        except OSError:
            stage.unlink(missing_ok=True)
            raise


def write_synced(path: Path, data: bytes) -> None:
    """Write one file and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Flush a folder to the disk, and with it the renames in it."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hidden(path: Path, role: str) -> Path:
    """The hidden sibling of `path` in the role `"partial"`, `"old"` or `"lock"`."""
    return path.with_name(f".{path.name}.{role}")


def remove(folder: Path) -> None:
    """Delete a folder, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)

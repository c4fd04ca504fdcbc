"""Files that are replaced atomically, and manifests that carry a hash of themselves."""

from __future__ import annotations

__all__ = [
    "MANIFEST",
    "VERSION",
    "fsync_folder",
    "hidden",
    "remove",
    "sealed",
    "unsealed",
    "write_atomic",
    "write_synced",
]

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import LatentctlError

VERSION = importlib.metadata.version("latentctl")
MANIFEST = "manifest.json"


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
    if manifest["format"] > newest:
        raise error(
            f"{path} has format {manifest['format']}, and this latentctl reads up to {newest}: "
            f"upgrade latentctl to >= {manifest['latentctl_version']}."
        )
    return manifest


def write_atomic(path: Path, data: bytes) -> None:
    """Write one file by renaming a flushed temporary one, which is removed after an `OSError`."""
    stage = hidden(path, "partial")
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
    """The hidden sibling of `path` while it is `"partial"` or `"old"`."""
    return path.with_name(f".{path.name}.{role}")


def remove(folder: Path) -> None:
    """Delete a folder, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)

r"""Shards of a cache on disk: safetensors files that carry their own hash, and the manifest.

A shard is one file `shard-00003-<hash>.safetensors`, where `<hash>` begins the sha256 of all its
bytes, so that one atomic rename both finishes a shard and says what it must contain. Its header
holds the job it belongs to, which is all that resuming needs. `manifest.json` is written last,
lists every shard with its sha256, and carries a hash of itself. Tensors are read memory-mapped: a
page of the file takes memory only when it is touched, and the system may take it back.
"""

from __future__ import annotations

__all__ = [
    "FORMAT",
    "Shard",
    "ShardFile",
    "file_hash",
    "find_shards",
    "open_shard",
    "read_manifest",
    "read_notes",
    "verified_manifest",
    "verify_shard",
    "write_manifest",
    "write_shard",
]

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CacheError
from ..storage import MANIFEST, VERSION, fsync_folder, sealed

FORMAT = 1
NAME = re.compile(r"shard-(\d{5,})-([0-9a-f]{16})\.safetensors")
NOTES = "latentctl"  # one key only: safetensors writes several in no fixed order

Shard = dict[str, Tensor]  # "mean" and "index", "std" and "labels" where there are any


@dataclass(frozen=True)
class ShardFile:
    """One line of the manifest: samples `start ... stop - 1` of the data set, less the skipped."""

    name: str
    sha256: str
    start: int
    stop: int
    rows: int


def write_shard(folder: Path, number: int, tensors: Shard, notes: Mapping[str, Any]) -> ShardFile:
    """Write one shard so that it is there whole, or not at all.

    Arguments:
        folder: The cache.
        number: Place of the shard in the cache, from 0.
        tensors: Tensors with the same number of rows, on the CPU.
        notes: What JSON can hold, with the data set's range as `start` and `stop`.

    Raises:
        CacheError: The disk is full or refuses; every finished shard is still there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stage = folder / f".shard-{number:05d}.{os.getpid()}.partial"
    owned: Shard = {}
    storages: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().contiguous()
        shared = value.untyped_storage().data_ptr() in storages  # safetensors refuses these
        owned[key] = value.clone() if shared else value
        storages.add(value.untyped_storage().data_ptr())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(owned, stage, metadata={NOTES: json.dumps(notes, sort_keys=True)})
        with open(stage, "rb") as file:
            os.fsync(file.fileno())
        digest = file_hash(stage)
        path = folder / f"shard-{number:05d}-{digest[:16]}.safetensors"
        os.replace(stage, path)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:
        stage.unlink(missing_ok=True)
        raise CacheError(
            f"Shard {number} of {folder} was not written: {error}. Finished shards are intact: "
            f"free some disk space and run the same call again to go on from there."
        ) from error
    rows = len(next(iter(tensors.values())))
    return ShardFile(path.name, digest, int(notes["start"]), int(notes["stop"]), rows)


def open_shard(path: Path) -> Shard:
    """The memory-mapped tensors of a shard; nothing is read before it is used."""
    from safetensors.torch import load_file

    return load_file(path)


def read_notes(path: Path) -> dict[str, Any] | None:
    """The notes of a shard, or None where its header cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})[NOTES])
            notes["rows"] = file.get_slice("index").get_shape()[0]
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return notes if isinstance(notes, dict) else None


def find_shards(folder: Path) -> dict[int, list[Path]]:
    """The shard files of a cache by number; a rebuilt shard may stand beside its damaged self."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("shard-*.safetensors")):
        if match := NAME.fullmatch(path.name):
            found.setdefault(int(match[1]), []).append(path)
    return found


def verify_shard(path: Path, sha256: str | None = None) -> str | None:
    """The sha256 of an intact shard; None if it is missing or altered.

    Arguments:
        path: The shard.
        sha256: What it must be; if not given, the name of the file says how it must begin.
    """
    match = NAME.fullmatch(path.name)
    if match is None or not path.is_file():
        return None
    found = file_hash(path)
    return found if found.startswith(match[2]) and sha256 in (None, found) else None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(1 << 17))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def write_manifest(folder: Path, shards: Sequence[ShardFile], content: Mapping[str, Any]) -> None:
    """Commit a cache, and remove every shard that does not belong to it."""
    manifest = {
        **content,
        "format": FORMAT,
        "latentctl_version": VERSION,
        "rows": sum(shard.rows for shard in shards),
        "shards": [asdict(shard) for shard in shards],
    }
    stage = folder / f".{MANIFEST}.partial"
    try:
        with open(stage, "wb") as file:
            file.write(sealed(manifest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(stage, folder / MANIFEST)
        fsync_folder(folder)
    except OSError as error:
        stage.unlink(missing_ok=True)
        raise CacheError(
            f"{folder / MANIFEST} was not written: {error}. Free some disk space and run again."
        ) from error
    listed = {shard.name for shard in shards}
    stale = [path for paths in find_shards(folder).values() for path in paths]
    for path in [*stale, *folder.glob(".shard-*.partial")]:
        if path.name not in listed:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished cache.

    Raises:
        CacheError: It is missing, altered, or of a later format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CacheError(
            f"{folder} is not a finished cache: it has no {MANIFEST}. If it was interrupted, run "
            f"the same encode_dataset again: it goes on from the finished shards."
        )
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        whole = isinstance(manifest, dict) and sealed(manifest) == raw
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise CacheError(
            f"{path} is cut or altered. Run the same encode_dataset again: it rebuilds the "
            f"manifest from the intact shards."
        )
    if manifest.get("format", 0) > FORMAT:
        raise CacheError(
            f"{path} has format {manifest['format']}, and this latentctl reads up to {FORMAT}: "
            f"upgrade latentctl to >= {manifest['latentctl_version']}."
        )
    if "shards" not in manifest or "names" not in manifest:
        raise CacheError(f"{path} is the manifest of something else than a cache of latents.")
    return dict(manifest)


def verified_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache of which every byte is as it was written.

    Raises:
        CacheError: The manifest or a shard is missing, cut or altered, and which.
    """
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        if verify_shard(folder / shard["name"], shard["sha256"]) is None:
            raise CacheError(
                f"{folder / shard['name']} is missing, cut or altered. Run the same "
                f"encode_dataset again: it rebuilds this shard alone. Or delete the cache."
            )
    return manifest

"""The manifest of a finished cache, and the listing of its shards.

`manifest.json` is written last. It has what all shards have in common, and the sha256 of the file
`listing-<hash>.safetensors`, which is a table of ten whole numbers for each shard: a cache of
250,000 shards is opened by reading 20 MB, and no shard.
"""

from __future__ import annotations

__all__ = [
    "Listing",
    "corrupted",
    "is_unchanged",
    "quickly_verified",
    "read_manifest",
    "verify_cache",
    "write_cache",
    "write_manifest",
]

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CacheError
from ..storage import files
from ..storage.files import MANIFEST, read_regular, sealed, well_formed, write_atomic
from ..storage.lock import held
from .shards import (
    FORMAT,
    Entry,
    Shard,
    find_shards,
    header_of,
    tensor_file,
    verify_shard,
    write_shard,
)

COLUMNS = ("part", "number", "rows", "start", "size", "time")  # and the sha256 as four numbers
SKIPPED = 1000  # of the samples that were skipped, those in the manifest; each shard has its own
ADVICE = "Run the same encode_dataset again: the intact shards are kept."
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Listing:
    """The shards of a cache in order: `table (S, 10)`, with the columns `COLUMNS` and the hash."""

    table: Numbers

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> Numbers:
        """One of `COLUMNS`, `(S,)`."""
        found: Numbers = self.table[:, COLUMNS.index(name)]
        return found

    def sha256(self, shard: int) -> str:
        """The hash of a shard."""
        return self.table[shard, len(COLUMNS) :].tobytes().hex()

    def digest(self) -> str:
        """A hash of all but the times."""
        content = np.delete(self.table, COLUMNS.index("time"), axis=1)
        return hashlib.sha256(content.tobytes()).hexdigest()[:16]

    def file(self, shard: int) -> str:
        """The name of a shard's file."""
        return self.files([shard])[0]

    def files(self, shards: Any) -> list[str]:
        """The names of the files of several shards."""
        keys = self.table[shards, :2].tolist()
        hashes = self.table[shards, len(COLUMNS)].tobytes().hex()
        return [
            f"shard-{part:05d}-{number:05d}-{hashes[16 * i : 16 * i + 16]}.safetensors"
            for i, (part, number) in enumerate(keys)
        ]


def write_cache(folder: Path, shards: Iterable[Shard], **content: Any) -> None:
    """Write shards that are in memory as a finished cache, in place of an older one.

    Raises:
        CacheError: Writing failed, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file. Choose a folder.")
    entries, start = [], 0
    with held(folder, CacheError):
        for number, shard in enumerate(shards):
            notes = {"start": start, "stop": start + len(shard["mean"])}
            start = notes["stop"]
            owned = {key: value.cpu() for key, value in shard.items()}
            owned["index"] = owned["index"] - notes["start"]
            entries.append(write_shard(folder, (0, number), owned, notes))
        write_manifest(folder, entries, content)


def write_manifest(folder: Path, shards: Sequence[Entry], content: Mapping[str, Any]) -> None:
    """Commit a cache, and remove every other shard from the folder."""
    try:
        name, sha256, size = _write_listing(folder, shards)
        skipped = list(content.get("skipped", ()))
        manifest = {
            **content,
            "format": FORMAT,
            "rows": sum(shard["rows"] for shard in shards),
            "shards": len(shards),
            "listing": {"name": name, "sha256": sha256, "size": size},
            "tensors": _tensors(folder, shards),
            "skipped": skipped[:SKIPPED],
            "skipped_count": len(skipped),
        }
        write_atomic(folder / MANIFEST, sealed(manifest))
    except OSError as error:
        raise CacheError(
            f"{folder / MANIFEST} was not written: {error}. Free some disk space and run again."
        ) from error
    listed = {shard["name"] for shard in shards} | {name}
    stale = [path for paths in find_shards(folder).values() for path in paths]
    for path in [*stale, *folder.glob("listing-*"), *folder.glob(".shard-*.partial")]:
        if path.name not in listed:
            path.unlink(missing_ok=True)


def _write_listing(folder: Path, shards: Sequence[Entry]) -> tuple[str, str, int]:
    """Writes the listing; its name, hash and size."""
    table = np.empty((len(shards), len(COLUMNS) + 4), np.int64)
    for row, shard in zip(table, shards, strict=True):
        found = os.stat(folder / shard["name"])
        row[: len(COLUMNS)] = (
            *(shard["part"], shard["number"], shard["rows"], shard["start"]),
            *(found.st_size, found.st_mtime_ns),
        )
        row[len(COLUMNS) :] = np.frombuffer(bytes.fromhex(shard["sha256"]), np.int64)
    raw = tensor_file(table)
    sha256 = hashlib.sha256(raw).hexdigest()
    name = f"listing-{sha256[:16]}.safetensors"
    write_atomic(folder / name, raw)
    return name, sha256, len(raw)


def _tensors(folder: Path, shards: Sequence[Entry]) -> list[Any]:
    """Name, type and shape of a row of each tensor of a shard, in the order of the file."""
    used = next((shard for shard in shards if shard["rows"]), shards[0])
    descriptor = os.open(folder / used["name"], os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        header = json.loads(header_of(descriptor)[1])
        header.pop("__metadata__", None)
    finally:
        os.close(descriptor)
    order = sorted(header, key=lambda name: header[name]["data_offsets"])
    return [[name, header[name]["dtype"], header[name]["shape"][1:]] for name in order]


def read_manifest(folder: Path) -> tuple[dict[str, Any], Listing]:
    """The manifest and the listing of a finished cache; no shard is read.

    Raises:
        CacheError: One of them is missing, truncated, corrupted, or of a later format.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise CacheError(
            f"{folder} is not a finished cache: it has no {MANIFEST}. If encode_dataset was "
            f"interrupted, run the same call again: it resumes after the finished shards."
        )
    try:
        manifest: dict[str, Any] = files.read_manifest(path, FORMAT, CacheError, ADVICE)
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error}.") from error
    with well_formed(path, CacheError):
        plain = isinstance(manifest["fingerprint"], str) and isinstance(manifest["names"], list)
        plain &= all(isinstance(name, str) for name in manifest["names"])
        plain &= isinstance(manifest["skipped"], list) and isinstance(manifest["rows"], int)
        plain &= _plain_tensors(manifest)
        try:
            listing = _read_listing(folder, manifest) if plain else None
        except CacheError:
            if files.read_manifest(path, FORMAT, CacheError, ADVICE) == manifest:
                raise
            return read_manifest(folder)  # the cache has grown meanwhile
    if listing is None:
        raise CacheError(f"{path} is not the manifest of a cache of latents. {ADVICE}")
    return manifest, listing


def _plain_tensors(manifest: Mapping[str, Any]) -> bool:
    """Whether the tensors of a manifest are those that latents have."""
    shapes = {name: tuple(shape) for name, _, shape in manifest["tensors"]}
    width = len(manifest["names"])
    needed = {"mean", "index"} | ({"labels"} if width else set())
    plain = needed <= set(shapes) <= needed | {"std", "content"}
    plain &= len(shapes) == len(manifest["tensors"])
    for name, dtype, _ in manifest["tensors"]:
        whole = {"index": ("I64",), "labels": ("F32",), "content": ("U8",)}
        plain &= dtype in whole.get(name, ("F32", "F16", "BF16"))
    numbers = [number for shape in shapes.values() for number in shape]
    plain &= all(type(number) is int and 0 <= number < 1 << 40 for number in numbers)
    plain &= shapes.get("std", shapes["mean"]) == shapes["mean"] and shapes["index"] == ()
    plain &= shapes.get("content", (16,)) == (16,)
    return plain and shapes.get("labels", (width,)) == (width,)


def _read_listing(folder: Path, manifest: Mapping[str, Any]) -> Listing | None:
    name, sha256, size = (manifest["listing"][key] for key in ("name", "sha256", "size"))
    path = folder / str(name)
    if name != f"listing-{sha256[:16]}.safetensors" or type(size) is not int:
        return None
    try:
        raw = read_regular(path, size)
    except OSError as error:
        raise CacheError(f"{path} is missing, truncated or corrupted: {error}. {ADVICE}") from error
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise CacheError(f"{path} is truncated or corrupted. {ADVICE}")
    numbers = (len(COLUMNS) + 4) * manifest["shards"]
    table = np.frombuffer(raw, np.int64, numbers, len(raw) - 8 * numbers)
    listing = Listing(table.reshape(-1, len(COLUMNS) + 4))
    plain = len(listing) > 0 and bool((listing.table[:, :5] >= 0).all())
    return listing if plain and int(listing.column("rows").sum()) == manifest["rows"] else None


def is_unchanged(folder: Path, listing: Listing, shard: int) -> bool:
    """Whether a shard's file has the listed size and time, or else the listed hash."""
    path = folder / listing.file(shard)
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if found.st_size != listing.column("size")[shard] or not stat.S_ISREG(found.st_mode):
        return False
    same = found.st_mtime_ns == listing.column("time")[shard]
    return bool(same) or verify_shard(path, listing.sha256(shard)) is not None


def quickly_verified(folder: Path) -> tuple[dict[str, Any], Listing]:
    """As `read_manifest`, after sizes and times of all shards were compared with the listing.

    Raises:
        CacheError: Besides, if a shard is missing or truncated, or was changed.
    """
    manifest, listing = read_manifest(folder)
    for shard in range(len(listing)):
        if not is_unchanged(folder, listing, shard):
            raise corrupted(folder / listing.file(shard))
    return manifest, listing


def corrupted(path: Path | str) -> CacheError:
    """The error of a shard that is not the listed one."""
    return CacheError(
        f"{path} is missing, truncated or corrupted. Run the same encode_dataset again: it "
        f"encodes this shard again. Or delete the cache."
    )


def verify_cache(folder: Path) -> int:
    """The number of shards of a cache, after every byte of it was verified.

    Raises:
        CacheError: The manifest or a shard is missing, truncated or corrupted; names the file.
    """
    _, listing = read_manifest(folder)
    for shard in range(len(listing)):
        path = folder / listing.file(shard)
        if verify_shard(path, listing.sha256(shard)) is None:
            raise corrupted(path)
    return len(listing)

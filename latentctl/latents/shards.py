"""Shards of a cache on disk: safetensors files named by their hash, and the manifest.

A shard is one file `shard-00000-00003-<hash>.safetensors`: the part of the data set, the number of
the shard in it, and the first 16 digits of the sha256 of its bytes. One atomic rename commits the
shard and its hash; a shard that is made twice has the same name. Its header holds the job that it
belongs to, from which an interrupted encoding resumes. `manifest.json` is written last, lists every
shard with its sha256, and carries a hash of itself. Tensors are memory-mapped.
"""

from __future__ import annotations

__all__ = [
    "FORMAT",
    "Entry",
    "Key",
    "Shard",
    "find_shards",
    "gather",
    "read_entry",
    "open_shards",
    "read_manifest",
    "read_notes",
    "verified_manifest",
    "verify_shard",
    "write_cache",
    "write_manifest",
    "write_shard",
]

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheError
from ..storage import files
from ..storage.files import MANIFEST, fsync_folder, sealed, well_formed, write_atomic
from ..storage.lock import held

FORMAT = 1
NAME = re.compile(r"shard-(\d{5,})-(\d{5,})-([0-9a-f]{16})\.safetensors")
NOTES = "latentctl"  # a single key: safetensors writes several in no fixed order

Key = tuple[int, int]  # the part of the data set, and the number of a shard in it
# "mean" and "index", in a file from the first sample of the shard; "std", "labels" if there are any
Shard = dict[str, Tensor]
Entry = dict[str, Any]  # name, sha256 and rows of a shard, and its samples start ... stop - 1


def write_shard(folder: Path, key: Key, tensors: Shard, notes: Mapping[str, Any]) -> Entry:
    """Write a shard of a cache atomically, and return its entry.

    Arguments:
        folder: The cache.
        key: The part of the data set, and the number of the shard in it, from 0.
        tensors: Tensors with the same number of rows, on the CPU.
        notes: JSON, with the range of samples `start ... stop - 1`.

    Raises:
        CacheError: Writing failed; every finished shard is intact.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stem = f"shard-{key[0]:05d}-{key[1]:05d}"
    stage = folder / f".{stem}.{secrets.token_hex(8)}.partial"  # of one writer on one machine
    owned: Shard = {}
    storages: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().contiguous()
        shared = value.untyped_storage().data_ptr() in storages  # safetensors refuses these
        owned[name] = value.clone() if shared else value
        storages.add(value.untyped_storage().data_ptr())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(owned, stage, metadata={NOTES: json.dumps(notes, sort_keys=True)})
        with open(stage, "rb") as file:
            os.fsync(file.fileno())
        digest = _sha256(stage)
        path = folder / f"{stem}-{digest[:16]}.safetensors"
        os.replace(stage, path)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:
        stage.unlink(missing_ok=True)
        raise CacheError(
            f"Shard {stem[6:]} of {folder} was not written: {error}. Finished shards are intact: "
            f"free some disk space and run the same call again to go on from there."
        ) from error
    rows = len(next(iter(tensors.values())))
    return {**notes, "name": path.name, "sha256": digest, "rows": rows}


def write_cache(folder: Path, shards: Sequence[Shard], **content: Any) -> None:
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


def gather(shards: Sequence[Shard], starts: Sequence[int], rows: Tensor) -> Shard:
    """Some rows of shards whose first rows are `starts`, in memory."""
    if len(shards) == 1:
        return {key: value[rows.to(value.device)] for key, value in shards[0].items()}
    order = rows.argsort()  # each shard is read once, in the order of its file
    bounds = torch.searchsorted(rows[order], torch.tensor(starts)).tolist()
    batch = {k: v.new_empty(len(rows), *v.shape[1:]) for k, v in shards[0].items()}
    for number, shard in enumerate(shards):
        here = order[bounds[number] : bounds[number + 1]]
        for key, value in shard.items():
            batch[key][here] = value[rows[here] - starts[number]]
    return batch


def open_shards(folder: Path, manifest: Mapping[str, Any]) -> list[Shard]:
    """The memory-mapped tensors of all shards that have rows, or of one empty shard.

    Raises:
        CacheError: If their shapes do not agree with each other and with the manifest.
    """
    from safetensors.torch import load_file

    with well_formed(folder, CacheError):
        entries = manifest["shards"]
        used = [entry for entry in entries if entry["rows"]] or entries[:1]
        shards = [load_file(folder / entry["name"]) for entry in used]
        keys, width = set(shards[0]), len(manifest["names"])
        for shard, entry in zip(shards, used, strict=True):
            mean, rows = shard["mean"], entry["rows"]
            shapes = {"mean": mean.shape, "std": mean.shape, "index": (rows,)}
            shapes["labels"] = (rows, width)
            wrong = len(mean) != rows or mean.shape[1:] != shards[0]["mean"].shape[1:]
            wrong |= set(shard) != keys or any(shard[k].shape != shapes[k] for k in keys)
            if wrong or ("labels" in keys) != bool(width):
                raise ValueError(f"{entry['name']} has other rows, shapes or labels")
            shard["index"] = shard["index"] + entry["start"]
    return shards


def read_entry(path: Path) -> Entry | None:
    """The notes and the entry of a shard, or None if it is truncated or corrupted."""
    digest = verify_shard(path)
    notes = None if digest is None else read_notes(path)
    return None if notes is None else {**notes, "sha256": digest}


def read_notes(path: Path) -> Entry | None:
    """The notes and the rows of a shard whose bytes are not compared; None if it is truncated."""
    from safetensors import SafetensorError, safe_open

    if path.is_symlink() or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})[NOTES])
            rows = file.get_slice("index").get_shape()[0]
        here = {**notes, "name": path.name, "rows": rows}
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None
    whole = isinstance(notes.get("stop"), int) and isinstance(notes.get("skipped", []), list)
    return here if whole else None


def find_shards(folder: Path) -> dict[Key, list[Path]]:
    """The shard files of a cache by key, in order; several of a key only if their bytes differ."""
    found: dict[Key, list[Path]] = {}
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in names:
        if match := NAME.fullmatch(name):
            found.setdefault((int(match[1]), int(match[2])), []).append(folder / name)
    return found


def verify_shard(path: Path, sha256: str | None = None) -> str | None:
    """The sha256 of a shard if it agrees with the file's name and `sha256`, else None."""
    match = NAME.fullmatch(path.name)
    if match is None or path.is_symlink() or not path.is_file():
        return None
    found = _sha256(path)
    return found if found.startswith(match[3]) and sha256 in (None, found) else None


def _sha256(path: Path) -> str:
    digest, piece = hashlib.sha256(), memoryview(bytearray(1 << 17))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def write_manifest(folder: Path, shards: Sequence[Entry], content: Mapping[str, Any]) -> None:
    """Commit a cache, and remove every other shard from the folder."""
    names = ("name", "sha256", "start", "stop", "rows")
    manifest = {
        **content,
        "format": FORMAT,
        "rows": sum(shard["rows"] for shard in shards),
        "shards": [{name: shard[name] for name in names} for shard in shards],
    }
    try:
        write_atomic(folder / MANIFEST, sealed(manifest))
    except OSError as error:
        raise CacheError(
            f"{folder / MANIFEST} was not written: {error}. Free some disk space and run again."
        ) from error
    listed = {shard["name"] for shard in shards}
    stale = [path for paths in find_shards(folder).values() for path in paths]
    for path in [*stale, *folder.glob(".shard-*.partial")]:
        if path.name not in listed:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished cache.

    Raises:
        CacheError: It is missing, truncated, corrupted, or of a later format.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise CacheError(
            f"{folder} is not a finished cache: it has no {MANIFEST}. If encode_dataset was "
            f"interrupted, run the same call again: it resumes after the finished shards."
        )
    advice = "Run the same encode_dataset again: the intact shards are kept."
    try:
        manifest: dict[str, Any] = files.read_manifest(path, FORMAT, CacheError, advice)
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error}.") from error
    with well_formed(path, CacheError):
        names, entries = manifest["names"], manifest["shards"]
        plain = isinstance(manifest["fingerprint"], str) and isinstance(names, list)
        plain &= all(isinstance(name, str) for name in names) and len(entries) > 0
        plain &= isinstance(manifest.get("skipped", []), list)
        for entry in entries:
            numbers = (entry[key] for key in ("rows", "start", "stop"))
            plain &= bool(NAME.fullmatch(entry["name"])) and isinstance(entry["sha256"], str)
            plain &= all(type(number) is int and number >= 0 for number in numbers)
    if not plain:
        raise CacheError(f"{path} is not the manifest of a cache of latents. {advice}")
    return manifest


def verified_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache, after the hashes of all its shards were verified.

    Raises:
        CacheError: The manifest or a shard is missing, truncated or corrupted; names the file.
    """
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        if verify_shard(folder / shard["name"], shard["sha256"]) is None:
            raise CacheError(
                f"{folder / shard['name']} is missing, truncated or corrupted. Run the same "
                f"encode_dataset again: it encodes this shard again. Or delete the cache."
            )
    return manifest

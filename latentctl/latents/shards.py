"""Shards of a cache on disk: safetensors files named by their hash.

A shard is one file `shard-00000-00003-<hash>.safetensors`: the part of the data set, the number of
the shard in it, and the first 16 digits of the sha256 of its bytes. One atomic rename commits the
shard and its hash; a shard that is made twice has the same name. Its header holds the job that it
belongs to, from which an interrupted encoding resumes. In the file its first sample has number 0.
"""

from __future__ import annotations

__all__ = [
    "DTYPES",
    "FORMAT",
    "Entry",
    "Key",
    "Shard",
    "find_shards",
    "header_of",
    "read_entry",
    "read_notes",
    "tensor_file",
    "verify_shard",
    "write_shard",
]

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheError
from ..storage.files import fsync_folder

FORMAT = 1
NAME = re.compile(r"shard-(\d{5,})-(\d{5,})-([0-9a-f]{16})\.safetensors")
# of the tensors, as safetensors names them
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "U8": torch.uint8}
HEAD = 4096  # bytes that are read at once, mostly the whole header
LARGEST = 1 << 24  # bytes of a header
NOTES = "latentctl"  # a single key: safetensors writes several in no fixed order

Key = tuple[int, int]  # the part of the data set, and the number of a shard in it
# "mean" and "index", in a file from the shard's first sample; perhaps "std", "labels", "content"
Shard = dict[str, Tensor]
# part, number, name, sha256 and rows of a shard, and its samples start ... stop - 1
Entry = dict[str, Any]


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
    found = {"part": key[0], "number": key[1], "name": path.name, "sha256": digest, "rows": rows}
    return {**notes, **found}


def read_entry(path: Path) -> Entry | None:
    """The notes and the entry of a shard, or None if it is truncated or corrupted."""
    digest = verify_shard(path)
    notes = None if digest is None else read_notes(path)
    return None if notes is None else {**notes, "sha256": digest}


def read_notes(path: Path) -> Entry | None:
    """The notes and the rows of a shard whose bytes are not compared; None if it is truncated."""
    from safetensors import SafetensorError, safe_open

    match = NAME.fullmatch(path.name)
    if match is None or path.is_symlink() or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})[NOTES])
            rows = file.get_slice("index").get_shape()[0]
        here = {**notes, "part": int(match[1]), "number": int(match[2])}
        here |= {"name": path.name, "rows": rows}
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


def header_of(descriptor: int) -> tuple[int, bytes]:
    """Where the tensors of an open safetensors file begin, and the JSON of its header."""
    head = os.read(descriptor, HEAD)
    size = int.from_bytes(head[:8], "little")
    if size > LARGEST:
        raise ValueError(f"its header has {size} bytes")
    while len(head) < 8 + size and (more := os.read(descriptor, 8 + size - len(head))):
        head += more
    return 8 + size, head[8 : 8 + size].rstrip()


def tensor_file(table: Any) -> bytes:
    """The bytes of a safetensors file with one array of whole numbers."""
    from safetensors.numpy import save

    return save({"shards": table})

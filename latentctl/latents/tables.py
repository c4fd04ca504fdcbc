"""Where the rows of latents are: in memory, in the shards of a cache, or with other labels.

A cache is opened without its shards. A shard is compared with the listing when it is first used:
its size and time must be the listed ones, or else its hash. Of few shards the files stay mapped in
memory; of many, single rows are read from the files, and memory does not grow.
"""

from __future__ import annotations

__all__ = ["Memory", "Relabelled", "Stored", "Table"]

import functools
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError
from ..storage import digest
from ..storage.files import well_formed
from .manifest import Listing, Numbers, corrupted, is_unchanged
from .shards import DTYPES, Shard, header_of

MAPPED = 256  # shards that are mapped at a time; the system has a limit of some 65,000 maps
# not to wait for a writer of a pipe, not to follow a link
FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"):
    FLAGS |= getattr(os, _flag, 0)
SINGLE = 8  # rows of a shard up to which they are read one by one


class Table(Protocol):
    """Rows of `mean`, `index`, and perhaps `std`, `labels` and `content`."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of a row of each tensor."""

    def __len__(self) -> int: ...
    def whole(self, name: str) -> Tensor:
        """All rows of one tensor."""

    def take(self, rows: Tensor) -> Shard:
        """Some rows, in memory."""

    def pieces(self) -> Iterator[Shard]:
        """All rows in order, a part at a time."""

    def digest(self) -> str:
        """Changes with the values."""


class Memory:
    """Rows in memory, on any device."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.shapes = {name: tuple(value.shape[1:]) for name, value in shard.items()}

    def __len__(self) -> int:
        return len(self.shard["mean"])

    def whole(self, name: str) -> Tensor:
        return self.shard[name]

    def take(self, rows: Tensor) -> Shard:
        return {key: value[rows.to(value.device)] for key, value in self.shard.items()}

    def pieces(self) -> Iterator[Shard]:
        yield self.shard

    def digest(self) -> str:
        values = {k: [v] for k, v in self.shard.items() if k not in ("index", "content")}
        return digest(values)


class Relabelled:
    """The rows of a table with other labels `(N, K)`, with some of its labels, or with none."""

    def __init__(
        self, table: Table, labels: Tensor | None = None, columns: Sequence[int] = ()
    ) -> None:
        self.table, self.labels, self.columns = table, labels, list(columns)
        self.shapes = {name: shape for name, shape in table.shapes.items() if name != "labels"}
        if labels is not None or columns:
            self.shapes["labels"] = (len(columns) if labels is None else labels.shape[1],)

    def __len__(self) -> int:
        return len(self.table)

    def whole(self, name: str) -> Tensor:
        if name != "labels":
            return self.table.whole(name)
        return torch.cat([piece["labels"] for piece in self.pieces()])

    def take(self, rows: Tensor) -> Shard:
        return self._relabelled(self.table.take(rows), rows)

    def pieces(self) -> Iterator[Shard]:
        start = 0
        for piece in self.table.pieces():
            rows = slice(start, start := start + len(piece["mean"]))
            yield self._relabelled(piece, rows)

    def digest(self) -> str:
        found = f"{self.table.digest()} {self.columns}"
        if self.labels is not None:
            found += digest({"labels": [self.labels]})
        return hashlib.sha256(found.encode()).hexdigest()[:16]

    def _relabelled(self, shard: Shard, rows: Tensor | slice) -> Shard:
        labels = shard["labels"][:, self.columns] if self.columns else None
        labels = labels if self.labels is None else self.labels[rows]
        rest = {name: value for name, value in shard.items() if name != "labels"}
        return rest if labels is None else {**rest, "labels": labels}


class Stored:
    """The rows of a finished cache."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], listing: Listing) -> None:
        self.folder, self.listing = folder, listing
        self._kinds = {name: DTYPES[dtype] for name, dtype, _ in manifest["tensors"]}
        self._tensors = manifest["tensors"]
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(shape) for name, _, shape in manifest["tensors"]
        }
        self._bytes = {
            name: math.prod(self.shapes[name]) * kind.itemsize for name, kind in self._kinds.items()
        }
        self._starts = np.concatenate(([0], np.cumsum(listing.column("rows"))))
        self._rows, self._first = (
            np.ascontiguousarray(listing.column(c)) for c in ("rows", "start")
        )
        self._times, self._sizes = listing.column("time").copy(), listing.column("size")
        self._data = np.full(len(listing), -1, np.int32)  # where the tensors begin, once checked
        self._text = functools.lru_cache(MAPPED)(self._header)
        self._map = functools.lru_cache(MAPPED)(self._mapped)

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.folder, {"tensors": self._tensors}, self.listing)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def whole(self, name: str) -> Tensor:
        parts = [piece[name] for piece in self.pieces()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def pieces(self) -> Iterator[Shard]:
        few, used = len(self.listing) <= MAPPED, self.listing.column("rows").nonzero()[0].tolist()
        for shard in used or [0]:
            piece = self._map(shard) if few else self._mapped(shard)
            read = {name: _whole_precision(value) for name, value in piece.items()}
            yield {**read, "index": piece["index"] + int(self._first[shard])}

    def take(self, rows: Tensor) -> Shard:
        sought = rows.numpy()
        order = np.argsort(sought, kind="stable")  # each shard is read once
        which = np.searchsorted(self._starts, sought[order], "right") - 1
        found, first = np.unique(which, return_index=True)
        bounds = [*first.tolist(), len(order)]
        inside = sought[order] - self._starts[which]
        read = self._from_maps if len(self.listing) <= MAPPED else self._from_files
        shard = read(found, inside, bounds)
        shard["index"] += torch.from_numpy(self._first[which])
        back = torch.from_numpy(np.argsort(order))
        return {name: _whole_precision(value[back]) for name, value in shard.items()}

    def _from_maps(self, found: Numbers, inside: Numbers, bounds: list[int]) -> Shard:
        """Rows of shards in order, from their maps."""
        shard = self._empty(len(inside))
        for number, begin, end in zip(found.tolist(), bounds, bounds[1:], strict=False):
            rows = torch.from_numpy(inside[begin:end])
            for name, value in self._map(number).items():
                torch.index_select(value, 0, rows, out=shard[name][begin:end])
        return shard

    def _from_files(self, found: Numbers, inside: Numbers, bounds: list[int]) -> Shard:
        """Rows of shards in order; single ones are read from their files."""
        read: list[list[bytes]] = [[] for _ in self._bytes]  # of each tensor
        names, rows = self.listing.files(found), inside.tolist()
        for shard, name, begin, end in zip(found.tolist(), names, bounds, bounds[1:], strict=False):
            if end - begin <= SINGLE:
                self._read(shard, f"{self.folder}{os.sep}{name}", rows[begin:end], read)
                continue
            for value, parts in zip(self._map(shard).values(), read, strict=True):
                parts.append(_as_bytes(value[rows[begin:end]]))
        taken = self._empty(len(rows))
        for value, parts in zip(taken.values(), read, strict=True):
            raw = bytearray().join(parts)
            if len(raw) != value.numel() * value.itemsize:
                raise CacheError(f"A shard of {self.folder} was truncated while it was read.")
            if raw:  # torch takes no empty buffer
                value.copy_(torch.frombuffer(raw, dtype=value.dtype).view_as(value))
        return taken

    def _empty(self, rows: int) -> Shard:
        return {
            name: torch.empty(rows, *self.shapes[name], dtype=kind)
            for name, kind in self._kinds.items()
        }

    def digest(self) -> str:
        return self.listing.digest()

    def _mapped(self, shard: int) -> Shard:
        """The tensors in the file of a shard, mapped, in its order."""
        from safetensors.torch import load_file

        path = f"{self.folder}{os.sep}{self.listing.file(shard)}"
        descriptor = _open(path)
        try:
            self._check(shard, path, descriptor)
        finally:
            os.close(descriptor)
        with well_formed(path, CacheError):
            found = load_file(path)
            return {name: found[name] for name in self._bytes}

    def _read(self, shard: int, path: str, rows: list[int], read: list[list[bytes]]) -> None:
        """Reads single rows of a shard."""
        descriptor = _open(path)
        try:
            self._check(shard, path, descriptor)
            offset, count = self._data.item(shard), self._rows.item(shard)
            for size, parts in zip(self._bytes.values(), read, strict=True):
                for row in rows:
                    parts.append(_read_at(descriptor, size, offset + row * size))
                offset += count * size
        finally:
            os.close(descriptor)

    def _check(self, shard: int, path: str, descriptor: int) -> None:
        """Raises unless a shard is the listed one, and has the listed tensors."""
        found = os.fstat(descriptor)
        same = stat.S_ISREG(found.st_mode) and found.st_size == self._sizes.item(shard)
        if not same or found.st_mtime_ns != self._times.item(shard):
            if not same or not is_unchanged(self.folder, self.listing, shard):
                raise corrupted(path)
            self._times[shard] = found.st_mtime_ns  # of a copy, whose hash was compared
        if self._data.item(shard) < 0:
            with well_formed(path, CacheError):
                self._data[shard] = self._begin(shard, descriptor, found.st_size)

    def _begin(self, shard: int, descriptor: int, size: int) -> int:
        """Where the tensors of a file begin, if they are the listed ones."""
        begin, header = header_of(descriptor)
        rows = self._rows.item(shard)
        if not header.endswith(self._text(rows)):
            raise ValueError("its tensors have other types, shapes or places than are listed")
        if begin + rows * sum(self._bytes.values()) != size:
            raise ValueError("it has another size than its tensors")
        return begin

    def _header(self, rows: int) -> bytes:
        """The end of the header of a file with so many rows, as safetensors writes it."""
        offset, found = 0, {}
        for name, dtype, shape in self._tensors:
            span = [offset, offset := offset + rows * self._bytes[name]]
            found[name] = {"dtype": dtype, "shape": [rows, *shape], "data_offsets": span}
        return json.dumps(found, separators=(",", ":"))[1:].encode()


def _whole_precision(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _as_bytes(value: Tensor) -> bytes:
    return value.contiguous().view(len(value), -1).view(torch.uint8).numpy().tobytes()


def _open(path: str) -> int:
    try:
        return os.open(path, FLAGS)
    except OSError as error:
        raise corrupted(path) from error


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
    return os.read(descriptor, size)

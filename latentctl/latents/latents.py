r"""Latents: the encodings of a data set, computed once and cached.

For each sample the cache holds the posterior :math:`q(z \mid x) = \mathcal{N}(m, s^2)` and the
labels. Training draws :math:`z = m + s \epsilon` from it, without the decoder.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel, Hoffman, Roberts, 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Latents"]

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..display import html_table
from ..errors import CacheError, InputError, ShapeError, UnknownNameError
from .content import first_rows, in_share
from .manifest import Listing, read_manifest, write_cache
from .moments import aggregate, finite_floats
from .names import attribute_names, checked_labels
from .tables import Memory, Relabelled, Stored, Table


class Encoder(Protocol):
    """The attributes of a `Decoder` that `Latents.load` compares a cache with."""

    name: str
    latent_shape: tuple[int, ...]

    def fingerprint(self) -> str: ...


class Latents(Dataset["Latents"]):
    """Posterior means, posterior stds and labels of N samples.

    Indexing gives `Latents` in memory, and an int a batch of one. A cache on disk is opened
    without being read: a batch reads only its own rows. To shuffle with torch:
    `DataLoader(latents, sampler=BatchSampler(RandomSampler(latents), 64, False), batch_size=None)`.

    The tensors are the attributes `mean` and `std` `(N, *latent_shape)`, `labels (N, K)`, and
    `index (N,)`, the number of each row's sample in the data set, and `content (N, 16)`, a hash of
    the sample's file or numbers; `std`, `labels` and `content` may be None.
    Of a cache of several shards, each access makes a new copy.

    Arguments:
        mean: Posterior means, `(N, *latent_shape)`, finite.
        std: Posterior standard deviations, the same shape; None for a deterministic encoder.
        labels: `(N, K)` in [0, 1], NaN where unknown.
        names: Names of the K labels.

    Raises:
        InputError: If a value is not finite or out of range, or names are not unique.
        ShapeError: If the shapes do not agree.

    Example:
        >>> latents = Latents(torch.zeros(5, 2), labels=torch.eye(5)[:, :1], names=["Smiling"])
        >>> latents
        Latents(5 x (2,), no std, labels: Smiling)
        >>> batch = latents[[0, 3]]
        >>> batch.mean.shape, batch.column("Smiling")
        (torch.Size([2, 2]), tensor([1., 0.]))
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor | None = None,
        labels: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> None:
        if mean.ndim < 2:
            raise ShapeError(f"Means are (N, *latent_shape), these are {tuple(mean.shape)}.")
        if std is not None and std.shape != mean.shape:
            raise ShapeError(
                f"Means {tuple(mean.shape)} and stds {tuple(std.shape)} must have one shape."
            )
        shard = {"mean": finite_floats(mean, "mean"), "index": torch.arange(len(mean))}
        if std is not None:
            shard["std"] = finite_floats(std, "std")
            if bool((shard["std"] < 0).any()):
                raise InputError("Standard deviations must not be negative. Variances or logs?")
        self._build(Memory(shard), (), "")
        if labels is not None or names:
            labelled = self.with_labels(labels, names)
            self._build(labelled._table, labelled.names, "")

    def _build(self, table: Table, names: Sequence[str], fingerprint: str) -> None:
        self._table = table
        self.names = tuple(names)
        self.fingerprint = fingerprint
        self.latent_shape = table.shapes["mean"]

    def _like(self, table: Table, names: Sequence[str] | None = None) -> Latents:
        return _unchecked(table, self.names if names is None else names, self.fingerprint)

    @property
    def mean(self) -> Tensor:
        return self._table.whole("mean")

    @property
    def std(self) -> Tensor | None:
        return self._table.whole("std") if "std" in self._table.shapes else None

    @property
    def labels(self) -> Tensor | None:
        return self._table.whole("labels") if "labels" in self._table.shapes else None

    @property
    def index(self) -> Tensor:
        return self._table.whole("index")

    @property
    def content(self) -> Tensor | None:
        return self._table.whole("content") if "content" in self._table.shapes else None

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Latents:
        if isinstance(index, slice) and isinstance(self._table, Memory):
            return self._like(Memory({k: v[index] for k, v in self._table.shard.items()}))
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        rows = torch.as_tensor(index)
        if rows.dtype == torch.bool and len(rows) == len(self):
            rows = rows.nonzero().flatten()
        rows = rows.reshape(-1).to("cpu", torch.long)
        if len(rows) and not -len(self) <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"There are {len(self)} latents, row {index} is not one of them.")
        return self._like(Memory(self._table.take(rows % max(1, len(self)))))

    def __repr__(self) -> str:
        std = "std" if "std" in self._table.shapes else "no std"
        labels = f"labels: {', '.join(self.names)}" if self.names else "no labels"
        return f"Latents({len(self)} x {self.latent_shape}, {std}, {labels})"

    def _repr_html_(self) -> str:
        means = {f"mean {n}": float(self.column(n).nanmean()) for n in self.names}
        return html_table(repr(self), means)

    def sample(self, eps: Tensor) -> Tensor:
        """`mean + std * eps` with `eps (N, *latent_shape)`; the mean if there is no std.

        Raises:
            ShapeError: If `eps` has another shape.
        """
        mean, std = self.mean, self.std
        if eps.shape != mean.shape:
            raise ShapeError(f"Noise must be {tuple(mean.shape)}, this is {tuple(eps.shape)}.")
        return mean if std is None else mean + std * eps

    def moments(self) -> tuple[Tensor, Tensor]:
        r"""Mean :math:`\mathbb{E}[m]` and std :math:`\sqrt{\mathrm{Var}[m] + \mathbb{E}[s^2]}`.

        Two tensors `latent_shape`, computed once, in float64.

        Example:
            >>> Latents(torch.tensor([[-3.0], [3.0]]), torch.full((2, 1), 4.0)).moments()
            (tensor([0.]), tensor([5.]))
        """
        return self._statistics[:2]

    def posterior_std(self) -> Tensor:
        r"""The mean posterior std of each dimension, :math:`\mathbb{E}[s]`, `latent_shape`.

        Under an N(0, I) prior it is near 1 for a dimension that carries no information about `x`.
        For a deterministic encoder every entry is the root mean square over the dimensions of the
        std of the means: a distance divided by it weights all dimensions alike.
        """
        return self._statistics[2]

    @functools.cached_property
    def _statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        return aggregate((shard["mean"], shard.get("std")) for shard in self._table.pieces())

    def identity(self) -> dict[str, Any]:
        """The decoder's fingerprint, the names, and a hash of the values, or of a cache's files."""
        found = {"decoder": self.fingerprint[:16], "attributes": list(self.names)}
        return {**found, "latents": self._table.digest()}

    def with_labels(self, labels: Tensor | None, names: str | Sequence[str]) -> Latents:
        """The same latents with other labels `(N, K)`, in [0, 1] or NaN, and their names.

        Raises:
            InputError: If names are not unique or reserved, or a label is out of range.
            ShapeError: If the labels are not `(N, K)` with K names.
        """
        names = attribute_names(names, "label")
        if labels is None or labels.shape != (len(self), len(names)):
            found = None if labels is None else tuple(labels.shape)
            raise ShapeError(
                f"{len(names)} names of {len(self)} latents need labels "
                f"{(len(self), len(names))}, found {found}."
            )
        labels = checked_labels(labels, names)
        if isinstance(self._table, Memory):
            return self._like(Memory({**self._table.shard, "labels": labels}), names)
        return self._like(Relabelled(self._table, labels), names)

    def column(self, name: str) -> Tensor:
        """The labels of one name, `(N,)`.

        Raises:
            UnknownNameError: If there is no such label; the message has the nearest names.
        """
        place = self._place(name)
        return torch.cat([shard["labels"][:, place] for shard in self._table.pieces()])

    def select(self, names: str | Sequence[str]) -> Latents:
        """The same latents with these labels only, in this order; refuses names like `column`."""
        names = attribute_names(names, "label")
        table = Relabelled(self._table, None, [self._place(name) for name in names])
        if isinstance(self._table, Memory):
            return self._like(Memory(next(table.pieces())), names)
        return self._like(table, names)

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise UnknownNameError("label", name, self.names)
        return self.names.index(name)

    def split(self, held_out: float, *, seed: int = 0) -> tuple[Latents, Latents]:
        """Latents to train on, and a share that is held out by content, both in memory.

        Equal samples are on one side. Refuses latents that `encode_dataset` did not make.
        """
        chosen = in_share(self.content, held_out, seed)
        return self[~chosen], self[chosen]

    def unique(self) -> Latents:
        """The first of samples that are equal, in memory; refuses like `split`."""
        return self[first_rows(self.content)]

    def to(self, device: torch.device | str) -> Latents:
        """The same latents on another device; a cache stays where it is for the CPU."""
        if not isinstance(self._table, Memory) and torch.device(device).type == "cpu":
            return self
        return self._like(Memory({k: self._table.whole(k).to(device) for k in self._table.shapes}))

    def save(self, path: str | Path) -> None:
        """Write a cache that `load` reads, in place of an older one.

        Raises:
            CacheError: If it cannot be written, or `path` is a file.
        """
        pieces = self._table.pieces()
        write_cache(Path(path), pieces, names=self.names, fingerprint=self.fingerprint)

    @classmethod
    def load(cls, path: str | Path, *, decoder: Encoder | None = None) -> Latents:
        """The latents of a cache, without reading its shards.

        A shard is compared with the listing when it is first used: its size and time, or else its
        hash. Every byte is compared by `latentctl verify CACHE`.

        Arguments:
            path: A folder written by `encode_dataset` or `save`.
            decoder: The decoder that the latents must belong to. Of latents that were not made by
                `encode_dataset`, only the shape is compared.

        Raises:
            CacheError: If it is unfinished, or of another decoder; and as soon as a shard is used
                that is missing, truncated or corrupted.
        """
        folder = Path(path)
        latents = open_cache(folder, *read_manifest(folder))
        if decoder is None:
            return latents
        if latents.fingerprint not in ("", found := decoder.fingerprint()):
            raise CacheError(
                f"{folder} was encoded by another decoder ({latents.fingerprint[:12]}...) than "
                f"{decoder.name} ({found[:12]}...). Load that one, or encode into another folder."
            )
        if latents.latent_shape != decoder.latent_shape:
            raise CacheError(
                f"{folder} holds latents {latents.latent_shape}, {decoder.name} decodes "
                f"{decoder.latent_shape}. Load the decoder that they belong to."
            )
        return latents


def open_cache(folder: Path, manifest: dict[str, Any], listing: Listing) -> Latents:
    """The latents of a cache."""
    table = Stored(folder, manifest, listing)
    return _unchecked(table, manifest["names"], manifest["fingerprint"])


def _unchecked(table: Table, names: Sequence[str], fingerprint: str) -> Latents:
    latents = object.__new__(Latents)  # without the validation of __init__
    latents._build(table, names, fingerprint)
    return latents

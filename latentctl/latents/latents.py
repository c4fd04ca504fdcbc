r"""Latents: a data set as its decoder's encoder sees it, computed once and read ever after.

For each sample the cache holds the posterior :math:`q(z \mid x) = \mathcal{N}(m, s^2)` and the
labels. Training draws :math:`z = m + s \epsilon` from it, and never meets the decoder. The mean
posterior width says how much a dimension is used: near 1 under an N(0, I) prior for one that
carries nothing, small for one that carries much.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel, Hoffman, Roberts, 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Latents"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import CacheError, InputError, ShapeError, UnknownNameError
from .moments import aggregate
from .shards import Shard, ShardFile, open_shard, verified_manifest, write_manifest, write_shard


class Encoder(Protocol):
    """What `Latents.load` compares a cache with: a `Decoder`, which stands above this room."""

    name: str
    latent_shape: tuple[int, ...]

    def fingerprint(self) -> str: ...


class Latents(Dataset["Latents"]):
    """Posterior means, posterior widths and labels of N samples.

    Indexing gives a batch, which is again `Latents`, in memory: an int gives a batch of one. A
    cache on disk is read memory-mapped, and a batch touches only its own rows. To shuffle with
    torch: `DataLoader(latents, sampler=BatchSampler(RandomSampler(latents), 64, False),
    batch_size=None)`.

    Arguments:
        mean: Posterior means, `(N, *latent_shape)`, finite.
        std: Posterior standard deviations, the same shape; None for a deterministic encoder.
        labels: `(N, K)` in [0, 1], NaN where unknown.
        names: Names of the K labels.

    Raises:
        InputError: If a value is not finite or out of its range, or the names do not fit.
        ShapeError: If the shapes do not fit together.

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
        shard = {"mean": _floats(mean, "mean"), "index": torch.arange(len(mean))}
        if std is not None:
            shard["std"] = _floats(std, "std")
            if bool((shard["std"] < 0).any()):
                raise InputError("Standard deviations must not be negative. Variances or logs?")
        self._build([shard], (), "")
        if labels is not None or names:
            labelled = self.with_labels(labels, names)
            self._build(labelled._shards, labelled.names, "")

    def _build(self, shards: list[Shard], names: Sequence[str], fingerprint: str) -> None:
        self._shards = shards
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + len(shard["mean"]))
        self._moments: tuple[Tensor, Tensor, Tensor] | None = None
        self.names = tuple(names)
        self.fingerprint = fingerprint
        self.latent_shape = tuple(shards[0]["mean"].shape[1:])

    def _like(self, shards: list[Shard], names: Sequence[str] | None = None) -> Latents:
        other = object.__new__(Latents)  # rows that were checked once are not checked again
        other._build(shards, self.names if names is None else names, self.fingerprint)
        return other

    @property
    def mean(self) -> Tensor:
        """All means `(N, *latent_shape)`; of several shards, a new copy at every call."""
        return self._whole("mean")

    @property
    def std(self) -> Tensor | None:
        """All standard deviations, or None; of several shards, a new copy at every call."""
        return self._whole("std") if "std" in self._shards[0] else None

    @property
    def labels(self) -> Tensor | None:
        """All labels `(N, K)`, or None; of several shards, a new copy at every call."""
        return self._whole("labels") if "labels" in self._shards[0] else None

    @property
    def index(self) -> Tensor:
        """Which sample of the data set each row is, `(N,)`: not 0 ... N - 1 if some were bad."""
        return self._whole("index")

    def _whole(self, key: str) -> Tensor:
        if len(self._shards) == 1:
            return self._shards[0][key]
        return torch.cat([shard[key] for shard in self._shards])

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Latents:
        if isinstance(index, slice) and len(self._shards) == 1:
            return self._like([{key: value[index] for key, value in self._shards[0].items()}])
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        rows = torch.as_tensor(index)
        if rows.dtype == torch.bool and len(rows) == len(self):
            rows = rows.nonzero().flatten()
        rows = rows.reshape(-1).to("cpu", torch.long)
        if len(rows) and not -len(self) <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"There are {len(self)} latents, row {index} is not one of them.")
        return self._like([self._gather(rows % max(1, len(self)))])

    def _gather(self, rows: Tensor) -> Shard:
        if len(self._shards) == 1:
            return {key: value[rows.to(value.device)] for key, value in self._shards[0].items()}
        # by shard, so that each is read once and in the order of its file
        order = rows.argsort()
        ordered = rows[order]
        bounds = torch.searchsorted(ordered, torch.tensor(self._starts)).tolist()
        pieces: dict[str, list[Tensor]] = {key: [] for key in self._shards[0]}
        for number, shard in enumerate(self._shards):
            here = ordered[bounds[number] : bounds[number + 1]] - self._starts[number]
            if len(here) or number == 0:
                for key, value in shard.items():
                    pieces[key].append(value[here])
        back = order.argsort()
        return {key: torch.cat(value)[back] for key, value in pieces.items()}

    def __repr__(self) -> str:
        std = "std" if "std" in self._shards[0] else "no std"
        labels = f"labels: {', '.join(self.names)}" if self.names else "no labels"
        return f"Latents({len(self)} x {self.latent_shape}, {std}, {labels})"

    def sample(self, eps: Tensor) -> Tensor:
        """Draws `mean + std * eps`, with `eps (N, *latent_shape)`; the mean where there is no std.

        Raises:
            ShapeError: If `eps` has another shape.
        """
        mean, std = self.mean, self.std
        if eps.shape != mean.shape:
            raise ShapeError(f"Noise must be {tuple(mean.shape)}, it is {tuple(eps.shape)}.")
        return mean if std is None else mean + std * eps

    def moments(self) -> tuple[Tensor, Tensor]:
        r"""Mean :math:`\mathbb{E}[m]` and std :math:`\sqrt{\mathrm{Var}[m] + \mathbb{E}[s^2]}`.

        Returns:
            Two tensors `latent_shape`, computed in float64 a thousand rows at a time, once.

        Example:
            >>> Latents(torch.tensor([[-3.0], [3.0]]), torch.full((2, 1), 4.0)).moments()
            (tensor([0.]), tensor([5.]))
        """
        return self._statistics()[:2]

    def posterior_std(self) -> Tensor:
        r"""How wide the posterior is in each dimension: :math:`\bar\sigma = \mathbb{E}[s]`.

        Returns:
            A tensor `latent_shape`. Without posterior stds nothing is known of the dimensions'
            use, so all of it is one number, the root mean square over the dimensions of the std
            of the means: a distance divided by it counts every dimension alike, in units of the
            data's own spread.
        """
        return self._statistics()[2]

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._moments is None:
            self._moments = aggregate((s["mean"], s.get("std")) for s in self._shards)
        return self._moments

    def with_labels(self, labels: Tensor | None, names: Sequence[str]) -> Latents:
        """The same latents with other labels `(N, K)`, in [0, 1] or NaN, called `names`.

        Raises:
            InputError: If the names are not unique, or a label is out of range.
            ShapeError: If the labels are not `(N, K)` with K names.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        if len(set(names)) != len(names):
            raise InputError(f"Names of labels must be unique, these are {', '.join(names)}.")
        if labels is None or labels.shape != (len(self), len(names)):
            found = None if labels is None else tuple(labels.shape)
            raise ShapeError(
                f"{len(names)} names of {len(self)} latents need labels "
                f"{(len(self), len(names))}, found {found}."
            )
        labels = labels.to(torch.float32)
        outside = (labels < 0) | (labels > 1)
        if bool(outside.any()):
            row, column = outside.nonzero()[0].tolist()
            raise InputError(
                f"Labels are in [0, 1] or NaN for unknown; {names[column]!r} of row {row} is "
                f"{float(labels[row, column]):g}. Map -1 to 0, or to NaN if it means unknown."
            )
        parts = labels.split([len(shard["mean"]) for shard in self._shards])
        shards = [{**s, "labels": part} for s, part in zip(self._shards, parts, strict=True)]
        return self._like(shards, names)

    def column(self, name: str) -> Tensor:
        """The labels of one name, `(N,)`.

        Raises:
            UnknownNameError: If there is no such label; the message has the nearest names.
        """
        return torch.cat([s["labels"][:, self._place(name)] for s in self._shards])

    def select(self, names: Sequence[str]) -> Latents:
        """The same latents with these labels only, in this order.

        Raises:
            UnknownNameError: If there is no such label; the message has the nearest names.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        places = [self._place(name) for name in names]
        if not places:
            return self._like(
                [{k: v for k, v in s.items() if k != "labels"} for s in self._shards], ()
            )
        return self._like([{**s, "labels": s["labels"][:, places]} for s in self._shards], names)

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise UnknownNameError("label", name, self.names)
        return self.names.index(name)

    def to(self, device: torch.device | str) -> Latents:
        """The same latents on another device."""
        return self._like([{k: v.to(device) for k, v in s.items()} for s in self._shards])

    def save(self, path: str | Path) -> None:
        """Write a cache that `load` reads; an older cache there is replaced at the last moment.

        Raises:
            CacheError: If the disk is full, or `path` is no folder.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise CacheError(f"{folder} is a file. Choose a folder.")
        files = [
            write_shard(
                folder,
                number,
                {key: value.cpu() for key, value in shard.items()},
                {"start": self._starts[number], "stop": self._starts[number + 1]},
            )
            for number, shard in enumerate(self._shards)
        ]
        write_manifest(folder, files, {"names": self.names, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path, *, decoder: Encoder | None = None) -> Latents:
        """Read a cache memory-mapped, after every byte of it was verified.

        Arguments:
            path: A folder written by `encode_dataset` or `save`.
            decoder: The decoder that the latents must belong to. Latents made by hand belong to
                none, and are then only checked for their shape.

        Raises:
            CacheError: If the cache is unfinished, cut, altered, or of another decoder.
        """
        folder = Path(path)
        latents = open_cache(folder, verified_manifest(folder))
        if decoder is None:
            return latents
        found = decoder.fingerprint()
        if latents.fingerprint not in ("", found):
            raise CacheError(
                f"{folder} was encoded by another decoder ({latents.fingerprint[:12]}...) than "
                f"{decoder.name} ({found[:12]}...). Encode the data again into another folder, or "
                f"load the decoder that it was made with."
            )
        if latents.latent_shape != decoder.latent_shape:
            raise CacheError(
                f"{folder} holds latents {latents.latent_shape}, {decoder.name} decodes "
                f"{decoder.latent_shape}."
            )
        return latents


def open_cache(folder: Path, manifest: dict[str, Any]) -> Latents:
    """The latents of a manifest whose shards were verified a moment ago."""
    files = [ShardFile(**shard) for shard in manifest["shards"]]
    # a shard whose samples were all bad has no latents; one is kept if there is nothing else
    shards = [open_shard(folder / file.name) for file in files if file.rows] or [
        open_shard(folder / files[0].name)
    ]
    latents = object.__new__(Latents)
    latents._build(shards, manifest["names"], manifest["fingerprint"])
    return latents


def _floats(value: Tensor, what: str) -> Tensor:
    value = value.detach().to(torch.float32)
    if not bool(torch.isfinite(value).all()):
        rows = (~torch.isfinite(value.flatten(1))).any(1).nonzero().flatten().tolist()
        raise InputError(f"Every {what} must be finite; rows {rows[:8]} are not.")
    return value

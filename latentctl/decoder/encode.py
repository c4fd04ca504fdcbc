r"""Encoding a data set once, into a cache that is resumed after an interruption.

Samples :math:`kn \ldots (k+1)n - 1` are shard :math:`k`, a task that any process may do: those that
call `encode_dataset` with the same folder share the work by claims, wherever and whenever they are
started, and wait for each other only at the end. The cache does not depend on their number, memory
is bounded by a shard and its serialised form, and a process that ends leaves its finished shards.
"""

from __future__ import annotations

__all__ = ["complete", "encode_dataset", "prepare"]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import AdapterError, CacheError, InputError, check_kind
from ..latents.latents import Latents, open_cache
from ..latents.names import attribute_names
from ..storage.claims import Claims
from .dataset import SampleReader, Source
from .decoder import Decoder
from .division import sizes_at_seals
from .encode_identity import identify
from .encode_job import EncodeJob

CLAIMS = ".claims"  # folder of the claims on shards that are being encoded
SEAL = "seal"
STORED = ("float32", "float16", "bfloat16")


def encode_dataset(
    decoder: Decoder,
    dataset: Any,
    path: str | Path,
    *,
    attributes: Sequence[str] | None = None,
    image_column: str = "image",
    batch_size: int = 64,
    shard_size: int = 4096,
    on_bad_sample: Literal["raise", "skip"] = "raise",
    transform: Callable[[Any], Any] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    num_workers: int = 0,
    grow: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Latents:
    """The posterior and the labels of every sample, in a cache at `path`.

    A finished cache of the same data and decoder is read; shards of an unfinished or corrupted one
    are encoded.

    Arguments:
        decoder: A decoder with an encoder, on the device that encodes.
        dataset: Map-style (`__len__` and `__getitem__`) or a stream (`__iter__`). Rows are
            mappings, pairs `(x, labels)` or `x`, see `latentctl.decoder.dataset`. A stream of
            `datasets` in several files is divided by them; any other stream is read whole by
            each process, which encodes its share.
        path: Folder of the cache, the same for all processes that share the work, such as those
            of `accelerate launch`, on one machine or several.
        attributes: Names of the label columns; of pairs, a name for every label. None: no labels.
        image_column: Key of the sample in a mapping.
        batch_size: Samples that are encoded together.
        shard_size: Samples per file. No more than two shards are in memory at a time.
        on_bad_sample: "raise" with index, file and reason; or "skip", which records the sample in
            the manifest.
        transform: Applied to `x` (images as PIL) before it becomes a tensor `sample_shape`.
            Torch's CPU generator is seeded for each sample.
        dtype: Type in which means and stds are stored; they are read as float32. The manifest has
            the largest absolute error of each, `errors`.
        num_workers: Processes that read and decode samples while the device encodes, as of a
            `DataLoader`; 0 reads between the batches.
        grow: Extend a cache by the rows, or the files of a stream, that follow those that it has.
            Of the latter the first and the last row are compared. Their shards stay as they are,
            and the cache is whole at any time.
        seed: Seed of `transform`.
        progress: Show a bar on the main process.

    Returns:
        The cache on disk. Rows are in the order of the data set.

    Raises:
        AdapterError: If the decoder has no encoder.
        CacheError: If `path` holds a cache of another decoder, data set or labels, or cannot be
            written. Finished shards are kept.
        InputError: If a sample cannot be used, or there is none.
        UnknownNameError: If a column does not exist; the message has the nearest names.

    Example:
        >>> import tempfile, torch, latentctl
        >>> from torch import nn
        >>> model = nn.ModuleDict({"encoder": nn.Linear(3, 2), "decoder": nn.Linear(2, 3)})
        >>> decoder = Decoder(model, lambda m, z: m["decoder"](z),
        ...                   lambda m, x: latentctl.decoder.Posterior(m["encoder"](x)),
        ...                   latent_shape=(2,), sample_shape=(3,), value_range=None)
        >>> encode_dataset(decoder, torch.ones(5, 3), tempfile.mkdtemp(), progress=False)
        Latents(5 x (2,), no std, no labels)
    """
    job = prepare(
        decoder,
        dataset,
        path,
        attributes=attributes,
        image_column=image_column,
        batch_size=batch_size,
        shard_size=shard_size,
        on_bad_sample=on_bad_sample,
        transform=transform,
        dtype=dtype,
        num_workers=num_workers,
        grow=grow,
        seed=seed,
    )
    return complete(job, progress)


def prepare(
    decoder: Decoder,
    dataset: Any,
    path: str | Path,
    *,
    attributes: Sequence[str] | None = None,
    image_column: str = "image",
    batch_size: int = 64,
    shard_size: int = 4096,
    on_bad_sample: Literal["raise", "skip"] = "raise",
    transform: Callable[[Any], Any] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    num_workers: int = 0,
    grow: bool = False,
    seed: int = 0,
) -> EncodeJob:
    """The job of `encode_dataset`, with its arguments, of which nothing is done yet."""
    check_kind(decoder, Decoder, "decoder=", "Wrap your model: latentctl.wrap(model).")
    if not decoder.can_encode:
        raise AdapterError(f"{decoder.name} has no encoder. Pass latentctl.wrap(..., encode=...).")
    if on_bad_sample not in ("raise", "skip"):
        raise InputError(f'on_bad_sample is "raise" or "skip", not {on_bad_sample!r}.')
    if dtype not in STORED:
        raise InputError(f"dtype is {', '.join(STORED)}, not {dtype!r}.")
    if batch_size < 1 or shard_size < 1 or num_workers < 0:
        raise InputError(
            f"Sizes must be >= 1: batch {batch_size}, shard {shard_size}; workers >= 0: "
            f"{num_workers}."
        )
    names = attribute_names(attributes or ())
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file. Choose a folder.")
    source = Source(dataset, image_column)
    if source.parts == 1 and not source.has(0):
        raise InputError("The data set is empty.")
    reader = SampleReader(decoder, source, names, image_column, transform, seed)
    identity = identify(reader, shard_size, dtype, _pieces(folder, source, grow))
    return EncodeJob(reader, folder, identity, batch_size, on_bad_sample == "skip", num_workers)


def _pieces(folder: Path, source: Source, grow: bool) -> list[int]:
    """What the cache had at its seals before this job, if it is one that has grown or grows."""
    now = source.parts if source.streaming else source.length
    if grow and source.streaming and source.parts == 1:
        raise InputError(
            "A stream in one part cannot grow a cache: its rows are not counted. Give a data set "
            "with a length, or a stream of `datasets` in several files, to which files were added."
        )
    sizes = sizes_at_seals(folder, "parts" if source.streaming else "length")
    if sizes and now is not None and (sizes[-1] == now or (grow and sizes[-1] < now)):
        return sizes[:-1] if sizes[-1] == now else sizes
    return []


def complete(job: EncodeJob, progress: bool) -> Latents:
    """The cache of a job, after this process did what nobody else does, and waited for the rest."""
    claims = Claims(job.folder / CLAIMS)
    try:
        while (found := job.finished()) is None:
            job.run(claims, progress)
            while missing := job.missing():
                if any(_is_open(job, claims, task) for task in missing):
                    job.run(claims, progress)
                else:
                    claims.wait()
            _seal(job, claims)
    except OSError as error:
        raise CacheError(
            f"Cannot write into {job.folder}: {error}. Free some disk space, or choose another "
            f"folder. Finished shards are kept."
        ) from error
    except BaseException:
        claims.remove_empty()  # of a job that wrote nothing, nothing is left
        raise
    claims.remove()
    return open_cache(job.folder, *found)


def _seal(job: EncodeJob, claims: Claims) -> None:
    """Seal the cache, or wait a little while another process does."""
    if not claims.take(SEAL):
        claims.wait()
        return
    try:
        for task in job.seal():
            claims.release(task)
    finally:
        claims.release(SEAL)


def _is_open(job: EncodeJob, claims: Claims, task: str) -> bool:
    """Whether nobody does a task whose shards are missing."""
    if claims.is_done(task) and task in job.missing():
        claims.release(task)  # its shard was deleted
    return claims.is_free(task)

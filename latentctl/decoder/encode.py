r"""Encoding a data set once, into a cache that is resumed after an interruption.

Samples :math:`kn \ldots (k+1)n - 1` are shard :math:`k`, encoded by process :math:`k \bmod P` and
written as soon as it is complete. The cache does not depend on the number of processes, memory is
bounded by a shard and its serialised form, and an interrupted run resumes after the last finished
shard.
"""

from __future__ import annotations

__all__ = ["encode_dataset"]

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import AdapterError, CacheError, InputError, check_kind
from ..latents.latents import Latents, open_cache
from ..latents.names import attribute_names
from ..latents.shards import read_manifest
from ..storage.lock import held
from .dataset import SampleReader, Source
from .decoder import Decoder
from .encode_job import EncodeJob, identify

if TYPE_CHECKING:
    from accelerate import Accelerator


def encode_dataset(
    decoder: Decoder,
    dataset: Any,
    path: str | Path,
    *,
    attributes: Sequence[str] | None = None,
    image_column: str = "image",
    batch_size: int = 64,
    shard_size: int = 4096,
    accelerator: Accelerator | None = None,
    on_bad_sample: Literal["raise", "skip"] = "raise",
    transform: Callable[[Any], Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Latents:
    """The posterior and the labels of every sample, in a cache at `path`.

    A finished cache of the same data and decoder is read; shards of an unfinished or corrupted one
    are encoded.

    Arguments:
        decoder: A decoder with an encoder, on the device that encodes.
        dataset: Map-style (`__len__` and `__getitem__`) or a stream (`__iter__`). Rows are
            mappings, pairs `(x, labels)` or `x`, see `latentctl.decoder.dataset`.
        path: Folder of the cache, the same for all processes.
        attributes: Names of the label columns; of pairs, a name for every label. None: no labels.
        image_column: Key of the sample in a mapping.
        batch_size: Samples that are encoded together.
        shard_size: Samples per file. No more than two shards are in memory at a time.
        accelerator: Whose processes share the work. If not given, those of `accelerate launch`.
        on_bad_sample: "raise" with index, file and reason; or "skip", which records the sample in
            the manifest.
        transform: Applied to `x` (images as PIL) before it becomes a tensor `sample_shape`.
            Torch's CPU generator is seeded for each sample.
        seed: Seed of `transform`.
        progress: Show a bar on the main process.

    Returns:
        The memory-mapped cache. Rows are in the order of the data set.

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
    check_kind(decoder, Decoder, "decoder=", "Wrap your model: latentctl.wrap(model).")
    if not decoder.can_encode:
        raise AdapterError(f"{decoder.name} has no encoder. Pass latentctl.wrap(..., encode=...).")
    if on_bad_sample not in ("raise", "skip"):
        raise InputError(f'on_bad_sample is "raise" or "skip", not {on_bad_sample!r}.')
    if batch_size < 1 or shard_size < 1:
        raise InputError(f"Sizes must be >= 1: batch {batch_size}, shard {shard_size}.")
    names = attribute_names(attributes or ())
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file. Choose a folder.")
    rank, world, wait = _processes(accelerator)
    source = Source(dataset, image_column)
    if not source.has(0):
        raise InputError("The data set is empty.")
    reader = SampleReader(decoder, source, names, image_column, transform, seed)
    identity = identify(reader, shard_size)
    job = EncodeJob(reader, folder, identity, rank, world, batch_size, on_bad_sample == "skip")
    manifest = job.finished()
    done = set() if manifest else job.done()
    wait()  # every process has read before one writes
    if manifest is None:
        # several processes share the folder; a recipe holds the one around it
        with held(folder, CacheError) if world == 1 else contextlib.nullcontext():
            job.run(done, progress)
            wait()
            if rank == 0:
                job.commit()
            wait()
        manifest = read_manifest(folder)
    return open_cache(folder, manifest)


def _processes(accelerator: Accelerator | None) -> tuple[int, int, Callable[[], Any]]:
    if accelerator is None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, lambda: None
    from accelerate import PartialState

    state = PartialState() if accelerator is None else accelerator
    return state.process_index, state.num_processes, state.wait_for_everyone

"""Peak memory of encoding a large stream, beside the size of two shards; and the cost of a batch.

Each measurement is a process of its own, so that its peak is its own:

    python -m benchmarks.systems.cache_memory --samples 200000

The encoder is one matrix product, so what is measured is the cache and not a network. Anonymous
memory belongs to the process; the system may reclaim pages of the mapped cache.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.shared.run import BaseFlags, Row, in_process, report, run, write
from latentctl.decoder import Decoder, Posterior, encode_dataset
from latentctl.latents import Latents
from latentctl.random import generator, noise

SHAPE = (3, 8, 8)
MIB = 2**20


@dataclass
class Flags(BaseFlags):
    samples: int = 200_000
    latent_size: int = 256
    shard_size: int = 4096
    output_dir: Path = Path("outputs/cache_memory")


def pictures(samples: int) -> Iterator[Tensor]:
    """A stream of random pictures, of which one block is in memory at a time."""
    for start in range(0, samples, 256):
        yield from noise(start, min(256, samples - start), SHAPE, seed=0, uniform=True)


def linear_decoder(latent_size: int) -> Decoder:
    model = nn.Linear(3 * 8 * 8, latent_size)
    nn.init.normal_(model.weight, generator=generator(0, purpose="weights"))
    nn.init.zeros_(model.bias)
    return Decoder(
        model,
        lambda model, z: (z @ model.weight).unflatten(1, SHAPE),
        lambda model, x: Posterior(model(x.flatten(1)), torch.ones(len(x), latent_size)),
        latent_shape=(latent_size,),
        sample_shape=SHAPE,
    )


def memory(key: str) -> float:
    """MiB of this process, by a key of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def encode(path: Path, flags: Flags) -> Row:
    torch.set_num_threads(flags.num_threads)
    decoder = linear_decoder(flags.latent_size)
    sized = {"batch_size": 256, "shard_size": flags.shard_size, "progress": False}
    # a set of one batch loads what is loaded at first use
    encode_dataset(decoder, pictures(256), path / "warm", **sized)
    before, mapped = peak(), memory("RssFile")
    started = time.perf_counter()
    latents = encode_dataset(decoder, pictures(flags.samples), path / "cache", **sized)
    row_size = (8 * flags.latent_size + 8) / MIB
    return {
        "encoded": len(latents),
        "seconds": time.perf_counter() - started,
        "MiB at the start": before,
        "peak MiB above it": peak() - before,
        "of these pages of the shards, opened at the end": memory("RssFile") - mapped,
        "MiB of two shards": 2 * flags.shard_size * row_size,
        "MiB of the cache": flags.samples * row_size,
    }


def read(path: Path, flags: Flags) -> Row:
    torch.set_num_threads(flags.num_threads)
    Latents.load(path / "cache")[[0]]
    latents = Latents.load(path / "cache")
    owned, resident = memory("RssAnon"), memory("VmRSS")
    draw = generator(0, purpose="rows")
    times = []
    for _ in range(100):
        rows = torch.randint(len(latents), (256,), generator=draw)
        started = time.perf_counter()
        latents[rows]
        times.append(time.perf_counter() - started)
    row = {
        "random batch of 256, median ms": 1e3 * median(times),
        "MiB owned after 100 batches": memory("RssAnon") - owned,
        "MiB resident": memory("VmRSS") - resident,
    }
    started = time.perf_counter()
    latents.moments()
    row["moments of all rows, s"] = time.perf_counter() - started
    return {**row, "MiB owned after them": memory("RssAnon") - owned}


def main(flags: Flags) -> None:
    with tempfile.TemporaryDirectory() as path:
        rows = [report(in_process(work, Path(path), flags)) for work in (encode, read)]
    write(flags.output_dir / "cache_memory.json", rows)


if __name__ == "__main__":
    run(main, Flags)

"""Peak memory of encoding a large stream, beside the size of two shards; and the cost of a batch.

Each measurement is a process of its own, so that its peak is its own:

    python benchmarks/cache_memory.py --samples 200000

The encoder is one matrix product, so what is measured is the cache and not a network. Anonymous
memory is what the process owns; pages of the mapped cache are the system's to take back.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from latentctl.decoder import Decoder, Posterior
from latentctl.decoder.encode import encode_dataset
from latentctl.latents.latents import open_cache
from latentctl.latents.shards import read_manifest
from latentctl.random import generator, noise

SHAPE = (3, 8, 8)
MIB = 2**20


class Generated:
    """A stream of random pictures: nothing of it is ever in memory but a block."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.samples, 256):
            count = min(256, self.samples - start)
            yield from noise(start, count, SHAPE, seed=0, uniform=True)


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
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def encode(path: Path, options: argparse.Namespace) -> None:
    decoder = linear_decoder(options.latent_size)
    sized = {"batch_size": 256, "shard_size": options.shard_size, "progress": False}
    # whatever is loaded at first use is loaded here: a set of one batch
    encode_dataset(decoder, Generated(256), path / "warm", **sized)
    before, mapped = peak(), memory("RssFile")
    started = time.perf_counter()
    latents = encode_dataset(decoder, Generated(options.samples), path / "cache", **sized)
    seconds = time.perf_counter() - started
    two = 2 * options.shard_size * (8 * options.latent_size + 8) / MIB
    whole = options.samples * (8 * options.latent_size + 8) / MIB
    mapped = memory("RssFile") - mapped
    print(
        f"encode  {len(latents)} samples in {seconds:.1f} s: peak {peak() - before:.1f} MiB above "
        f"the start ({before:.0f} MiB), {mapped:.1f} MiB of it pages of the {len(latents._shards)} "
        f"shards as they are opened at the end; two shards are {two:.1f} MiB, the cache "
        f"{whole:.0f} MiB"
    )


def read(path: Path, options: argparse.Namespace) -> None:
    folder = path / "cache"
    manifest = read_manifest(folder)
    open_cache(folder, manifest)[[0]]
    latents = open_cache(folder, manifest)
    owned, resident = memory("RssAnon"), memory("VmRSS")
    draw = generator(0, purpose="rows")
    times = []
    for _ in range(100):
        rows = torch.randint(len(latents), (256,), generator=draw)
        started = time.perf_counter()
        latents[rows]
        times.append(time.perf_counter() - started)
    print(
        f"read    random batch of 256 from {len(latents)} x {options.latent_size} in "
        f"{len(manifest['shards'])} shards: median {sorted(times)[50] * 1e3:.2f} ms; after 100 "
        f"batches {memory('RssAnon') - owned:.1f} MiB owned, {memory('VmRSS') - resident:.1f} MiB "
        f"resident in all"
    )
    started = time.perf_counter()
    latents.moments()
    print(
        f"moments of all rows in {time.perf_counter() - started:.2f} s, "
        f"{memory('RssAnon') - owned:.1f} MiB owned"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--latent_size", type=int, default=256)
    parser.add_argument("--shard_size", type=int, default=4096)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=["encode", "read"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.task:
        {"encode": encode, "read": read}[options.task](options.path, options)
        return
    with tempfile.TemporaryDirectory() as path:
        for task in ("encode", "read"):
            command = [sys.executable, __file__, *sys.argv[1:], "--path", path, "--task", task]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

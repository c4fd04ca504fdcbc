"""A cache of 250,000 shards, 10^9 samples: what opening it and taking a random batch cost.

The shards are hard links to a few files with real content, so that the names, the listing and the
files' headers are those of a cache of its size, and the disk is not:

    python -m benchmarks.systems.opening --shards 250000

Measured in processes of their own: memory is that of the process above an empty import.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.shared.run import BaseFlags, Row, in_process, report, run, write
from benchmarks.systems.cache_memory import memory, peak
from latentctl.latents import Latents
from latentctl.latents.manifest import write_manifest
from latentctl.latents.shards import write_shard
from latentctl.random import generator, noise

LINKS = 50_000  # to one file; file systems have limits


@dataclass
class Flags(BaseFlags):
    shards: int = 250_000
    rows: int = 4000
    latent_size: int = 16
    batch: int = 256
    batches: int = 50
    output_dir: Path = Path("outputs/opening")


def make(folder: Path, flags: Flags) -> Row:
    """Writes the cache."""
    entries, entry = list[dict[str, Any]](), dict[str, Any]()
    for number in range(flags.shards):
        start = number * flags.rows
        if number % LINKS == 0:
            z = noise(start, flags.rows, (flags.latent_size,), seed=0)
            tensors = {"mean": z, "std": torch.ones_like(z), "index": torch.arange(flags.rows)}
            notes = {"start": start, "stop": start + flags.rows, "skipped": []}
            entry = write_shard(folder, (0, number), tensors, notes)
            first = folder / entry["name"]
        else:
            name = f"shard-00000-{number:05d}-{entry['sha256'][:16]}.safetensors"
            os.link(first, folder / name)
            entry = {**entry, "number": number, "name": name, "start": start}
        entries.append(entry)
    content = {"names": [], "fingerprint": hashlib.sha256(b"").hexdigest()}
    started = time.perf_counter()
    write_manifest(folder, entries, content)
    return {"shards": len(entries), "seconds to write the manifest": time.perf_counter() - started}


def measure(folder: Path, flags: Flags) -> Row:
    """Opens the cache, and takes random batches."""
    torch.set_num_threads(flags.num_threads)
    before, owned = peak(), memory("VmRSS")
    started = time.perf_counter()
    latents = Latents.load(folder)
    opened, at_most = time.perf_counter() - started, peak() - before
    draw, times, cpu = generator(0, purpose="rows"), list[float](), list[float]()
    for _ in range(flags.batches):
        rows = torch.randint(len(latents), (flags.batch,), generator=draw)
        started, used = time.perf_counter(), time.process_time()
        batch = latents[rows]
        cpu.append(1e3 * (time.process_time() - used))
        times.append(1e3 * (time.perf_counter() - started))
        assert bool((batch.index == rows).all())
    return {
        "samples": len(latents),
        "seconds to open": opened,
        "peak MiB above the import": at_most,
        f"random batch of {flags.batch}, first, ms": times[0],
        "median": median(times),
        "95th percentile": quantiles(times, n=20)[-1],
        "median of CPU": median(cpu),
        "MiB resident above the import after all batches": memory("VmRSS") - owned,
    }


def main(flags: Flags) -> None:
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=flags.output_dir) as path:
        rows = [report(in_process(work, Path(path), flags)) for work in (make, measure)]
    write(flags.output_dir / "opening.json", rows)


if __name__ == "__main__":
    run(main, Flags)

"""Encoding by tasks: killed, doubled and out of order, against one process; and how it scales.

    python -m benchmarks.systems.tasks --samples 1000000

Samples are rows of a mapped array of 16 numbers, the encoder is one matrix product: what is
measured is the library. 20 tasks in random order, of which three are killed with -9 and one is
started twice at the same time; the clock of one process is wrong. Each row that is read is counted.
With `--part processes` two processes share the work by claims, with an encoder that costs
`--milliseconds` of CPU a sample; with `--part waiting` pictures of 512 px are decoded by workers
beside an encoder that takes its time without the CPU, as a device does.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.shared.run import BaseFlags, Row, in_process, report, run, write
from benchmarks.systems.cache_memory import peak
from latentctl.decoder import Decoder, Posterior
from latentctl.decoder.encode import complete, prepare
from latentctl.decoder.encode_job import EncodeJob
from latentctl.decoder.shares import Given
from latentctl.latents import Latents
from latentctl.random import generator

SIZE, TASKS = 16, 20


@dataclass
class Flags(BaseFlags):
    samples: int = 1_000_000
    shard_size: int = 4096
    part: str = "tasks"  # tasks, processes, waiting
    milliseconds: float = 1.0  # of CPU a sample, of the encoder of `processes`
    output_dir: Path = Path("outputs/tasks")


class Rows:
    """Rows of a file; those that are read are counted, and one kills its reader."""

    def __init__(self, file: Path, killer: int = -1) -> None:
        self.x = torch.from_numpy(np.load(file, mmap_mode="c"))
        self.killer, self.count = killer, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        self.count += 1
        if index == self.killer:
            note(self.count)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.x[index]


def note(count: int) -> None:
    with open(os.environ["READ"], "a") as file:
        file.write(f"{count}\n")


def decoder(milliseconds: float = 0.0) -> Decoder:
    model = nn.Linear(SIZE, 8)
    nn.init.normal_(model.weight, generator=generator(0, purpose="weights"))
    nn.init.zeros_(model.bias)

    def encode(model: Any, x: Tensor) -> Posterior:
        until = time.process_time() + milliseconds / 1e3 * len(x)
        while time.process_time() < until:
            pass
        return Posterior(model(x), torch.ones(len(x), 8))

    return Decoder(
        model,
        lambda model, z: z @ model.weight,
        encode,
        latent_shape=(8,),
        sample_shape=(SIZE,),
        value_range=None,
    )


def job(path: Path, name: str, flags: Flags, killer: int = -1, ms: float = 0.0) -> EncodeJob:
    rows = Rows(path / "x.npy", killer)
    return prepare(decoder(ms), rows, path / name, batch_size=256, shard_size=flags.shard_size)


def one(path: Path, flags: Flags) -> Row:
    """One process encodes everything."""
    torch.set_num_threads(1)
    job(path, "warm", Flags(shard_size=256)).run(Given(range(1), 10**6), False)
    before, started, used = peak(), time.perf_counter(), time.process_time()
    complete(job(path, "one", flags), progress=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    return {"one process, s": seconds, "of CPU": cpu, "peak MiB above the start": peak() - before}


def task(path: Path, flags: Flags, number: int, killer: int, clock: bool) -> None:
    torch.set_num_threads(1)
    if clock:
        time.time = lambda: 1e12
    mine = job(path, "tasks", flags, killer)
    before = peak()
    mine.run(Given(range(number, number + 1), TASKS), progress=False)
    note(mine.reader.source._dataset.count)
    print(f"task {number}: peak {peak() - before:.1f} MiB above the start")


def forked(*given: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            task(*given)
            sys.stdout.flush()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def ends(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def tasks(path: Path, flags: Flags) -> Row:
    """Tasks in random order, with what may go wrong."""
    os.environ["READ"] = str(path / "read")
    order = random.Random(0).sample(range(TASKS), TASKS)
    killed = order[2:5]
    codes = []
    for number in order:
        row = (number * flags.shard_size + flags.shard_size // 2) if number in killed else -1
        twice = 2 if number == order[7] else 1
        codes += ends([forked(path, flags, number, row, number == order[1]) for _ in range(twice)])
    sealer = job(path, "tasks", flags)
    refused = sealer.seal()
    again = ends([forked(path, flags, number, -1, False) for number in killed])
    started = time.perf_counter()
    left = sealer.seal()
    seal = time.perf_counter() - started
    files = [
        {file.name: file.read_bytes() for file in (path / name).glob("shard-*")}
        for name in ("one", "tasks")
    ]
    same = Latents.load(path / "one").identity() == Latents.load(path / "tasks").identity()
    doubled = len(range(order[7], -(-flags.samples // flags.shard_size), TASKS)) * flags.shard_size
    read = sum(map(int, (path / "read").read_text().split()))
    return {
        "killed": sum(code == -signal.SIGKILL for code in codes),
        "tasks that the seal refused": len(refused),
        "all ended well": set(again) == {0} and not left,
        "bytes equal": files[0] == files[1] and same,
        "rows read / rows, without the task that was given twice": (read - doubled) / flags.samples,
        "with it": read / flags.samples,
        "seconds to seal": seal,
    }


def sharing(path: Path, flags: Flags) -> Row:
    """The time of one process, and of two that share the work by claims."""
    torch.set_num_threads(1)
    times = []
    for count in (1, 2):
        started = time.perf_counter()
        pids = []
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                name = f"shared {count}"
                complete(job(path, name, flags, ms=flags.milliseconds), progress=False)
                os._exit(0)
            pids.append(pid)
        assert set(ends(pids)) == {0}
        times.append(time.perf_counter() - started)
    return {"one, s": times[0], "two, s": times[1], "ratio": times[0] / times[1]}


def jpegs(path: Path, count: int) -> list[str]:
    from PIL import Image

    draw = np.random.default_rng(0)
    files = []
    for number in range(count):
        small = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        file = path / f"{number}.jpg"
        Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC).save(file, quality=90)
        files.append(str(file))
    return files


def waiting(path: Path, flags: Flags) -> Row:
    """The share of the time in which the encoder waits for pictures, by the number of workers."""
    torch.set_num_threads(1)
    files, row = jpegs(path, min(flags.samples, 1024)), Row()
    for workers in (0, 1, 2, 4):
        busy = [0.0]

        def encode(model: Any, x: Tensor, busy: list[float] = busy) -> Posterior:
            started = time.perf_counter()
            time.sleep(flags.milliseconds / 1e3 * len(x))
            busy[0] += time.perf_counter() - started
            return Posterior(x[:, 0, 0, :4])

        made = Decoder(
            nn.Linear(1, 1),
            lambda model, z: z,
            encode,
            latent_shape=(4,),
            sample_shape=(3, 512, 512),
        )
        given = {"batch_size": 32, "shard_size": 256, "num_workers": workers}
        started = time.perf_counter()
        complete(prepare(made, files, path / f"cache {workers}", **given), progress=False)
        whole = time.perf_counter() - started
        row[f"{workers} workers: images/s, share of waiting"] = [
            len(files) / whole,
            1 - busy[0] / whole,
        ]
    return row


PARTS = {"tasks": (one, tasks), "processes": (sharing,), "waiting": (waiting,)}


def main(flags: Flags) -> None:
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=flags.output_dir) as path:
        if flags.part != "waiting":
            x = np.lib.format.open_memmap(f"{path}/x.npy", "w+", np.float32, (flags.samples, SIZE))
            draw = np.random.default_rng(0)
            for start in range(0, flags.samples, 1 << 16):
                stop = min(start + (1 << 16), flags.samples)
                x[start:stop] = draw.standard_normal((stop - start, SIZE), dtype=np.float32)
            x.flush()
        rows = [report(in_process(work, Path(path), flags)) for work in PARTS[flags.part]]
    write(flags.output_dir / f"{flags.part}.json", rows)


if __name__ == "__main__":
    run(main, Flags)

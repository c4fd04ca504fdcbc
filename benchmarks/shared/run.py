"""A benchmark as a command: flags, rows as tables and JSON files, means over seeds, and times."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

Row = dict[str, Any]


@dataclass
class BaseFlags:
    num_threads: int = 1  # CPU threads of torch.
    output_dir: Path = Path("outputs")  # Where results are written.


@dataclass
class SeededFlags(BaseFlags):
    seed: int = 0  # Decides every random number.


def run(main: Callable[[Any], object], flags: type[BaseFlags], cpu: bool = True) -> None:
    """Parses the flags, sets the threads, makes the output folder and runs the benchmark.

    Benchmarks run on the CPU, where their figures were measured, also where there is a GPU;
    with `cpu=False` on the GPU if there is one.
    """
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"  # of every fit

    import torch  # not by processes that measure memory without it

    from recipes.support.run import run as command

    def start(parsed: BaseFlags) -> None:
        torch.set_num_threads(parsed.num_threads)
        parsed.output_dir.mkdir(parents=True, exist_ok=True)
        main(parsed)

    command(start, flags)


def cell(value: Any) -> str:
    """A number with three decimals, or one from 10 on; of several, their mean and their range."""
    if isinstance(value, float):
        value = [value]
    if not isinstance(value, list):
        return "" if value is None else str(value)
    known = [number for number in value if number is not None]
    if not known:
        return ""
    mean, low, high = fmean(known), min(known), max(known)
    if 0 < abs(mean) < 0.001:
        return f"{mean:.1e}"
    digits = 3 if abs(mean) < 10 else 1
    text = f"{mean:.{digits}f}"
    return text if high - low < 10**-digits else f"{text} ({low:.{digits}f}-{high:.{digits}f})"


def table(rows: Sequence[Row], columns: Mapping[str, str] | Iterable[str] | None = None) -> str:
    """Rows as Markdown; `columns` are titles by key, or keys: those of the first row by default."""
    titles = columns or {key: "" if key == "name" else key for key in rows[0]}
    if not isinstance(titles, Mapping):
        titles = {key: key for key in titles}
    lines = [f"| {' | '.join(titles.values())} |", "|---" * len(titles) + "|"]
    lines += [f"| {' | '.join(cell(row.get(key)) for key in titles)} |" for row in rows]
    return "\n".join(lines)


def report(row: Row) -> Row:
    """Prints a row on one line, without what is nested in it, and returns it."""
    plain = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
    print(", ".join(f"{key} {cell(value)}" for key, value in plain.items()), flush=True)
    return row


def by_name(runs: Iterable[Iterable[Row]]) -> list[Row]:
    """One row for each `name`, with the list of its values in the runs of several seeds."""
    grouped: dict[str, list[Row]] = {}
    for run in runs:
        for row in run:
            grouped.setdefault(row["name"], []).append(row)
    return [
        {**{key: [row.get(key) for row in rows] for key in rows[0]}, "name": name}
        for name, rows in grouped.items()
    ]


def write(file: Path, result: Any) -> None:
    """Writes a JSON file, and its folder where needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")


def read(folder: Path, pattern: str) -> list[Any]:
    """The contents of the JSON files of a folder, in the order of their names."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob(pattern))]


def timed(work: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """The result of a call, and its CPU seconds."""
    started = time.process_time()
    return work(*arguments, **options), time.process_time() - started


class Seconds(dict[str, float]):
    """CPU seconds of the parts of a run, by name."""

    def measure(self, name: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The result of a call, whose CPU seconds are stored and printed."""
        result, self[name] = timed(work, *arguments, **options)
        print(f"{name}: {self[name]:.0f} s of CPU", flush=True)
        return result


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own, so that peaks of memory are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def in_turns(
    contenders: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, Any], dict[str, list[tuple[float, float]]]]:
    """The results of contenders, and their CPU and wall seconds in every round.

    They run in turns, in an order that rotates, after one round of warm-up.
    """
    names, results = list(contenders), {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            cpu, wall = time.process_time(), time.perf_counter()
            results[name] = contenders[name]()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if turn >= 0:
                seconds[name].append(spent)
    return {name: results[name] for name in names}, seconds

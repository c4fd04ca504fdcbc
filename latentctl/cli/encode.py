"""`latentctl encode CONFIG` encodes a data set, on any number of processes and machines."""

from __future__ import annotations

__all__ = ["add_parser", "read_config", "run"]

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import torch

from ..decoder.encode import complete, prepare
from ..decoder.encode_job import EncodeJob
from ..decoder.samples import fit_images
from ..decoder.shares import Given
from ..errors import CacheError, InputError, UnknownNameError
from .encode_ray import encode_on_ray
from .fit import read_labels
from .sources import load_decoder, read_rows

# name -> type of the settings, and those that are required
SETTINGS: dict[str, Any] = {
    "decoder": str,
    "adapter": str,
    "data": (str, dict),
    "labels": str,
    "attributes": list,
    "output": str,
    "image_column": str,
    "batch_size": int,
    "shard_size": int,
    "on_bad_sample": str,
    "dtype": str,
    "num_workers": int,
    "grow": bool,
    "seed": int,
}
REQUIRED = ("decoder", "data", "output")
LOADED = {  # of datasets.load_dataset
    "path": str,
    "name": str,
    "data_dir": str,
    "data_files": (str, list),
    "split": str,
    "revision": str,
    "streaming": bool,
}


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "encode",
        help="encode a data set once, by any number of processes on any machines",
        description="Encodes what the JSON file CONFIG says. Without --tasks, processes that are "
        "started with the same CONFIG share the work by claims in the folder of the cache, and "
        "each ends when the cache is finished. With --tasks and --task a scheduler divides the "
        "work, and --seal finishes the cache.",
    )
    parser.add_argument(
        "config",
        help=f"a JSON file with {', '.join(SETTINGS)}; required are {', '.join(REQUIRED)}",
    )
    parser.add_argument("--tasks", type=int, help="the number of tasks, which may be any")
    parser.add_argument("--task", help="the task of this process, from 0, or a range such as 4-7")
    parser.add_argument("--seal", action="store_true", help="finish the cache of tasks that ended")
    parser.add_argument("--ray", type=int, metavar="N", help="encode by N workers of Ray, and seal")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Encodes, and prints what there is."""
    ways = (flags.task is not None) + flags.seal + (flags.ray is not None)
    if (flags.tasks is None) != (flags.task is None) or ways > 1:
        raise InputError("Give --tasks with --task, or --seal, or --ray, or none of them.")
    if flags.ray is not None and flags.ray < 1:
        raise InputError(f"--ray is the number of workers, at least 1, not {flags.ray}.")
    given = None if flags.task is None else _given(flags.task, flags.tasks)
    make = functools.partial(_job, read_config(Path(flags.config)), flags.device)
    job = make()
    if flags.ray is not None:
        encode_on_ray(job, make, flags.ray, gpu=flags.device.startswith("cuda"))
    if flags.seal or flags.ray is not None:
        if missing := job.seal():
            raise CacheError(
                f"{len(missing)} tasks of {job.folder} have shards that are missing or were "
                f"corrupted: {', '.join(missing[:20])}. Run them again; `latentctl encode "
                f"{flags.config}` does all that are missing."
            )
        print(f"{job.folder} is finished.")
    elif given is None:
        print(f"{job.folder}: {complete(job, progress=True)}")
    else:
        job.run(given, progress=True)
        left = len(job.missing())
        print(f"{job.folder}: {len(job.present)} shards are there, {left} tasks missing.")
    return 0


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a JSON file.

    Raises:
        InputError: If it cannot be read, one is missing, or has a wrong type.
        UnknownNameError: If there is a setting of another name.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    _check_settings(found, SETTINGS, str(path))
    if absent := [name for name in REQUIRED if name not in found]:
        raise InputError(f"{path} lacks {', '.join(absent)}.")
    if isinstance(found["data"], dict):
        _check_settings(found["data"], LOADED, f"data in {path}")
        if "path" not in found["data"] or "split" not in found["data"]:
            raise InputError(f"data in {path} lacks path or split, see datasets.load_dataset.")
        if found["data"]["path"].endswith(".py"):
            raise InputError(f"data in {path} is a script, {found['data']['path']!r}: none is run.")
    elif "attributes" in found and "labels" not in found:
        raise InputError(f"attributes in {path} need labels, a CSV file as of latentctl fit.")
    result: dict[str, Any] = found
    return result


def _check_settings(found: Any, known: dict[str, Any], where: str) -> None:
    if not isinstance(found, dict):
        raise InputError(f"{where} holds a {type(found).__name__}, not names and values.")
    for name, value in found.items():
        if name not in known:
            raise UnknownNameError("setting", name, known)
        if not isinstance(value, known[name]) or (known[name] is int and isinstance(value, bool)):
            kinds = known[name] if isinstance(known[name], tuple) else (known[name],)
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(f"{name} in {where} is {value!r:.60}, not a {wanted}.")


def _given(task: str, tasks: int) -> Given:
    first, _, last = task.partition("-")
    try:
        numbers = range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"--task is a number or a range such as 4-7, not {task!r}.") from None
    if not (0 <= numbers.start < numbers.stop <= tasks):
        raise InputError(
            f"--task {task} is not in 0 ... {tasks - 1}, the tasks of --tasks {tasks}."
        )
    return Given(numbers, tasks)


def _job(config: dict[str, Any], device: str) -> EncodeJob:
    source = argparse.Namespace(
        decoder=config["decoder"], adapter=config.get("adapter"), device=device
    )
    decoder = load_decoder(source)
    names, rows = config.get("attributes"), _rows(config["data"])
    if "labels" in config:
        names, rows = read_labels(Path(config["labels"]), Path(config["data"]), names)
    options = {*SETTINGS} - {"decoder", "adapter", "data", "labels", "attributes", "output"}
    given = {name: config[name] for name in options if name in config}
    return prepare(
        decoder,
        rows,
        config["output"],
        attributes=names,
        transform=fit_images(decoder),
        **given,
    )


def _rows(data: str | dict[str, Any]) -> Any:
    if isinstance(data, str) and Path(data).exists():
        return read_rows(data)
    if isinstance(data, str):
        raise InputError(
            f"data {data!r} is no folder of images and no .npy or .pt file. A data set of others "
            f'is {{"path": ..., "split": ...}}, as of datasets.load_dataset.'
        )
    try:
        import datasets
    except ImportError as error:
        raise InputError("data names a data set; to read it: pip install datasets.") from error
    try:
        return datasets.load_dataset(**data)
    except Exception as error:  # the library's own errors, of many kinds
        raise InputError(f"datasets cannot read {data}: {error}") from error

"""A recipe as a command: the flags of every run, its accelerator, and its JSON files."""

from __future__ import annotations

__all__ = ["HubFlags", "OutputFlags", "RunFlags", "run", "timed", "write_json"]

import contextlib
import dataclasses
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from latentctl import Conditional
from latentctl.errors import InputError, LatentctlError
from latentctl.storage.lock import held
from latentctl.training.signals import end_with_launcher

from .arguments import joined

OPTIONS = (
    *("seed", "gradient_accumulation_steps", "max_grad_norm", "dataloader_num_workers"),
    *("lr_scheduler", "lr_warmup_steps"),
    *("checkpointing_steps", "checkpoints_total_limit", "resume_from_checkpoint", "max_bad_steps"),
)

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


@dataclass
class OutputFlags:
    """The run."""

    output_dir: str = "outputs"  # Folder of all results.
    seed: int = 0  # Seed of all random numbers.
    num_threads: int | None = None  # CPU threads of a process; by the cores if not given.


@dataclass
class RunFlags(OutputFlags):
    """The run."""

    mixed_precision: str | None = None  # no or bf16; by default that of accelerate launch.
    gradient_accumulation_steps: int = 1  # Micro-batches in a step.
    max_grad_norm: float | None = None  # Norm above which the gradient of a network is clipped.
    lr_scheduler: str | None = None
    """constant, linear or cosine, for every network; by default each has its own."""
    lr_warmup_steps: int | None = None
    """Steps over which learning rates rise, in every training; by default each has its own."""
    dataloader_num_workers: int = 0  # Processes that read batches.
    checkpointing_steps: int | None = None  # Steps from one checkpoint to the next.
    checkpoints_total_limit: int | None = 2  # Checkpoints that are kept.
    resume_from_checkpoint: str | None = None  # `latest`, or the path of a checkpoint.
    report_to: str | None = None
    """A tracker of accelerate, such as tensorboard or wandb; metrics.jsonl is always written."""
    logging_dir: str = "logs"  # Folder of the tracker, inside output_dir.
    max_bad_steps: int = 3  # Consecutive steps that may be not finite before the run stops.

    def accelerator(self, project: str) -> Accelerator:
        """The accelerator of this run."""
        # accelerate launch would give each process one thread
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(
            self.num_threads or max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        )
        accelerator = Accelerator(
            mixed_precision=self.mixed_precision,
            log_with=self.report_to,
            project_dir=str(Path(self.output_dir) / self.logging_dir),
        )
        if self.report_to:
            accelerator.init_trackers(project)
        return accelerator

    def fit_options(
        self, accelerator: Accelerator, part: str, batch_size: int | None = None, **defaults: Any
    ) -> dict[str, Any]:
        """Arguments of `latentctl.training.fit` for one part of the run.

        Arguments:
            accelerator: The accelerator of the run.
            part: Folder of its logs and checkpoints, inside `output_dir`.
            batch_size: Samples of a micro-batch in one process; not set if None.
            defaults: Arguments for which no flag is given.
        """
        options = {name: getattr(self, name) for name in OPTIONS}
        if batch_size is not None:
            batch_size *= accelerator.num_processes * self.gradient_accumulation_steps
        options |= {"output_dir": Path(self.output_dir) / part, "batch_size": batch_size}
        given = {name: value for name, value in options.items() if value is not None}
        return {"accelerator": accelerator, **defaults, **given}


@dataclass
class HubFlags:
    """The model hub."""

    push_to_hub: bool = False  # Push the pack at the end, with its card.
    hub_model_id: str | None = None  # `owner/name`; the name of output_dir if not given.

    def push(self, conditional: Conditional, output_dir: str) -> None:
        """Pushes a pack if the flags say so."""
        if not self.push_to_hub:
            return
        name = self.hub_model_id or Path(output_dir).resolve().name
        commit = conditional.push_to_hub(name)
        print(f"Pushed to the hub: {commit.commit_url}")

    def check(self) -> None:
        """Raises an `InputError` where a name is given and nothing is pushed."""
        if self.hub_model_id and not self.push_to_hub:
            raise InputError("--hub_model_id names where to push: add --push_to_hub.")


def run(main: Callable[[Any], object], flags: type) -> None:
    """Parses the flags and runs the recipe, which holds its output folder meanwhile.

    Arguments:
        main: The recipe.
        flags: Its dataclass of flags.

    Raises:
        SystemExit: With the message alone, if latentctl raises one of its errors, or a file cannot
            be written.
    """
    import tyro

    # of several processes all log, and each line is to be read once
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING if main_process else logging.ERROR
    )
    config = (tyro.conf.OmitArgPrefixes,)
    words = joined(sys.argv[1:], flags)
    parsed = tyro.cli(flags, args=words, config=config, use_underscores=True)
    end_with_launcher()
    folder = Path(getattr(parsed, "run", parsed).output_dir)
    try:
        # of several processes the first holds it
        with held(folder) if int(os.environ.get("RANK", 0)) == 0 else contextlib.nullcontext():
            main(parsed)
    except LatentctlError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SystemExit(
            f"A file was not written: {error}. Free some disk space, or choose another "
            f"--output_dir. A run with checkpoints goes on with --resume_from_checkpoint latest."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes a dataclass, or anything else that JSON has, and makes the folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    path.write_text(json.dumps(value, indent=2))


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Stores the wall-clock time of a block under a name."""
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started

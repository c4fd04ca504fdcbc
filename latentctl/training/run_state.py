"""The state of a run on disk: its checkpoints, and `metrics.jsonl` with every logged step once.

A checkpoint holds each player's weights, moments and average, the number of finished steps and the
settings that must agree on a resume, among them what the data were: of latents, the decoder's
fingerprint, the names of the attributes, and a hash. It holds no generator state, because random
numbers are a function of the step (`.schedule`). The lines of the log carry no times, so that a
resumed run writes the same file.
"""

from __future__ import annotations

__all__ = ["RunState", "culprit", "data_identity", "logged_means", "plain"]

import contextlib
import json
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from ..errors import CheckpointError
from ..storage import digest, fingerprint, load_folder, load_strict
from ..storage.files import append_line, well_formed, write_atomic
from ..storage.lock import held
from .checkpoints import checkpoints, resolve_checkpoint, save_checkpoint
from .player import Player, flatten_optimizer, restore_optimizer
from .processes import mean_over_processes

if TYPE_CHECKING:
    from accelerate import Accelerator

METRICS = "metrics.jsonl"


class RunState:
    """The state of a run between two steps.

    Arguments:
        players: Whose weights, moments and averages belong to it.
        settings: What a resumed run must have in common with the saved one, as JSON.
        folder: Where the main process writes; None for a run that leaves nothing on disk.
        accelerator: The processes and trackers of the run.

    Attributes:
        step: Finished steps.
        seconds: Training time.
        bad_steps: Steps (from 1) that were not finite.
        bad_in_a_row: Player name -> how many of its last steps were not finite.
        averages: Player name -> the moving average of its network, for players with `ema`.
        log: The lines of `metrics.jsonl`.
    """

    def __init__(
        self,
        players: Sequence[Player],
        settings: Mapping[str, Any],
        folder: str | Path | None,
        accelerator: Accelerator,
    ) -> None:
        self.players = list(players)
        self.settings = {**settings, "players": [[p.name, p.turns, p.ema] for p in players]}
        self.folder, self.accelerator = Path(folder or "."), accelerator
        self.writes = folder is not None and accelerator.is_main_process
        self.step = 0
        self.seconds = 0.0
        self.bad_steps: list[int] = []
        self.bad_in_a_row = {player.name: 0 for player in players}
        self.averages = {
            p.name: AveragedModel(p.module, multi_avg_fn=_decay(p.ema))
            for p in players
            if p.ema is not None
        }
        self.log: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder, so that no other run writes into it.

        Raises:
            CheckpointError: On every process, if another run that has not ended holds it.
        """
        refused: CheckpointError | None = None
        with contextlib.ExitStack() as stack:
            if self.writes:
                try:
                    stack.enter_context(held(self.folder))
                except CheckpointError as error:
                    refused = error
            flag = torch.tensor(float(refused is not None), device=self.accelerator.device)
            if mean_over_processes(self.accelerator, [flag])[0].item() > 0:
                raise refused or CheckpointError(f"{self.folder} is in use, see the main process.")
            yield

    def resume(self, resume_from_checkpoint: str | Path | None) -> Path | None:
        """Load the state and the log of a checkpoint, and return it.

        Raises:
            CheckpointError: It is missing, corrupted or of another run; or a new run was asked for
                in the folder of another one.
        """
        if resume_from_checkpoint is None and (there := checkpoints(self.folder)):
            raise CheckpointError(
                f"A new run was asked for, but {self.folder} holds a run up to {there[-1].name}. "
                'Pass resume_from_checkpoint="latest" to resume it, or another output_dir.'
            )
        found = resolve_checkpoint(self.folder, resume_from_checkpoint)
        if found is None:
            return None
        tensors, saved = load_folder(found)
        with well_formed(found, CheckpointError):
            self._check_settings(found, saved["settings"])
            self._restore(tensors, saved)
        if (self.folder / METRICS).exists():
            self.log = _lines_until(self.step, (self.folder / METRICS).read_bytes())
        return found

    def _check_settings(self, found: Path, saved: Mapping[str, Any]) -> None:
        wrong = [
            f"{name} was {saved.get(name)!r} and is now {self.settings.get(name)!r}"
            for name in {**self.settings, **saved}
            if saved.get(name) != self.settings.get(name)
        ]
        if wrong:
            raise CheckpointError(
                f"Cannot resume from {found}, it is of another run: {'; '.join(wrong)}. "
                "Use the same decoder, data and settings, or another output_dir."
            )

    def _restore(self, tensors: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
        for player in self.players:
            name = player.name
            load_strict(player.module, tensors[name], f"weights of {name!r}")
            if name in self.averages:
                load_strict(self.averages[name], tensors[f"{name}.ema"], f"average of {name!r}")
            moments = tensors[f"{name}.optimizer"]
            restore_optimizer(player.optimizer, moments, saved["optimizers"][name])
        self.step, self.seconds = operator.index(saved["step"]), float(saved["seconds"])
        self.bad_steps = [operator.index(step) for step in saved["bad_steps"]]
        in_a_row = saved["bad_in_a_row"]
        self.bad_in_a_row = {p.name: operator.index(in_a_row[p.name]) for p in self.players}

    def save(self, total_limit: int | None) -> None:
        """Write the checkpoint of the present step atomically; all processes wait for it."""
        if self.writes:
            self._save(total_limit)
        self.accelerator.wait_for_everyone()

    def _save(self, total_limit: int | None) -> None:
        tensors: dict[str, Mapping[str, Tensor]] = {}
        optimizers = {}
        for player in self.players:
            tensors[player.name] = player.module.state_dict()
            if player.name in self.averages:
                tensors[f"{player.name}.ema"] = self.averages[player.name].state_dict()
            moments, optimizers[player.name] = flatten_optimizer(player.optimizer)
            tensors[f"{player.name}.optimizer"] = moments
        with self._writing_log(), open(self.folder / METRICS, "rb") as file:
            os.fsync(file.fileno())  # the log must reach up to the checkpoint
        names = ("step", "seconds", "bad_steps", "bad_in_a_row", "settings")
        state = {name: getattr(self, name) for name in names}
        state["optimizers"] = optimizers
        save_checkpoint(self.folder, self.step, tensors, state, total_limit=total_limit)

    def rewrite_log(self) -> None:
        """Remove from `metrics.jsonl` the lines after the present step, once all have read it."""
        self.accelerator.wait_for_everyone()
        if self.writes:
            lines = "".join(json.dumps(line) + "\n" for line in self.log)
            with self._writing_log():
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self.folder / METRICS, lines.encode())

    def record(self, line: dict[str, Any]) -> None:
        """Append a line to the log, to `metrics.jsonl` and to the trackers."""
        self.log.append(line)
        if self.writes:
            with self._writing_log():
                append_line(self.folder / METRICS, json.dumps(line))
        if self.accelerator.trackers:
            values = {f"{line['player']}/{k}": v for k, v in line.items() if isinstance(v, float)}
            self.accelerator.log(values, step=line["step"])

    @contextlib.contextmanager
    def _writing_log(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.folder / METRICS} was not written at step {self.step}: {error}. Every "
                f"checkpoint is intact: free some disk space, and resume from the latest."
            ) from error


def data_identity(data: Any) -> dict[str, Any]:
    """What tells the data of a run from others, as JSON; empty where that cannot be told.

    Of data with a method `identity`, such as `Latents`, its result; of tensors and networks, a
    hash; of a list of these, all of it.
    """
    if callable(identity := getattr(data, "identity", None)):
        return dict(identity())
    if isinstance(data, TensorDataset):
        return {"data": digest({str(n): [t] for n, t in enumerate(data.tensors)})}
    if isinstance(data, nn.Module):
        return {type(data).__name__: fingerprint(data)[:16]}
    if isinstance(data, list):
        return {name: value for part in data for name, value in data_identity(part).items()}
    return {"data": digest({"": [data]})} if isinstance(data, Tensor) else {}


def logged_means(accelerator: Accelerator, values: dict[str, Tensor]) -> dict[str, float | None]:
    """The logged values of a line: means over processes."""
    means = mean_over_processes(accelerator, list(values.values()))
    return {name: plain(mean.item()) for name, mean in zip(values, means, strict=True)}


def culprit(loss: float, gradients: dict[str, Tensor]) -> str:
    """The first weight whose gradient is not finite, or what else is not."""
    for name, value in gradients.items():
        if not value.isfinite().all():
            return name
    return "the norm of the gradient" if math.isfinite(loss) else "loss"


def plain(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None  # JSON has no NaN


def _decay(ema: float) -> Callable[..., None]:
    # torch leaves this function without types
    return get_ema_multi_avg_fn(ema)  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


def _lines_until(step: int, raw: bytes) -> list[dict[str, Any]]:
    lines = []
    for text in raw.splitlines():
        try:
            line = json.loads(text)
            if line["step"] <= step:
                lines.append(line)
        except (ValueError, TypeError, KeyError):
            break  # a kill truncated the last line, which is after the checkpoint
    return lines

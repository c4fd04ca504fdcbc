"""The state of a run on disk: its checkpoints, and `metrics.jsonl` with every logged step once.

A checkpoint holds each player's weights, moments and average, the number of finished steps and the
settings that must agree on a resume. It holds no generator state, because random numbers are a
function of the step (`.schedule`). The lines of the log carry no times, so that a resumed run
writes the same file.
"""

from __future__ import annotations

__all__ = ["RunState"]

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import CheckpointError
from ..storage import load_folder, load_strict
from ..storage.files import write_atomic
from .checkpoints import (
    checkpoints,
    flatten_optimizer,
    resolve_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from .player import Player

METRICS = "metrics.jsonl"


class RunState:
    """The state of a run between two steps.

    Arguments:
        players: Whose weights, moments and averages belong to it.
        settings: What a resumed run must have in common with the saved one, as JSON.
        folder: Where it is kept; None for a run that leaves nothing on disk.
        writes: Whether this process writes there: the main process does.

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
        *,
        writes: bool,
    ) -> None:
        self.players = list(players)
        self.settings = {**settings, "players": [[p.name, p.turns, p.ema] for p in players]}
        self.folder = None if folder is None else Path(folder)
        self.written = self.folder if writes else None
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

    def resume(self, resume_from_checkpoint: str | Path | None) -> Path | None:
        """Load the state and the log of a checkpoint, and return it; writes nothing.

        Raises:
            CheckpointError: It is missing, corrupted or of another run; or a new run was asked for
                in the folder of another one.
        """
        if self.folder is None:
            return None
        if resume_from_checkpoint is None and (there := checkpoints(self.folder)):
            raise CheckpointError(
                f"A new run was asked for, but {self.folder} holds a run up to {there[-1].name}. "
                'Pass resume_from_checkpoint="latest" to resume it, or another output_dir.'
            )
        found = resolve_checkpoint(self.folder, resume_from_checkpoint)
        if found is None:
            return None
        tensors, saved = load_folder(found)
        wrong = [
            f"{name} was {saved['settings'].get(name)!r} and is now {value!r}"
            for name, value in self.settings.items()
            if saved["settings"].get(name) != value
        ]
        if wrong:
            raise CheckpointError(
                f"Cannot resume from {found}, it is of another run: {'; '.join(wrong)}. "
                "Use the same settings, or another output_dir."
            )
        for player in self.players:
            name = player.name
            load_strict(player.module, tensors[name], f"weights of {name!r}")
            if name in self.averages:
                load_strict(self.averages[name], tensors[f"{name}.ema"], f"average of {name!r}")
            moments = tensors[f"{name}.optimizer"]
            restore_optimizer(player.optimizer, moments, saved["optimizers"][name])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.bad_steps, self.bad_in_a_row = saved["bad_steps"], saved["bad_in_a_row"]
        if (self.folder / METRICS).exists():
            self.log = _lines_until(self.step, (self.folder / METRICS).read_text())
        return found

    def save(self, total_limit: int | None) -> None:
        """Write the checkpoint of the present step atomically."""
        if self.written is None:
            return
        tensors: dict[str, Mapping[str, Tensor]] = {}
        optimizers = {}
        for player in self.players:
            tensors[player.name] = player.module.state_dict()
            if player.name in self.averages:
                tensors[f"{player.name}.ema"] = self.averages[player.name].state_dict()
            moments, optimizers[player.name] = flatten_optimizer(player.optimizer)
            tensors[f"{player.name}.optimizer"] = moments
        with open(self.written / METRICS, "rb") as file:  # the log must reach up to the checkpoint
            os.fsync(file.fileno())
        names = ("step", "seconds", "bad_steps", "bad_in_a_row", "settings")
        state = {name: getattr(self, name) for name in names}
        state["optimizers"] = optimizers
        save_checkpoint(self.written, self.step, tensors, state, total_limit=total_limit)

    def rewrite_log(self) -> None:
        """Remove from `metrics.jsonl` the lines after the present step."""
        if self.written is not None:
            self.written.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(line) + "\n" for line in self.log)
            write_atomic(self.written / METRICS, lines.encode())

    def record(self, line: dict[str, Any]) -> None:
        """Append a line to the log and to `metrics.jsonl`."""
        self.log.append(line)
        if self.written is not None:
            with open(self.written / METRICS, "a") as file:
                file.write(json.dumps(line) + "\n")


def _decay(ema: float) -> Callable[..., None]:
    # torch leaves this function without types
    return get_ema_multi_avg_fn(ema)  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


def _lines_until(step: int, text: str) -> list[dict[str, Any]]:
    lines = []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:  # a kill truncated the last line, which is after the checkpoint
            break
        if line["step"] <= step:
            lines.append(line)
    return lines

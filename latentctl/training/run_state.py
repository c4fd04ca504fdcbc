"""What of a run is kept on disk: its checkpoints, and `metrics.jsonl` with every step once.

A checkpoint holds each player's weights, moments and average, the number of finished steps and the
settings that decide what the next step does. No generator state is among them: `.schedule` needs
none. The lines of the log carry no times, so that a resumed run writes the same file.
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
from ..storage.folder import load_folder
from ..storage.weights import load_strict
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
        settings: What a resumed run must have in common with the saved one, as JSON can hold it.

    Attributes:
        step: Finished steps.
        seconds: Training time.
        bad_steps: Steps (from 1) that were not finite.
        bad_in_a_row: Player name -> how many of its last steps were not finite.
        averages: Player name -> the moving average of its network, where it has one.
        log: The lines of `metrics.jsonl`.
    """

    def __init__(self, players: Sequence[Player], settings: Mapping[str, Any]) -> None:
        self.players = list(players)
        self.settings = {**settings, "players": [[p.name, p.turns, p.ema] for p in players]}
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

    def resume(self, folder: Path, resume_from_checkpoint: str | Path | None) -> Path | None:
        """Take over the state and the log of the checkpoint asked for; writes nothing.

        Raises:
            CheckpointError: It is missing, broken or of another run; or a new run was asked for
                where another one is.
        """
        if resume_from_checkpoint is None and (there := checkpoints(folder)):
            raise CheckpointError(
                f"A new run was asked for, but {folder} holds a run that came to {there[-1].name}. "
                'Pass resume_from_checkpoint="latest" to go on with it, or another output_dir.'
            )
        found = resolve_checkpoint(folder, resume_from_checkpoint)
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
            restore_optimizer(
                player.optimizer, tensors[f"{name}.optimizer"], saved["optimizers"][name]
            )
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.bad_steps, self.bad_in_a_row = saved["bad_steps"], saved["bad_in_a_row"]
        if (folder / METRICS).exists():
            self.log = _lines_until(self.step, (folder / METRICS).read_text())
        return found

    def save(self, folder: Path, total_limit: int | None) -> None:
        """Write `folder/step-NNNNNN`, whole or not at all."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        optimizers = {}
        for player in self.players:
            tensors[player.name] = player.module.state_dict()
            if player.name in self.averages:
                tensors[f"{player.name}.ema"] = self.averages[player.name].state_dict()
            moments, optimizers[player.name] = flatten_optimizer(player.optimizer)
            tensors[f"{player.name}.optimizer"] = moments
        with open(folder / METRICS, "rb") as file:  # the log may not lag behind the checkpoint
            os.fsync(file.fileno())
        names = ("step", "seconds", "bad_steps", "bad_in_a_row", "settings")
        state = {name: getattr(self, name) for name in names}
        state["optimizers"] = optimizers
        save_checkpoint(folder, self.step, tensors, state, total_limit=total_limit)

    def rewrite_log(self, folder: Path) -> None:
        """Drop from `metrics.jsonl` what lies after the present step."""
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{METRICS}.partial"
        with open(fresh, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.log)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, folder / METRICS)

    def record(self, line: dict[str, Any], folder: Path | None) -> None:
        """Add a line to the log, and to `metrics.jsonl` in `folder`."""
        self.log.append(line)
        if folder is not None:
            with open(folder / METRICS, "a") as file:
                file.write(json.dumps(line) + "\n")


def _decay(ema: float) -> Callable[..., None]:
    # torch leaves this function without types
    return get_ema_multi_avg_fn(ema)  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


def _lines_until(step: int, text: str) -> list[dict[str, Any]]:
    lines = []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:  # a kill cut the last line, which lies after the checkpoint
            break
        if line["step"] <= step:
            lines.append(line)
    return lines

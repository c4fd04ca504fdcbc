"""A player: a network, its loss and its optimizer, with its gradient, its update and its state.

The gradient is taken with respect to the player's own weights only: a loss may call the networks
of other players without changing them, and no `.grad` is left.
"""

from __future__ import annotations

__all__ = [
    "Player",
    "check_players",
    "flatten_optimizer",
    "gradient",
    "restore_optimizer",
    "train_mode",
    "trained_weights",
    "update",
]

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from ..nn.dropout import rows_of_batch
from .schedule import Step


@dataclass
class Player:
    """A network that is trained by a loss, alone or in turns with others.

    Arguments:
        name: An identifier, used in files and log lines.
        module: The network that is trained and saved.
        loss: `(batch, step)` to the mean loss over the rows of `batch`, and values to log.
        optimizer: Over parameters of `module`. Its learning rates are the peak of the schedule.
        turns: Consecutive steps in each round, such as 10 of a critic and 1 of an actor.
        ema: Decay of an exponential moving average of the weights, in [0, 1), or None.

    Raises:
        InputError: A field is out of range, or `optimizer` holds weights that are not in `module`.
    """

    name: str
    module: nn.Module
    loss: Callable[[Any, Step], tuple[Tensor, Mapping[str, Tensor | float]]]
    optimizer: torch.optim.Optimizer
    turns: int = 1
    ema: float | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise InputError(f"The player's name {self.name!r} is not an identifier like 'critic'.")
        if self.turns < 1:
            raise InputError(f"The player {self.name!r} needs turns >= 1, not {self.turns}.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"The player {self.name!r} needs 0 <= ema < 1, not {self.ema}.")
        if not trained_weights(self):
            raise InputError(f"The optimizer of {self.name!r} has no weight that can be trained.")


def check_players(players: Sequence[Player]) -> None:
    """Raises an `InputError` if there is no player, or if two have one name."""
    names = [player.name for player in players]
    if not names or len(set(names)) < len(names):
        raise InputError(f"fit needs one player or several of different names, not {names}.")


def trained_weights(player: Player) -> dict[str, nn.Parameter]:
    """The weights of the player's optimizer by their names in its module."""
    names = {id(weight): name for name, weight in player.module.named_parameters()}
    weights = [w for group in player.optimizer.param_groups for w in group["params"]]
    foreign = [tuple(weight.shape) for weight in weights if id(weight) not in names]
    if foreign:
        raise InputError(
            f"The optimizer of {player.name!r} holds weights of shapes {foreign} that are not in "
            "its module. Build it as Adam(module.parameters(), ...)."
        )
    return {names[id(weight)]: weight for weight in weights if weight.requires_grad}


def gradient(
    player: Player,
    weights: Sequence[Tensor],
    micro_batches: Iterable[tuple[Any, Step]],
    autocast: Callable[[], AbstractContextManager[Any]],
    processes: int = 1,
) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
    """Sums over micro-batches: the gradients, the loss `()` and the logged values `()`.

    A micro-batch counts as its share of the rows of the global batch, times the number of
    processes, so that the mean over processes is the mean over rows.

    Arguments:
        player: The player.
        weights: Its weights. The gradient is zero where the loss does not depend on one.
        micro_batches: Micro-batches, each with its `Step`.
        autocast: Makes the context of mixed precision.
        processes: Number of processes.
    """
    total: list[Tensor] = []
    losses: list[Tensor] = []
    logged: dict[str, list[Tensor]] = {}
    for batch, step in micro_batches:
        share = step.count * processes / step.total
        place = {"seed": step.seed, "step": step.index, "start": step.start, "count": step.count}
        with autocast(), rows_of_batch(**place):
            loss, values = player.loss(batch, step)
        if loss.dim() or not loss.requires_grad:
            raise InputError(
                f"The loss of {player.name!r} must be one number that depends on its weights, not "
                f"a tensor of shape {tuple(loss.shape)}"
                + ("." if loss.requires_grad else " without a gradient: was it detached?")
            )
        new = torch.autograd.grad(loss, list(weights), allow_unused=True, materialize_grads=True)
        scaled = new if share == 1 else [value * share for value in new]
        total = [a + b for a, b in zip(total, scaled, strict=True)] if total else list(scaled)
        losses.append(loss.detach().float() * share)
        for key, value in values.items():
            logged.setdefault(key, []).append(
                torch.as_tensor(value).detach().to(loss.device, torch.float32).mean() * share
            )
    sums = {key: torch.stack(values).sum() for key, values in logged.items()}
    return total, torch.stack(losses).sum(), sums


def update(
    player: Player,
    weights: Iterable[Tensor],
    gradients: Iterable[Tensor],
    *,
    lr_factor: float,
    gradient_factor: float = 1.0,
) -> None:
    """One step of the player's optimizer, with its learning rates and the gradients scaled."""
    groups = player.optimizer.param_groups
    rates, weights = [group["lr"] for group in groups], list(weights)
    for weight, value in zip(weights, gradients, strict=True):
        weight.grad = (value * gradient_factor).to(weight.dtype)
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * lr_factor
        player.optimizer.step()
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for weight in weights:
            weight.grad = None


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of the tensors of an optimizer by number, and the rest of its state as JSON."""
    tensors: dict[str, Tensor] = {}

    def name(value: Any) -> dict[str, str]:
        if not isinstance(value, Tensor):
            raise CheckpointError(f"An optimizer that holds a {type(value)} cannot be saved.")
        tensors[str(len(tensors))] = value.detach().clone()
        return {"tensor": str(len(tensors) - 1)}

    state = optimizer.state_dict()
    tree = [list(state["state"].items()), state["param_groups"]]
    rest = {"shapes": _shapes(optimizer), "tree": json.loads(json.dumps(tree, default=name))}
    return tensors, rest


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Load what `flatten_optimizer` gave into an optimizer over parameters of the same shapes.

    Raises:
        CheckpointError: The parameters have other shapes, or tensors are missing or unexpected.
    """
    if rest["shapes"] != _shapes(optimizer):
        raise CheckpointError(
            f"The saved optimizer state is for parameters of shapes {rest['shapes']}, this "
            f"optimizer has {_shapes(optimizer)}. Build the networks as in the saved run."
        )
    left = {name: value.clone() for name, value in tensors.items()}
    try:
        state, groups = json.loads(
            json.dumps(rest["tree"]),
            object_hook=lambda node: left.pop(node["tensor"]) if "tensor" in node else node,
        )
    except KeyError as error:
        raise CheckpointError(f"The optimizer state lacks the tensor {error}.") from error
    if left:
        raise CheckpointError(f"Unexpected tensors in the optimizer state: {sorted(left)}.")
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        pairs = {key for key in group if isinstance(own.get(key), tuple)}  # JSON has lists only
        group.update({key: tuple(group[key]) for key in pairs})
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]


@contextlib.contextmanager
def train_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Training mode for networks; each submodule's own mode is restored at the end."""
    found = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for part, training in found:
            part.training = training

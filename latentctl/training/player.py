r"""A player: a network, its loss and its optimizer, and the two halves of its step.

The gradient is taken with respect to the player's own weights only, so that a loss may call the
networks of other players without touching them, and nothing is left behind in anybody's `.grad`.
"""

from __future__ import annotations

__all__ = ["Player", "gradient", "train_mode", "trained_weights", "update"]

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .schedule import Step


@dataclass
class Player:
    """One side of a game, or the only one.

    Arguments:
        name: An identifier; names files and log lines.
        module: What is trained and saved.
        loss: `(batch, step)` to the mean loss over the rows of `batch`, and what to log.
        optimizer: Over parameters of `module`. Its learning rates are the peak of the schedule.
        turns: Steps in a row in each round: critic 10, actor 1.
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


def trained_weights(player: Player) -> dict[str, nn.Parameter]:
    """The weights that the player's optimizer changes, by their names in its module."""
    names = {id(weight): name for name, weight in player.module.named_parameters()}
    weights = [w for group in player.optimizer.param_groups for w in group["params"]]
    strangers = [tuple(weight.shape) for weight in weights if id(weight) not in names]
    if strangers:
        raise InputError(
            f"The optimizer of {player.name!r} holds weights of shapes {strangers} that are not in "
            "its module. Build it as Adam(module.parameters(), ...)."
        )
    return {names[id(weight)]: weight for weight in weights if weight.requires_grad}


def gradient(
    player: Player,
    weights: Sequence[Tensor],
    turns: Iterable[tuple[Any, Step]],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
    """The mean over micro-batches of the gradient, the loss and the logged values.

    Arguments:
        player: Whose loss it is.
        weights: With respect to what.
        turns: The micro-batches, all of one size, each with its `Step`.
        autocast: Makes the context of mixed precision.

    Returns:
        One gradient a weight (zero where the loss does not depend on it), the loss `()`, and the
        means `()` of what the loss logged.
    """
    total: list[Tensor] = []
    losses: list[Tensor] = []
    logged: dict[str, list[Tensor]] = {}
    for batch, step in turns:
        with autocast():
            loss, values = player.loss(batch, step)
        if loss.dim() or not loss.requires_grad:
            raise InputError(
                f"The loss of {player.name!r} must be one number that depends on its weights, not "
                f"a tensor of shape {tuple(loss.shape)}"
                + ("." if loss.requires_grad else " without a gradient: was it detached?")
            )
        new = torch.autograd.grad(loss, list(weights), allow_unused=True, materialize_grads=True)
        total = [a + b for a, b in zip(total, new, strict=True)] if total else list(new)
        losses.append(loss.detach().float())
        for key, value in values.items():
            logged.setdefault(key, []).append(
                torch.as_tensor(value).detach().to(loss.device, torch.float32).mean()
            )
    means = {key: torch.stack(values).mean() for key, values in logged.items()}
    return [g / len(losses) for g in total], torch.stack(losses).mean(), means


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


@contextlib.contextmanager
def train_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put networks in training mode, and every part of them back to its own mode at the end."""
    found = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for part, training in found:
            part.training = training

"""Training of one module with one loss: optimizer, loop and averaged weights in one call."""

from __future__ import annotations

__all__ = ["train"]

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .loop import History, fit
from .player import Player
from .schedule import Step


def train(
    module: nn.Module,
    loss: Callable[[Any, Step], tuple[Tensor, Mapping[str, Tensor | float]]],
    data: Any,
    *,
    name: str,
    learning_rate: float,
    weight_decay: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    parameters: Iterable[Any] | None = None,
    ema: float | None = None,
    **options: Any,
) -> History:
    """Trains `module` in place and leaves it in eval mode.

    Arguments:
        module: What is trained, and saved in checkpoints.
        loss: `(batch, step)` to the mean loss over the rows of `batch`, and what to log.
        data: As for `fit`.
        name: An identifier, the name of the player in log lines and checkpoints.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay (AdamW). None trains with plain Adam.
        betas: Decay rates of the two moments.
        parameters: The weights to train, or parameter groups; all of `module` by default.
        ema: Decay of an exponential moving average of the weights. The module ends with the
            average. None keeps the last weights.
        options: `max_train_steps`, `batch_size` and other arguments of `fit`.

    Returns:
        The `History`.

    Raises:
        InputError: As `fit`.

    Example:
        >>> from latentctl.random import noise
        >>> line = nn.Linear(1, 1)
        >>> def loss(batch, step):
        ...     return (line(batch) - 3 * batch).square().mean(), {}
        >>> history = train(line, loss, noise(0, 64, (1,), seed=0), name="line", learning_rate=0.1,
        ...                 max_train_steps=200, batch_size=16)
        >>> round(line.weight.item(), 1), line.training
        (3.0, False)
    """
    weights = module.parameters() if parameters is None else parameters
    settings: dict[str, Any] = {"lr": learning_rate, "betas": betas}
    optimizer = (
        torch.optim.Adam(weights, **settings)
        if weight_decay is None
        else torch.optim.AdamW(weights, weight_decay=weight_decay, **settings)
    )
    player = Player(name, module, loss, optimizer, ema=ema)
    history = fit(player, data, **options)
    if ema is not None:
        module.load_state_dict(history.averaged[name].state_dict())
    module.eval()
    return history

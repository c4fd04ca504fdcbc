"""An editor that keeps its last moves: a slider that is dragged asks for one move many times.

A probability between 0 and 1 is a dose of the move towards 0 or 1 (`conditional.dose`), so that all
places of a slider on one side of where it began share that move.
"""

from __future__ import annotations

__all__ = ["Remembered"]

from typing import Any

from torch import Tensor

from ..controllers import Controller, Request
from ..controllers.base import Move

MOVES = 8  # that are kept


class Remembered:
    """A controller with the results of its last moves, which are the same bits.

    Arguments:
        controller: What moves; its networks must not change meanwhile.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.moves: dict[tuple[Any, ...], Move] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controller, name)

    def move(self, z: Tensor, request: Request) -> Move:
        """The move of latents `z (B, *latent_shape)`, as `Controller.move`."""
        if request.where is not None:
            return self.controller.move(z, request)
        tensors = (z, request.target, request.hold, request.current, request.region, request.index)
        numbers = (request.strength, request.threshold, request.seed)
        key = (*numbers, *(None if one is None else _bytes(one) for one in tensors))
        move = self.moves.get(key)
        if move is None:
            move = self.controller.move(z, request)
            if len(self.moves) >= MOVES:
                self.moves.clear()
            self.moves[key] = move
        return move


def _bytes(value: Tensor) -> bytes:
    raw: bytes = value.detach().cpu().contiguous().numpy().tobytes()
    return raw

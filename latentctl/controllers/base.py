"""What a controller is: a move of latents towards a target."""

from __future__ import annotations

__all__ = ["Controller", "Move"]

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..critics import Critic
from ..errors import InputError, NonFiniteError

THRESHOLD = 0.95


@dataclass(frozen=True)
class Move:
    """Where the latents went, and what it cost."""

    z: Tensor
    """The new latents, `(B, *latent_shape)`."""

    evaluations: Tensor
    """Evaluations of the controller's networks for each sample, `(B,)` integers."""


class Controller(nn.Module, abc.ABC):
    """A move `z' = c(z, y)`, with targets `y (B, K)` in [0, 1], NaN = free.

    `strength` scales the move: 0 returns `z` bit for bit, 1 is the whole move.
    """

    learned: ClassVar[bool] = False
    """Whether it is a network that was trained for certain targets, with `latent_shape` and
    `names`; such a one takes no critic given later."""

    @abc.abstractmethod
    def move(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        where: Critic | None = None,
        threshold: float = THRESHOLD,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Move:
        """The whole move, and its cost.

        Arguments:
            z: Latents, `(B, *latent_shape)`.
            y: Targets, `(B, K)` in [0, 1]; NaN = free. A fraction that `z` has already is a value
                to keep, any other target is one to reach.
            where: A further critic to satisfy.
            threshold: Probability with which each target to reach, and `where`, must hold, for
                controllers that stop there.
            seed: Seed of the noise, for controllers that use some.
            index: Number of each sample, `(B,)`, so that its noise does not depend on the batch
                that it travels in; 0 ... B - 1 if not given.
        """

    def move_within(
        self, region: Tensor, z: Tensor, y: Tensor | None = None, **options: Any
    ) -> Move:
        """The part of the move that lies in a region; controllers that search do so within it.

        Arguments:
            region: 1 where a latent may move and 0 where it stays, bit for bit; broadcasts to `z`.
            z: As in `move`.
            y: As in `move`.
            options: As in `move`.
        """
        move = self.move(z, y, **options)
        return Move(torch.where(region > 0, torch.lerp(z, move.z, region), z), move.evaluations)

    def forward(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        strength: float = 1.0,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Tensor:
        """The moved latents, `(B, *latent_shape)`."""
        if strength == 0:
            return z
        return scaled(z, self.move(z, y, seed=seed, index=index).z, strength)


def refuse_where(controller: Controller, where: Critic | None) -> None:
    """Raises an `InputError` if a learned controller is given a critic to satisfy."""
    if where is not None:
        raise InputError(
            f"This {type(controller).__name__} knows the targets that it was trained for, not a "
            f"critic given later. Use controllers.Ascent for `where`."
        )


def require_finite(value: Tensor, what: str) -> Tensor:
    """`value`, one row a sample.

    Raises:
        NonFiniteError: If it is not finite; `what` says whose it is.
    """
    bad = ~torch.isfinite(value.flatten(1) if value.ndim > 1 else value[:, None]).all(1)
    if bool(bad.any()):
        raise NonFiniteError(
            f"{what} is not finite for {int(bad.sum())} of {len(value)} latents. Check that it is "
            f"trained, and that its latents are of the size it was trained on."
        )
    return value


def scaled(z: Tensor, moved: Tensor, strength: float) -> Tensor:
    """A part of a move; the whole of it, bit for bit, at strength 1.

    Raises:
        NonFiniteError: If the move is not finite.
    """
    bad = ~torch.isfinite(moved.flatten(1)).all(1)
    if bool(bad.any()):
        raise NonFiniteError(
            f"The controller left the finite numbers for samples "
            f"{bad.nonzero().flatten().tolist()[:8]} of {len(z)}. Check that its critics are "
            f"trained and that the latents are standardised."
        )
    return moved if strength == 1 else torch.lerp(z, moved, strength)

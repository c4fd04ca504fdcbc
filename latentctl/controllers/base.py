"""The controller: a move of latents towards a request."""

from __future__ import annotations

__all__ = ["Controller", "Move", "refuse_where", "require_finite"]

import abc
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..critics import Critic, RealismCritic
from ..errors import InputError, NonFiniteError
from ..storage import Saved
from .request import Request


@dataclass(frozen=True)
class Move:
    """Where the latents went, and what it cost."""

    z: Tensor
    """The new latents, `(B, *latent_shape)`."""

    evaluations: Tensor
    """Evaluations of the controller's networks for each sample, `(B,)` integers."""


class Controller(Saved, abc.ABC):
    """A move `z' = c(z, request)`.

    Subclasses implement `search`, the whole move; strength and region are applied here.
    """

    learned: ClassVar[bool] = False
    """Whether it is a network that was trained for certain targets, with `latent_shape` and
    `names`; such a one takes no critic given later."""
    searches_region: ClassVar[bool] = False
    """Whether `search` itself stays within the region of the request."""

    attributes: Critic | None
    """The critic whose gradient it follows, if it follows one."""
    realism: RealismCritic | None
    """The realism critic that it uses or was trained against, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        # not on the class, where they would hide the submodules
        self.attributes = self.realism = None

    def parts(self) -> dict[str, nn.Module | None]:
        return {"attributes": self.attributes, "realism": self.realism}

    @abc.abstractmethod
    def search(self, z: Tensor, request: Request) -> Move:
        """The whole move of `z (B, *latent_shape)`; the request has a row for each latent."""

    def move(self, z: Tensor, request: Request) -> Move:
        """The move, and its cost.

        Arguments:
            z: Latents, `(B, *latent_shape)`.
            request: What is asked of them.

        Raises:
            NonFiniteError: If the move is not finite.
            InputError: If the controller cannot carry such a request out.
        """
        if request.strength == 0:
            return Move(z, torch.zeros(len(z), dtype=torch.long, device=z.device))
        request = request.for_latents(z)
        move = self.search(z, dataclasses.replace(request, strength=1.0))
        moved, region = move.z, request.region
        if region is not None and not self.searches_region:
            moved = torch.where(region > 0, torch.lerp(z, moved, region), z)
        bad = ~torch.isfinite(moved.flatten(1)).all(1)
        if bool(bad.any()):
            raise NonFiniteError(
                f"The move is not finite for samples {bad.nonzero().flatten().tolist()[:8]} of "
                f"{len(z)}. Check that the critics are trained and the latents standardised."
            )
        if request.strength != 1:
            moved = torch.lerp(z, moved, request.strength)
        return Move(moved, move.evaluations)

    def forward(
        self, z: Tensor, y: Tensor | None = None, *, strength: float = 1.0, seed: int = 0
    ) -> Tensor:
        """The latents moved to targets `y (B, K)` or `(1, K)`, NaN = free, `(B, *latent_shape)`."""
        return self.move(z, Request(target=y, strength=strength, seed=seed)).z


def refuse_where(controller: Controller, where: Critic | None) -> None:
    """Raises an `InputError` if a learned controller is given a critic to satisfy."""
    if where is not None:
        raise InputError(
            f"This {type(controller).__name__} was trained for targets of its attributes and takes "
            f"no critic given later. Use controllers.Ascent for `where`."
        )


def require_finite(value: Tensor, what: str) -> Tensor:
    """`value`, one row a sample.

    Raises:
        NonFiniteError: If it is not finite; `what` names the quantity.
    """
    bad = ~torch.isfinite(value.flatten(1) if value.ndim > 1 else value[:, None]).all(1)
    if bool(bad.any()):
        raise NonFiniteError(
            f"{what} is not finite for {int(bad.sum())} of {len(value)} latents. Check that it is "
            f"trained, and that its latents are of the size it was trained on."
        )
    return value

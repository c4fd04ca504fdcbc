"""The controller: a move of latents towards a request."""

from __future__ import annotations

__all__ = ["Controller", "Move", "refuse_where"]

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
    """Moved latents, and the cost of the move."""

    z: Tensor
    """The new latents, `(B, *latent_shape)`."""

    evaluations: Tensor
    """Evaluations of the controller's networks for each sample, `(B,)` integers."""


class Controller(Saved, abc.ABC):
    """A move `z' = c(z, request)`.

    Subclasses implement `search`, the whole move; strength and region are applied here.
    """

    learned: ClassVar[bool] = False
    """Whether it is a network that was trained for targets of its `names`; such a controller
    refuses `where`."""
    searches_region: ClassVar[bool] = False
    """Whether `search` itself stays within the region of the request."""

    attributes: Critic | None
    """The critic whose gradient it follows; None without one."""
    realism: RealismCritic | None
    """The realism critic that it uses or was trained against; None without one."""

    def __init__(self) -> None:
        super().__init__()
        # instance attributes: class attributes would hide submodules of these names
        self.attributes = self.realism = None

    @property
    def is_limited(self) -> bool:
        """Whether it knows the attributes alone that it was trained for."""
        return self.learned or bool(getattr(self, "names", ()))

    def parts(self) -> dict[str, nn.Module | None]:
        return {"attributes": self.attributes, "realism": self.realism}

    @abc.abstractmethod
    def search(self, z: Tensor, request: Request) -> Move:
        """The whole move of `z (B, *latent_shape)`; the request has a row for each latent."""

    def move(self, z: Tensor, request: Request) -> Move:
        """The move of `z (B, *latent_shape)` towards a request, and its cost.

        Raises:
            NonFiniteError: If the move is not finite.
            InputError: If the controller does not support such a request.
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
    """Raises an `InputError` if the request to a learned controller has a further critic."""
    if where is not None:
        raise InputError(
            f"This {type(controller).__name__} was trained for targets of its attributes and "
            f"cannot satisfy a further critic. Use controllers.Ascent for `where`."
        )

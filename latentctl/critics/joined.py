"""Critics of different attributes over the same latents as one critic."""

from __future__ import annotations

__all__ = ["JoinedCritic"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ShapeError
from .base import Critic


class JoinedCritic(Critic, kind="joined"):
    """Log-odds `(B, K1 + K2 + ...)` of several critics, evaluated one by one.

    Arguments:
        critics: Critics with names, over latents of one shape. The first one gives
            `posterior_std` and `covariance`. Each gives its ties.

    Raises:
        InputError: If one has no names, or two have one in common.
        ShapeError: If they are over latents of different shapes.

    Example:
        >>> from latentctl import AttributeCritic
        >>> parts = [AttributeCritic((8,), [name], width=16) for name in ("Smiling", "Male")]
        >>> both = JoinedCritic(*parts)
        >>> both.names, both(torch.zeros(3, 8)).shape
        (('Smiling', 'Male'), torch.Size([3, 2]))
    """

    def __init__(self, *critics: Critic) -> None:
        super().__init__()
        names = [name for critic in critics for name in critic.names]
        if not critics or not all(critic.names for critic in critics):
            raise InputError("Critics that are joined need names. Name their outputs.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"More than one critic has {', '.join(twice)}. Rename one of them.")
        if len({critic.latent_shape for critic in critics}) > 1:
            shapes = ", ".join(str(critic.latent_shape) for critic in critics)
            raise ShapeError(f"Joined critics need latents of one shape, not {shapes}.")
        self.critics = nn.ModuleList(critics)
        self.names, self.latent_shape = tuple(names), critics[0].latent_shape
        self.ties = tuple(tie for critic in critics for tie in critic.ties)
        # the first critic's own, which are saved with it
        self.register_buffer("posterior_std", critics[0].posterior_std, persistent=False)
        vars(self)["covariance"] = critics[0].covariance

    def parts(self) -> dict[str, nn.Module | None]:
        return {f"critics.{number}": critic for number, critic in enumerate(self.critics)}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> JoinedCritic:
        joined = cls(*parts.values())
        joined.ties = config["ties"]
        return joined

    def __iter__(self) -> Any:
        return iter(self.critics)

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        return torch.cat([critic(z) for critic in self], 1)

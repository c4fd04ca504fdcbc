"""Critics of different attributes over the same latents as one critic."""

from __future__ import annotations

__all__ = ["JoinedCritic", "JoinedPixelCritic", "Member"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, ShapeError, check_positive
from ..latents.names import attribute_names
from ..storage import register_to_config
from .base import Critic
from .pixel import PixelCritic


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

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(weight for critic in self for weight in critic.weights)

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


class Member(Critic, kind="member"):
    """A critic in a sum of packs: with other names, or another weight in the loss of moves.

    Arguments:
        critic: The critic.
        names: Its attributes, in its order, perhaps renamed.
        weight: By which its attributes count in the loss that moves descend; its log-odds stay.
        ties: Those of the critic, renamed, if not given.

    Example:
        >>> from latentctl import AttributeCritic
        >>> member = Member(AttributeCritic((8,), ["Smiling"], width=16), ["Happy"], 2.0)
        >>> member.names, member.weights
        (('Happy',), (2.0,))
    """

    critic: Critic
    weight: float

    @register_to_config
    def __init__(
        self,
        critic: Critic,
        names: Sequence[str],
        weight: float = 1.0,
        ties: Sequence[Sequence[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.critic, self.names = critic, attribute_names(names)
        if len(self.names) != len(critic.names):
            raise InputError(
                f"A critic of {len(critic.names)} attributes needs as many names, not "
                f"{len(self.names)}."
            )
        if ties is None:
            new = dict(zip(critic.names, self.names, strict=True))
            ties = [(new[tie.first], new[tie.second], *tie[2:]) for tie in critic.ties]
        self.ties = ties
        self.weight = check_positive("The weight of a pack", weight)
        self.latent_shape = critic.latent_shape
        # the critic's own, which are saved with it
        self.register_buffer("posterior_std", critic.posterior_std, persistent=False)
        vars(self)["covariance"] = critic.covariance

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(self.weight * weight for weight in self.critic.weights)

    @property
    def attributes(self) -> frozenset[str]:
        return frozenset(self.names)

    def of(self, critic: Critic, instead_of: Critic | None = None) -> Critic:
        return critic if instead_of is self else self

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        logits: Tensor = self.critic(z)
        return logits


class JoinedPixelCritic(PixelCritic):
    """Networks on samples of several packs as one evaluator; each is calibrated on its own.

    Arguments:
        critics: At least one, of the same decoder.
        names: All their attributes together, in the order of `critics`, perhaps renamed.
        order: The names in the order of the outputs.
    """

    def __init__(
        self, critics: Sequence[PixelCritic], names: Sequence[str], order: Sequence[str]
    ) -> None:
        Critic.__init__(self)
        self.critics = nn.ModuleList(critics)
        self.names, self.latent_shape = tuple(order), critics[0].latent_shape
        self.decoder, self.outputs = critics[0].decoder, [names.index(name) for name in order]
        self.register_buffer("posterior_std", critics[0].posterior_std, persistent=False)

    def of_samples(self, x: Tensor) -> Tensor:
        parts: list[Any] = list(self.critics)
        return torch.cat([critic.of_samples(x) for critic in parts], 1)[:, self.outputs]

    def calibrate(self, x: Tensor, labels: Tensor) -> PixelCritic:
        raise InputError("Calibrate the evaluator of each pack before packs are added.")

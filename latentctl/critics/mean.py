r"""Several critics of the same attributes as one, which is harder to exploit than each of them.

.. math:: \mathrm{logit}\, P(a_k \mid z) = \frac{1}{M} \sum_{m=1}^{M} f_{mk}(z)
"""

from __future__ import annotations

__all__ = ["MeanCritic"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import Critic


class MeanCritic(Critic, kind="mean"):
    """The mean log-odds `(B, K)` of critics of the same attributes.

    Arguments:
        critics: Critics with the same names, over latents of one shape. The first one gives
            `posterior_std`, `covariance` and the ties.

    Raises:
        InputError: If there is none, or they differ in names or latents.

    Example:
        >>> from latentctl import AttributeCritic
        >>> parts = [AttributeCritic((8,), ["Smiling"], width=16) for _ in range(2)]
        >>> MeanCritic(*parts)(torch.zeros(3, 8)).shape
        torch.Size([3, 1])
    """

    def __init__(self, *critics: Critic) -> None:
        super().__init__()
        if len({(critic.names, critic.latent_shape) for critic in critics}) != 1:
            found = "; ".join(f"{', '.join(c.names)} of {c.latent_shape}" for c in critics)
            raise InputError(
                f"A MeanCritic takes critics of the same attributes, in the same order, over the "
                f"same latents; found {found or 'none'}."
            )
        first = critics[0]
        self.critics, self.config = nn.ModuleList(critics), {}
        self.names, self.latent_shape, self.ties = first.names, first.latent_shape, first.ties
        # the first critic's own, which are saved with it
        self.register_buffer("posterior_std", first.posterior_std, persistent=False)
        vars(self)["covariance"] = first.covariance

    def parts(self) -> dict[str, nn.Module | None]:
        return {f"critics.{number}": critic for number, critic in enumerate(self.critics)}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], parts: Mapping[str, Any]) -> MeanCritic:
        return cls(*parts.values())

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        return torch.stack([critic(z) for critic in self.critics]).mean(0)

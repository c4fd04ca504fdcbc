r"""What a decoder requires of a prior, and the Gaussian: N(0, I) or the data's moments.

.. math:: p(z) = \mathcal{N}(z \mid \mu, \mathrm{diag}(\sigma^2))
"""

from __future__ import annotations

__all__ = ["Flow", "Gaussian", "Prior", "describe_prior"]

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError, check_rows
from ..latents import Latents, require_latents
from ..random import noise
from ..storage import Saved


class Prior(Protocol):
    """A density over latents that can be sampled."""

    def sample(self, count: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Samples `start ... start + count - 1` of the sequence that `seed` names."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, `(B,)`."""


class Flow(Prior, Protocol):
    """A prior that is an invertible map of white noise."""

    latent_shape: tuple[int, ...]
    kind: str

    def to_base(self, z: Tensor) -> Tensor: ...
    def from_base(self, e: Tensor) -> Tensor: ...
    def check_invertible(self, z: Tensor) -> None: ...


class Gaussian(Saved, kind="gaussian"):
    """An axis-aligned normal distribution over latents.

    Arguments:
        latent_shape: Shape of one latent.
        mean: Mean, broadcastable to `latent_shape`. Zero by default.
        std: Standard deviation, positive, broadcastable to `latent_shape`. One by default.

    Example:
        >>> prior = Gaussian((3,))
        >>> prior.sample(2, seed=0).shape
        torch.Size([2, 3])
        >>> prior.log_prob(torch.zeros(1, 3))
        tensor([-2.7568])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        mean: Tensor | float = 0.0,
        std: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.config = {"latent_shape": list(latent_shape)}
        for name, value in (("mean", mean), ("std", std)):
            value = torch.as_tensor(value).float().expand(self.latent_shape)
            self.register_buffer(name, value.clone())  # an expanded tensor cannot be loaded into
        if not bool((self.std > 0).all()):
            raise InputError(
                f"A Gaussian needs a positive std in every dimension, the smallest given is "
                f"{self.std.min():g}. Leave out or widen the constant dimensions."
            )

    @classmethod
    def fit(cls, latents: Latents) -> Gaussian:
        r"""The Gaussian with the moments of the aggregate posterior.

        .. math:: \mu = \mathbb{E}[m], \quad \sigma^2 = \mathrm{Var}[m] + \mathbb{E}[s^2]

        with :math:`m` and :math:`s` the posterior means and standard deviations.
        """
        require_latents(latents)
        mean, std = latents.moments()
        return cls(latents.latent_shape, mean, std)

    def sample(self, count: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Samples `start ... start + count - 1`, `(count, *latent_shape)`."""
        eps = noise(start, count, self.latent_shape, seed=seed, purpose="prior")
        return self.mean + self.std * eps.to(self.mean.device)

    def to_base(self, z: Tensor) -> Tensor:
        """White noise of latents, both `(B, *latent_shape)`."""
        return (z - self.mean) / self.std

    def from_base(self, e: Tensor) -> Tensor:
        """Latents of white noise, both `(B, *latent_shape)`."""
        return self.mean + self.std * e

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of `z (B, *latent_shape)` in nats, `(B,)`."""
        check_rows(z, self.latent_shape, "This prior is over latents", "Use their own prior.")
        normal = -0.5 * ((z - self.mean) / self.std) ** 2 - self.std.log()
        return normal.flatten(1).sum(1) - 0.5 * math.log(2 * math.pi) * math.prod(self.latent_shape)


def describe_prior(prior: Prior) -> str:
    """The prior in a word or two.

    Example:
        >>> describe_prior(Gaussian((3,))), describe_prior(Gaussian((3,), 1.0))
        ('N(0, I)', 'Gaussian')
    """
    if isinstance(prior, Gaussian) and not bool(prior.mean.any()) and bool((prior.std == 1).all()):
        return "N(0, I)"
    return type(prior).__name__

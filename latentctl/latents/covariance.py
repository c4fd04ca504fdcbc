r"""How latents vary together: the metric in which a move is near or far.

In a VAE every dimension has unit variance and a step costs the same anywhere. The latent of a
rich autoencoder is nearly a small picture: most directions are noise that no data show, some lead
from face to face, and a plain gradient prefers the former. In white coordinates :math:`e` about a
latent,

.. math:: z = z_0 + A e, \quad A^2 = \Sigma = U (\Lambda - \sigma^2) U^\top + \sigma^2 I

a step along what data vary in is cheap, any other is dear. :math:`\Sigma` is that of probabilistic
principal components: the leading ones, and the mean variance of the rest. The symmetric root leaves
the coordinates of a grid where they are.

References:
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999)
    | https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

__all__ = ["Covariance", "default_rank"]

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..random import seeded

if TYPE_CHECKING:
    from .latents import Latents

RANK = 512  # directions of a grid that are known one by one
ROWS = 12_000  # latents that are looked at
ITERATIONS = 4  # of the randomised decomposition


def default_rank(latent_shape: Sequence[int]) -> int:
    """Directions of a grid to know one by one; 0 of a vector, whose prior is N(0, I)."""
    return min(RANK, math.prod(latent_shape) // 2) if len(latent_shape) == 3 else 0


class Covariance(nn.Module):
    """The covariance of latents: leading directions one by one, the rest alike.

    The identity until `learn`. Its size grows with that of a latent, for it is made of latents.

    Arguments:
        latent_shape: Shape of one latent.
        rank: Number of leading directions.

    Example:
        >>> from latentctl import Latents
        >>> z = torch.randn(2000, 8) * torch.tensor([5.0, 3, 1, 1, 1, 1, 1, 1])
        >>> covariance = Covariance((8,), rank=2).learn(Latents(z))
        >>> white = covariance.whiten(z - z.mean(0))
        >>> torch.allclose(white.std(0), torch.ones(8), atol=0.1)
        True
        >>> torch.allclose(covariance.color(white), z - z.mean(0), atol=1e-4)
        True
    """

    basis: Tensor
    std: Tensor
    rest: Tensor

    def __init__(self, latent_shape: Sequence[int], rank: int) -> None:
        super().__init__()
        size = math.prod(latent_shape)
        if not 0 < rank < size:
            raise InputError(
                f"A latent of {size} numbers has 1 to {size - 1} leading directions, not {rank}."
            )
        self.latent_shape = tuple(latent_shape)
        self.register_buffer("basis", torch.zeros(size, rank))
        self.register_buffer("std", torch.ones(rank))
        self.register_buffer("rest", torch.ones(()))

    @torch.no_grad()
    def learn(self, latents: Latents, *, seed: int = 0) -> Covariance:
        """Takes the moments of the means of `latents`, in place.

        Directions that there are too few latents to know count with the rest.
        """
        rows = torch.linspace(0, len(latents) - 1, min(len(latents), ROWS)).long()
        flat = latents[rows].mean.flatten(1).float()
        flat = flat - flat.mean(0)
        count, size = flat.shape
        rank = min(self.basis.shape[1], max(1, count // 2))
        with seeded(seed, "covariance"):
            _, scale, basis = torch.svd_lowrank(flat, q=rank, niter=ITERATIONS)
        variance = scale.square() / count
        left = flat.square().sum() / count - variance.sum()
        rest = (left / (size - rank)).clamp_min(1e-6 * variance.max()).sqrt()
        if not bool(rest > 0):
            raise InputError("All latents are the same, so that they have no covariance.")
        self.basis.zero_()[:, :rank] = basis.to(self.basis)
        self.std.copy_(torch.cat([variance.sqrt(), rest.expand(len(self.std) - rank)]))
        self.rest.copy_(rest)
        return self

    def color(self, e: Tensor) -> Tensor:
        """The move `A e` of white coordinates, `(B, *latent_shape)`; takes gradients back, too."""
        return self._scaled(e, self.std, self.rest)

    def whiten(self, move: Tensor) -> Tensor:
        """The white coordinates of a move, `(B, *latent_shape)`."""
        return self._scaled(move, 1 / self.std, 1 / self.rest)

    def _scaled(self, values: Tensor, leading: Tensor, rest: Tensor) -> Tensor:
        flat = values.flatten(1)
        out = rest * flat + ((flat @ self.basis) * (leading - rest)) @ self.basis.T
        return out.view_as(values)

r"""The covariance of latents, which defines the length of a move (Mahalanobis distance).

The aggregate posterior of a VAE is near N(0, I), so that all directions are alike. The latents of
an autoencoder with large grids have a few directions of large variance and many of small variance,
and a plain gradient step moves along the latter, off the data. In whitened coordinates :math:`e`
about a latent,

.. math:: z = z_0 + A e, \quad A^2 = \Sigma = U (\Lambda - \sigma^2) U^\top + \sigma^2 I

a unit step is one standard deviation of the data in every direction. :math:`\Sigma` is the
covariance of probabilistic PCA: the leading principal components, and the mean variance of the
rest. :math:`A` is the symmetric root, which keeps the layout of a grid.

References:
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999)
    | https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

__all__ = ["Covariance", "default_rank"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..nn.precision import full_precision
from ..random import seeded
from .latents import Latents

RANK = 512  # leading directions of a grid
ROWS = 12_000  # latents that are used
ITERATIONS = 4  # of the randomised SVD


def default_rank(latent_shape: Sequence[int]) -> int:
    """Leading directions of a grid; 0 for a vector, whose prior is N(0, I)."""
    return min(RANK, math.prod(latent_shape) // 2) if len(latent_shape) > 1 else 0


class Covariance(nn.Module):
    """A covariance of latents: leading principal components, and one variance for the rest.

    The identity until `learn`.

    Arguments:
        latent_shape: Shape of one latent.
        rank: Number of leading directions.

    Example:
        >>> from latentctl import Latents
        >>> from latentctl.random import noise
        >>> z = noise(0, 2000, (8,), seed=0) * torch.tensor([5.0, 3, 1, 1, 1, 1, 1, 1])
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
        """Estimates the covariance of the means of `latents`, in place.

        With fewer than two latents for each leading direction, fewer directions are estimated.
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
            raise InputError("All latents are equal, so their covariance is zero. Check the data.")
        self.basis.zero_()[:, :rank] = basis.to(self.basis)
        self.std.copy_(torch.cat([variance.sqrt(), rest.expand(len(self.std) - rank)]))
        self.rest.copy_(rest)
        return self

    def color(self, e: Tensor) -> Tensor:
        """The move `A e` of whitened coordinates, `(B, *latent_shape)`; `A` also maps gradients."""
        return self._scaled(e, self.std, self.rest)

    def whiten(self, move: Tensor) -> Tensor:
        """The whitened coordinates of a move, `(B, *latent_shape)`."""
        return self._scaled(move, 1 / self.std, 1 / self.rest)

    def _scaled(self, values: Tensor, leading: Tensor, rest: Tensor) -> Tensor:
        flat = values.flatten(1)
        with full_precision(flat):
            out = rest * flat + ((flat @ self.basis) * (leading - rest)) @ self.basis.T
        return out.view_as(values)

r"""Whitening: the affine map between latents with the data's moments and white noise.

.. math:: e = U \Lambda^{-1/2} U^\top (z - \mu), \quad \mathrm{Cov}[z] = U \Lambda U^\top

The square root is symmetric (ZCA). On vectors it mixes all dimensions, on others the channels
of a cell, with the same matrix in every cell. The moments are those of the aggregate
posterior, :math:`\mathrm{Cov}[z] = \mathrm{Cov}[m] + \mathrm{diag}\, \mathbb{E}[s^2]`. The map is
computed in closed form, so that a flow after it need not learn the correlations.
"""

from __future__ import annotations

__all__ = ["Whitening"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError, ShapeError
from ..latents import Latents
from ..nn.grids import check_shape
from ..nn.precision import full_precision

CHUNK = 4096  # rows at a time
SMALLEST = 1e-6  # relative std below which a direction counts as constant


class Whitening(nn.Module):
    """An affine map to zero mean and unit covariance; the identity until `fit`.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.

    Example:
        >>> from latentctl import Latents
        >>> from latentctl.random import noise
        >>> z = noise(0, 500, (3,), seed=0) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 5]])
        >>> white = Whitening.fit(Latents(z))
        >>> torch.allclose(white(z).T.cov(), torch.eye(3), atol=0.02)
        True
        >>> torch.allclose(white.inverse(white(z)), z, atol=1e-4)
        True
    """

    mean: Tensor
    basis: Tensor
    std: Tensor

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        axis, cells = latent_shape[0], (1,) * check_shape(latent_shape)
        self.latent_shape = tuple(latent_shape)
        self.register_buffer("mean", torch.zeros(axis, *cells))
        self.register_buffer("basis", torch.eye(axis))
        self.register_buffer("std", torch.ones(axis, *cells))

    @classmethod
    def fit(cls, latents: Latents) -> Whitening:
        """The map for these latents.

        Raises:
            InputError: If there are no more samples than dimensions, or some direction is constant.
        """
        white = cls(latents.latent_shape)
        axis, count = latents.latent_shape[0], len(latents)
        if count <= axis:
            raise InputError(
                f"A density over {axis} dimensions needs more than {axis} samples, these are "
                f"{count}. Encode more data, or use Gaussian.fit, which needs two."
            )
        total, rows = torch.zeros(axis, dtype=torch.float64), 0
        second = torch.zeros(axis, axis, dtype=torch.float64)
        shift = _by_axis(latents[0].mean).mean(0)
        for start in range(0, count, CHUNK):
            batch = latents[start : start + CHUNK]
            values = _by_axis(batch.mean) - shift  # (n, axis)
            total, second = total + values.sum(0), second + values.T @ values
            rows += len(values)
            if batch.std is not None:
                second += _by_axis(batch.std).square().sum(0).diag()
        offset = total / rows
        variance, basis = torch.linalg.eigh(second / rows - torch.outer(offset, offset))
        std = variance.clamp_min(0).sqrt()
        flat = (std <= SMALLEST * std.max()).nonzero().flatten()
        if len(flat):
            constant = (basis[:, flat].abs().amax(1) > 0.5).nonzero().flatten().tolist()
            raise InputError(
                f"{len(flat)} of {axis} latent directions are constant (about dimensions "
                f"{constant[:8]}), so there is no density over them. Leave them out in `encode` "
                f"and `decode`, or encode data that vary in them."
            )
        white.mean.copy_((shift + offset).view_as(white.mean))
        white.basis.copy_(basis)
        white.std.copy_(std.view_as(white.std))
        return white

    @property
    def log_det(self) -> Tensor:
        """Log-determinant of `forward`, a scalar."""
        return -self.std.log().sum() * math.prod(self.latent_shape[1:])

    def rotate(self, z: Tensor) -> Tensor:
        """Coordinates along the eigenvectors; neither shifted nor scaled."""
        return self._turned("ba...,ak->bk...", z)

    def rotate_back(self, z: Tensor) -> Tensor:
        """The inverse of `rotate`."""
        return self._turned("bk...,ak->ba...", z)

    def _turned(self, equation: str, z: Tensor) -> Tensor:
        with full_precision(z):
            turned: Tensor = torch.einsum(equation, z, self.basis)
        return turned

    def forward(self, z: Tensor) -> Tensor:
        """White latents of `z (B, *latent_shape)`."""
        if z.shape[1:] != self.latent_shape:
            raise ShapeError(
                f"This prior is over latents (B, {', '.join(map(str, self.latent_shape))}), "
                f"it was given {tuple(z.shape)}."
            )
        return self.rotate_back(self.rotate(z - self.mean) / self.std)

    def inverse(self, e: Tensor) -> Tensor:
        """Latents of white `e (B, *latent_shape)`."""
        return self.rotate_back(self.rotate(e) * self.std) + self.mean


def _by_axis(values: Tensor) -> Tensor:
    """`(B, A, ...)` as `(B * cells, A)` in float64, on the CPU."""
    return values.cpu().double().transpose(0, 1).flatten(1).T

r"""Whether a latent looks like a sample of N(0, I): by norm, mean and spectrum.

A norm of :math:`\sqrt D` alone says little: a pattern that is written over the noise can have it.
Under N(0, I) these are exact:

.. math::
    \|z\|^2 \sim \chi^2_D, \quad \frac{1}{\sqrt D} \sum_i z_i \sim \mathcal{N}(0, 1), \quad
    \sum_{f \in \mathrm{band}} \hat z_f^2 \sim \chi^2_{|\mathrm{band}|}

with :math:`\hat z` the orthonormal Hartley transform of each channel of a grid, real and white as
well, in four bands of frequency. The p-value is the smallest of the two-sided ones, times their
number (Bonferroni).

References:
    | Tuning-Free Alignment of Diffusion Models with Direct Noise Optimization (Tang et al., 2024)
    | https://arxiv.org/abs/2405.18881
"""

from __future__ import annotations

__all__ = ["shared_pattern", "typicality"]

import math

import torch
from torch import Tensor

from ..nn.precision import double_precision

BANDS = 4


def typicality(z: Tensor) -> Tensor:
    """The p-value of each latent `(B, *latent_shape)` under N(0, I), `(B,)` in [0, 1].

    It is uniform or larger for samples of N(0, I): below 0.01 for at most 1 % of them. Encodings of
    an autoencoder need not be like such samples; noise of a diffusion model must.

    Example:
        >>> from latentctl.random import noise
        >>> z = noise(0, 4, (1, 8, 8), seed=0)
        >>> (typicality(z) > 0.01).tolist(), bool(typicality(z.sort(-1).values).max() < 0.01)
        ([True, True, True, True], True)
    """
    rows = double_precision(z).flatten(1)
    size = rows.shape[1]
    tests = [_two_sided(rows.square().sum(1), size)]
    if size > 1:
        mean = rows.sum(1) / math.sqrt(size)
        tests.append(torch.special.erfc(mean.abs() / math.sqrt(2)))
    if z.ndim >= 3:
        tests += _spectrum(double_precision(z))
    p = torch.stack(tests, 1)
    return (p.amin(1) * p.shape[1]).clamp(max=1).to(z)


def shared_pattern(z: Tensor) -> float:
    """The p-value that latents `(B, *latent_shape)` of N(0, I) share no pattern.

    The mean of B samples is N(0, 1/B). A controller that writes one pattern over all noises of a
    request gives a small value, also where each latent by itself is typical.
    """
    mean = double_precision(z).flatten(1).mean(0)
    return float(_two_sided(len(z) * mean.square().sum()[None], len(mean)))


def _spectrum(z: Tensor) -> list[Tensor]:
    """The p-values `(B,)` of bands of frequency; the axes after the channels are cells."""
    sides = z.shape[2:]
    axes = tuple(range(2, z.ndim))
    transform = torch.fft.fftn(z, dim=axes, norm="ortho")
    power = (transform.real - transform.imag).square()
    squares = torch.zeros(sides, dtype=torch.float64, device=z.device)
    for axis, side in enumerate(sides):
        place = torch.fft.fftfreq(side, dtype=torch.float64, device=z.device)
        squares = squares + place.view(-1, *[1] * (len(sides) - axis - 1)).square()
    radius = squares.sqrt() / squares.amax().sqrt().clamp_min(1e-9)
    band = (radius * BANDS).long().clamp(max=BANDS - 1)
    found = []
    for number in range(BANDS):
        inside = band == number
        if bool(inside.any()):
            chosen = power[:, :, inside]
            found.append(_two_sided(chosen.flatten(1).sum(1), chosen[0].numel()))
    return found


def _two_sided(square: Tensor, freedom: int) -> Tensor:
    """The two-sided p-value of a chi-squared variable."""
    half = torch.full_like(square, freedom / 2)
    below = torch.special.gammainc(half, square / 2)
    above = torch.special.gammaincc(half, square / 2)
    return (2 * torch.minimum(below, above)).clamp(max=1)

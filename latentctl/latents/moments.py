r"""Moments of the aggregate posterior :math:`q(z) = \mathbb{E}_x\, q(z \mid x)`.

With :math:`q(z \mid x) = \mathcal{N}(m, s^2)` for each sample of a data set,

.. math::
    \mathbb{E}[z] = \mathbb{E}[m], \quad
    \mathrm{std}[z] = \sqrt{\mathrm{Var}[m] + \mathbb{E}[s^2]}, \quad
    \bar\sigma = \mathbb{E}[s]

Chunks of rows are summed in float64 about the first row: memory does not grow with the cache, and
a large mean costs no precision.
"""

from __future__ import annotations

__all__ = ["aggregate", "finite_floats"]

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import InputError
from ..nn.precision import double_precision

CHUNK = 1024  # rows at a time


def aggregate(
    posteriors: Iterable[tuple[Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, std and mean posterior std over all rows, three float32 tensors `latent_shape`.

    Arguments:
        posteriors: Pairs of means and stds `(n, *latent_shape)`; all stds are None for a
            deterministic encoder, and the third result is as in `Latents.posterior_std`.

    Raises:
        InputError: If there is no row.

    Example:
        >>> aggregate([(torch.tensor([[-3.0], [3.0]]), torch.full((2, 1), 4.0))])
        (tensor([0.]), tensor([5.]), tensor([4.]))
    """
    count, shift, point = 0, None, True
    first = second = width = energy = torch.zeros((), dtype=torch.float64)
    for means, stds in posteriors:
        for start in range(0, len(means), CHUNK):
            mean = double_precision(means[start : start + CHUNK])
            shift = mean[0] if shift is None else shift
            count += len(mean)
            first = (mean - shift).sum(0) + first
            second = (mean - shift).square().sum(0) + second
            if stds is not None:
                std = double_precision(stds[start : start + CHUNK])
                width = std.sum(0) + width
                energy = std.square().sum(0) + energy
                point = False
    if shift is None:
        raise InputError("There are no latents, so they have no moments. Give at least one.")
    variance = (second / count - (first / count).square()).clamp_min(0)
    mean = shift + first / count
    std = (variance + (energy / count).to(mean.device)).sqrt()
    width = variance.mean().sqrt().expand_as(mean).clone() if point else width / count
    mean, std, width = (value.float().to(means.device) for value in (mean, std, width))
    return mean, std, width


def finite_floats(value: Tensor, what: str) -> Tensor:
    """`value` in float32; raises an `InputError` that lists its rows that are not finite."""
    value = value.detach().to(torch.float32)
    if not bool(torch.isfinite(value).all()):
        rows = (~torch.isfinite(value.flatten(1))).any(1).nonzero().flatten().tolist()
        raise InputError(f"Every {what} must be finite; rows {rows[:8]} are not.")
    return value

r"""Reconstruction error of an autoencoder, and how well its prior matches the encodings.

The base noise :math:`e` of encodings is N(0, I) if the prior is right. With the moments
:math:`\mu_i, \sigma_i` of each of its dimensions,

.. math:: \mathrm{KL} = \frac{1}{2 d} \sum_i (\mu_i^2 + \sigma_i^2 - 1 - \ln \sigma_i^2) - \frac1N

in nats per dimension is the gain of a Gaussian with the data's moments, less the bias of `N`
samples. Excess kurtosis and correlation measure what such a Gaussian would not model and a flow
would. The correlation sums over all pairs of dimensions, less the bias of `N` samples,

.. math:: r = \Big( \frac{1}{d} \sum_{i \ne j} r_{ij}^2 - \frac{d - 1}{N - 1} \Big)^{1/2}
"""

from __future__ import annotations

__all__ = ["ADVICE", "latent_statistics", "prior_advice", "reconstruction"]

import math
from typing import Any

import torch
from torch import Tensor

from ..decoder import Decoder
from ..random import noise

DIMENSIONS = 256  # most dimensions in the correlation, evenly spread
DIVERGENCE, CORRELATION, KURTOSIS = 0.05, 0.3, 0.5  # above: the prior does not fit


@torch.no_grad()
def reconstruction(decoder: Decoder, x: Tensor, batch_size: int = 16) -> dict[str, float]:
    """Reconstruction error of `decode(encode(x).mean)` on samples `x (N, *sample_shape)`.

    Returns:
        `error`, the root mean square in the units of the samples, and `explained`, the share of
        their variance that is kept: 1 is perfect, 0 is the mean sample. Of integer samples,
        `wrong`, the share of entries that differ.

    Example:
        >>> import latentctl
        >>> halves = (torch.nn.Linear(2, 1), torch.nn.Linear(1, 2))
        >>> sorted(reconstruction(latentctl.wrap(halves), torch.eye(8, 2)))
        ['error', 'explained']
    """
    z = decoder.encode(x, batch_size=batch_size).mean
    back = decoder.decode(z, batch_size=batch_size).cpu()
    x = x.cpu()
    if not x.is_floating_point():
        return {"wrong": float((back.round() != x).double().mean())}
    missed = (back - x).double().square().mean()
    variance = x.double().var(0, unbiased=False).mean().clamp_min(1e-12)
    return {"error": float(missed.sqrt()), "explained": float(1 - missed / variance)}


@torch.no_grad()
def latent_statistics(
    decoder: Decoder, x: Tensor, batch_size: int = 16, seed: int = 0
) -> dict[str, float]:
    """Statistics of the encodings of samples `x (N, *sample_shape)`, N at least 2.

    A posterior with a std is sampled once.

    Returns:
        `mean` (root mean square over the dimensions), `std_lowest`, `std_median`, `std_highest`,
        `kurtosis` (mean excess, 0 for a normal distribution) and `correlation` (`r` above, which
        may exceed 1) of the latents. Where the prior is a map of white noise, `divergence` in nats
        per dimension, as above, and the correlation and kurtosis are those of the base noise.
    """
    posterior = decoder.encode(x, batch_size=batch_size)
    eps = noise(0, len(x), decoder.latent_shape, seed=seed, purpose="posterior")
    z = posterior.sample(eps.to(posterior.mean)).cpu()
    flat = z.flatten(1).double()
    std = flat.std(0, unbiased=False)
    found = {
        "mean": float(flat.mean(0).square().mean().sqrt()),
        "std_lowest": float(std.min()),
        "std_median": float(std.median()),
        "std_highest": float(std.max()),
    }
    prior: Any = decoder.prior
    known = hasattr(prior, "to_base")
    home = prior.sample(1).device
    base = (prior.to_base(z.to(home)).cpu() if known else z).flatten(1).double()
    mean, variance = base.mean(0), base.var(0, unbiased=False).clamp_min(1e-12)
    white = (base - mean) / variance.sqrt()
    found["kurtosis"] = float(white.pow(4).mean() - 3 * (1 - 2 / len(z)))  # of N normal numbers
    found["correlation"] = _correlation(white)
    if known:
        gain = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        found["divergence"] = max(0.0, float(gain) - 1 / len(z))
    return found


ADVICE = {
    "keep": "The prior fits the latents: keep it.",
    "gaussian": "The latents are normal with other moments. Take "
    "latentctl.Gaussian.fit(latents) as prior=, or standardise the latents.",
    "flow": "The latents are not normal and independent. Fit a flow and decode through it: "
    "decoder.through(latentctl.LatentFlow.fit(latents)), where N(0, I) holds.",
    "unknown": "The prior has no base noise to compare with. No misfit was found.",
}


def prior_advice(statistics: dict[str, float]) -> str:
    """`keep` the prior, fit a `gaussian`, fit a `flow`; `unknown` where the prior has no base."""
    if abs(statistics["kurtosis"]) > KURTOSIS or statistics["correlation"] > CORRELATION:
        return "flow"
    if "divergence" not in statistics:
        return "unknown"
    return "gaussian" if statistics["divergence"] > DIVERGENCE else "keep"


def _correlation(white: Tensor) -> float:
    count, size = white.shape
    some = white[:, torch.linspace(0, size - 1, min(size, DIMENSIONS)).long()]
    if some.shape[1] < 2:
        return 0.0
    products = (some.T @ some / count).square()
    shared = float(products.sum() - products.diag().sum()) / len(products)
    return math.sqrt(max(0.0, shared - (len(products) - 1) / (count - 1)))

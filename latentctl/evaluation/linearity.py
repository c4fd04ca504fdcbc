r"""How much of what a decoder draws is linear in its latent: whether attribute vectors can exist.

For a latent with base noise :math:`e \sim \mathcal{N}(0, I)` the best linear prediction of a sample
has the coefficients :math:`A = \mathbb{E}[(x - \bar x) e^T]`, and explains the share
:math:`\|A\|^2 / \mathbb{E}\|x - \bar x\|^2` of its variance. The product of two estimates from
independent halves has no bias.
"""

from __future__ import annotations

__all__ = ["linear_share"]

from typing import Any

import torch
from torch import Tensor

from ..decoder import Decoder

SAMPLES = 256


@torch.no_grad()
def linear_share(decoder: Decoder, batch_size: int = 16, seed: int = 0) -> float:
    """Share in [0, 1] of the variance of prior samples that is linear in the latent.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(2, 12), decode="forward")
        >>> linear_share(decoder) > 0.9
        True
    """
    prior: Any = decoder.prior
    z = prior.sample(SAMPLES, seed=seed)
    x = decoder.decode(z.to(decoder.device), batch_size=batch_size).cpu().flatten(1).double()
    base = (prior.to_base(z) if hasattr(prior, "to_base") else z).cpu().flatten(1).double()
    x = x - x.mean(0)
    halves = zip(x.chunk(2), base.chunk(2), strict=True)
    first, second = (part.T @ noise / len(part) for part, noise in halves)
    explained = float((first * second).sum())
    return min(1.0, max(0.0, explained / max(float(_variance(x)), 1e-12)))


def _variance(x: Tensor) -> Tensor:
    return x.square().sum(1).mean()

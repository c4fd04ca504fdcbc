"""The starts of `OneToMany`, and the draw among them."""

from __future__ import annotations

__all__ = ["draw_start", "finite_mean", "starts_apart"]

from collections.abc import Sequence

import torch
from torch import Tensor

from ...random import noise

APART = 4.0  # distance of the nearest two starts
CANDIDATES = 1024  # of which the starts are chosen
RARE = -12.0  # least log-share of a start


def starts_apart(count: int, latent_shape: Sequence[int]) -> Tensor:
    """Latents `(count, *latent_shape)` far from each other, by farthest-point sampling.

    Example:
        >>> starts = starts_apart(16, (4,))
        >>> starts.shape, round(float(torch.pdist(starts).min()), 3)
        (torch.Size([16, 4]), 4.0)
    """
    candidates = noise(0, max(CANDIDATES, count), latent_shape, seed=0, purpose="starts of answers")
    flat = candidates.flatten(1)
    order, far = [0], torch.full((len(flat),), torch.inf)
    while len(order) < count:
        far = torch.minimum(far, (flat - flat[order[-1]]).norm(dim=1))
        order.append(int(far.argmax()))
    nearest = torch.pdist(flat[order]).min() if count > 1 else torch.tensor(APART)
    return candidates[order] * (APART / nearest)


def draw_start(
    costs: Tensor, log_share: Tensor, scale: Tensor, size: int, uniform: Tensor
) -> Tensor:
    """The number of a start for each pair, `(B,)`, drawn by costs and shares `(B, S)`.

    Arguments:
        costs: Mean cost of the `size` elements of an output; infinite for a start that is refused.
        log_share: Log-shares of the starts, which count once the scale has narrowed.
        scale: The scale of the costs and its first value, `(2,)`.
        size: Elements of an output, `D`.
        uniform: Uniform numbers of the draw, `(B, S)`.
    """
    now, widest = scale.clamp_min(1e-12)
    share = log_share.nan_to_num().clamp_min(RARE) * (1 - now / widest).clamp_min(0)
    gumbel = -(-uniform.clamp(1e-9, 1 - 1e-7).log()).log()
    chosen: Tensor = (share - costs * (size / now) + gumbel).argmax(1)
    return chosen


def finite_mean(values: Tensor) -> Tensor:
    """Mean of the finite values; 0 if there are none."""
    return values.masked_fill(~values.isfinite(), torch.nan).nanmean().nan_to_num()

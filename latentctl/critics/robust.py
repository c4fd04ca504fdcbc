r"""Adversarial moves of latents, against which critics are trained.

A critic that is fitted to encodings alone has directions that change its output and not the sample,
and ascent follows them. Trained on latents that were moved against it,

.. math::
    \min_\theta \; \mathbb{E}_{z, y} \max_{\|\delta\| \le r} \;
        -\log P_\theta(y_k \mid z + \delta), \quad k \sim U(1, K),

it needs a longer move, along what the classes differ in, and other networks agree with its edits
more often (`benchmarks/results/edits.md`). The maximum is approximated by one step of gradient
ascent from a random place, which was as good as two.

References:
    | Towards Deep Learning Models Resistant to Adversarial Attacks (Madry et al., 2017)
    | https://arxiv.org/abs/1706.06083
    | Fast Is Better than Free: Revisiting Adversarial Training (Wong et al., 2020)
    | https://arxiv.org/abs/2001.03994
    | Adversarial Robustness as a Prior for Learned Representations (Engstrom et al., 2019)
    | https://arxiv.org/abs/1906.00945
"""

from __future__ import annotations

__all__ = ["adversarial_moves"]

import torch
from torch import Tensor

from ..training import Step
from .base import Critic
from .log_odds import cross_entropy

STRIDE = 1.5  # length of the step in radii, before the move is shortened to the radius


def adversarial_moves(
    critic: Critic, z: Tensor, labels: Tensor, radius: float, step: Step
) -> Tensor:
    """Moves `(B, *latent_shape)` that raise the cross-entropy of one random label of each latent.

    The largest length differs from latent to latent, so that the critic stays accurate near the
    data.

    Arguments:
        critic: The critic.
        z: Latents, `(B, *latent_shape)`.
        labels: Labels, `(B, K)` in [0, 1], NaN where unknown.
        radius: Largest length of a move.
        step: The step of the training, which decides every random number.
    """
    column = step.integers(labels.shape[1], purpose="attacked")[:, None]
    label = labels.gather(1, column)
    most = radius * step.uniform(1, purpose="radius").sqrt()
    move = step.normal(*z.shape[1:], purpose="move").flatten(1)
    move = move / _length(move) * most * step.uniform(1, purpose="length")
    with torch.enable_grad():
        here = (z + move.view_as(z)).detach().requires_grad_()
        loss = cross_entropy(critic(here).gather(1, column), label).sum()
        (gradient,) = torch.autograd.grad(loss, here)
    slope = gradient.flatten(1)
    move = move + STRIDE * most * slope / _length(slope)
    return (move * (most / _length(move)).clamp_max(1)).view_as(z)


def _length(move: Tensor) -> Tensor:
    """Lengths `(B, 1)` of `(B, D)`, at least a tiny number."""
    length: Tensor = move.norm(dim=1, keepdim=True)
    return length.clamp_min(1e-12)

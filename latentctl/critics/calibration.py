r"""Platt scaling: probabilities from scores, by a scale and a bias for each output.

.. math:: \min_{s, b} \; H\big(y, \mathrm{sigmoid}(s \ell + b)\big) + \epsilon (\log^2 s + b^2)

over labelled data that the scores :math:`\ell` were not fitted on, with cross-entropy :math:`H`.

References:
    | Probabilistic Outputs for Support Vector Machines (Platt, 1999)
    | https://home.cs.colorado.edu/~mozer/Teaching/syllabi/6622/papers/Platt1999.pdf
"""

from __future__ import annotations

__all__ = ["platt_scaling"]

import torch
from torch import Tensor

from .log_odds import cross_entropy

PENALTY = 1e-3  # keeps the scale finite where the classes are separable


def platt_scaling(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and bias of each output, both `(K,)`.

    Arguments:
        logits: Scores as log-odds, `(N, K)`.
        labels: Labels in [0, 1], `(N, K)`, NaN = unknown.

    Example:
        >>> logits = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> scale, bias = platt_scaling(logits, torch.tensor([[0.0], [1.0], [0.0], [1.0]]))
        >>> 0 < float(scale) < 1  # such scores are overconfident
        True
    """
    logits = logits.detach()
    labels = labels.to(logits)
    known = (~torch.isnan(labels)).sum(0).clamp_min(1)
    log_scale = logits.new_zeros(logits.shape[1], requires_grad=True)
    bias = logits.new_zeros(logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([log_scale, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        entropy = cross_entropy(log_scale.exp() * logits + bias, labels).sum(0) / known
        total: Tensor = entropy.sum() + PENALTY * (log_scale**2 + bias**2).sum()
        total.backward()
        return total

    with torch.enable_grad():
        search.step(loss)
    return log_scale.detach().exp(), bias.detach()

r"""Distance of generated samples from real ones in a feature space.

Gaussians are fitted to the features of both sets and compared by the squared Frechet
(2-Wasserstein) distance

    d^2 = |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)).

The trace of the root is the sum of the singular values of `R_a^T R_b` for any factors
`C = R R^T`; with the centred features as factors no matrix square root is needed.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
      (Heusel et al., 2017)
    | https://arxiv.org/abs/1706.08500
"""

from __future__ import annotations

__all__ = ["frechet_distance"]

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from ..nn.precision import double_precision


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features, in float64.

    It is biased upwards for small sets: compare values of equally large sets only, with several
    times as many samples as features.

    Arguments:
        a: Features `(N, F)`, N at least 2.
        b: Features `(M, F)`, M at least 2.

    Raises:
        ShapeError: Not two matrices of the same width, or fewer than two rows.
        InputError: A feature is NaN or infinite.

    Example:
        >>> a = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(a, a + 3), 6)
        36.0
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ShapeError(
            "frechet_distance takes features (N, F) and (M, F) of two samples or more, found "
            f"{tuple(a.shape)} and {tuple(b.shape)}."
        )
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise InputError("A feature is NaN or infinite: check the images it was computed from.")
    mean_a, root_a = _moments(a)
    mean_b, root_b = _moments(b)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(0.0, float((mean_a - mean_b).square().sum() + spread))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(F,)` and a triangular `R` of at most F rows with `R^T R` the covariance."""
    features = double_precision(features)
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R / (len(features) - 1) ** 0.5
    return mean, root

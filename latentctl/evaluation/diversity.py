r"""Whether generated samples cover the real ones, by nearest neighbours in a feature space.

The ball of a sample reaches its k-th nearest neighbour in its own set. Improved precision and
recall (Kynkaanniemi et al., 2019) count the samples in the union of the other set's balls:

    precision = share of fake samples inside some ball of the real ones,
    recall    = share of real samples inside some ball of the fake ones.

The large ball of one outlier can cover many samples, so density and coverage (Naeem et al., 2020)
use the balls of the real samples only:

    density  = 1 / (k M) sum over fake j of  #{real i : fake j in ball i},
    coverage = share of real samples whose ball holds a fake sample.

Density may exceed one, the other three lie in [0, 1]. All depend on N, M and k: compare values
of equally large sets only.
"""

from __future__ import annotations

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from ..nn.precision import double_precision

CHUNK = 1024  # rows of the distance matrix that are held at once


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1] of fake samples in real balls, and of real samples in fake balls."""

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """Fake samples in a real ball over `k`, and the share of real balls that hold any."""

    density: float
    coverage: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> PrecisionRecall:
    """Improved precision and recall of fake features against real ones.

    Arguments:
        real: Features `(N, F)`.
        fake: Features `(M, F)`.
        k: Which nearest neighbour a ball reaches, less than N and M.

    Raises:
        ShapeError: Not two matrices of the same width, or not more than `k` rows.
        InputError: A feature is NaN or infinite.

    References:
        | Improved Precision and Recall Metric for Assessing Generative Models
          (Kynkaanniemi et al., 2019)
        | https://arxiv.org/abs/1904.06991

    Example:
        >>> real, fake = torch.arange(8.0)[:, None], torch.tensor([[0.1], [3.4], [99.0], [99.1]])
        >>> precision_recall(real, fake, k=1)
        PrecisionRecall(precision=0.5, recall=0.875)
    """
    _check(real, fake, k)
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    realistic = [(d <= real_radius).any(1) for d in _distances(fake, real)]
    reached = [(d <= fake_radius).any(1) for d in _distances(real, fake)]
    return PrecisionRecall(
        precision=double_precision(torch.cat(realistic)).mean().item(),
        recall=double_precision(torch.cat(reached)).mean().item(),
    )


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage of fake features around real ones.

    Arguments:
        real: Features `(N, F)`.
        fake: Features `(M, F)`.
        k: As in `precision_recall`.

    Raises:
        ShapeError: Not two matrices of the same width, or not more than `k` rows.
        InputError: A feature is NaN or infinite.

    References:
        | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020)
        | https://arxiv.org/abs/2002.09797

    Example:
        >>> real = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> density_coverage(real, real).coverage
        1.0
    """
    _check(real, fake, k)
    radius = _radii(real, k)
    counts = torch.stack([(d <= radius).sum(0) for d in _distances(fake, real)]).sum(0)
    return DensityCoverage(
        density=(double_precision(counts).sum() / (k * len(fake))).item(),
        coverage=double_precision(counts > 0).mean().item(),
    )


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances `(<= CHUNK, M)`, one block of rows of `a` after another."""
    # cdist by a matrix product is inaccurate for the small distances that decide membership
    for rows in torch.split(a.float(), CHUNK):
        yield torch.cdist(rows, b.float(), compute_mode="donot_use_mm_for_euclid_dist")


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance `(N,)` of each sample to its k-th nearest neighbour, itself not counted."""
    blocks = _distances(features, features)
    return torch.cat([d.kthvalue(k + 1, dim=1).values for d in blocks])


def _check(real: Tensor, fake: Tensor, k: int) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ShapeError(
            f"real and fake must be features (N, F) and (M, F), found {tuple(real.shape)} and "
            f"{tuple(fake.shape)}."
        )
    if k < 1 or min(len(real), len(fake)) <= k:
        raise ShapeError(
            f"k = {k} neighbours need more than {k} samples in each set and k >= 1, found "
            f"{len(real)} real and {len(fake)} fake ones."
        )
    if not bool(torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise InputError("A feature is NaN or infinite: check the images it was computed from.")

r"""A mixture of Gaussians with full covariances: the cheap and honest rival of a flow.

.. math:: p(z) = \sum_k \pi_k \, \mathcal{N}(z \mid \mu_k, L_k L_k^\top)

Fitted in seconds by scikit-learn (the extra `bench`); density and sampling are exact.

References:
    | From Variational to Deterministic Autoencoders (Ghosh et al., 2019)
    | https://arxiv.org/abs/1903.12436
"""

from __future__ import annotations

__all__ = ["GaussianMixture"]

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import InputError, ShapeError
from ..random import generator, noise

if TYPE_CHECKING:
    from ..latents import Latents

RIDGE = 1e-4  # of the mean variance, added to every direction of a component


class GaussianMixture(nn.Module):
    """A mixture of full-covariance Gaussians over latents: a `Prior`.

    Arguments:
        latent_shape: Shape of one latent, `D` numbers.
        weights: Shares of the components, `(K,)`, that sum to one.
        means: `(K, D)`.
        roots: Lower Cholesky factors of the covariances, `(K, D, D)`.

    Example:
        >>> prior = GaussianMixture((2,), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> prior.sample(3).shape, prior.log_prob(torch.zeros(1, 2))
        (torch.Size([3, 2]), tensor([-1.8379]))
    """

    weights: Tensor
    means: Tensor
    roots: Tensor

    def __init__(
        self, latent_shape: Sequence[int], weights: Tensor, means: Tensor, roots: Tensor
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        count, size = len(weights), math.prod(self.latent_shape)
        if means.shape != (count, size) or roots.shape != (count, size, size):
            raise ShapeError(
                f"{count} components over {size} dimensions have means {(count, size)} and roots "
                f"{(count, size, size)}; found {tuple(means.shape)} and {tuple(roots.shape)}."
            )
        self.register_buffer("weights", weights.float())
        self.register_buffer("means", means.float())
        self.register_buffer("roots", roots.float())

    @classmethod
    def fit(
        cls, latents: Latents, components: int = 10, *, max_rounds: int = 100, seed: int = 0
    ) -> GaussianMixture:
        """The mixture that expectation maximisation finds, on one sample of each posterior.

        Raises:
            InputError: If there are too few latents for so many components, or no scikit-learn.
        """
        size, count = math.prod(latents.latent_shape), len(latents)
        if components < 1 or count <= components * size:
            raise InputError(
                f"{components} full covariances over {size} dimensions need more than "
                f"{components * size} latents, these are {count}. Ask for fewer components."
            )
        try:
            from sklearn.mixture import GaussianMixture as Sklearn
        except ImportError as error:
            raise InputError(
                "A GaussianMixture is fitted by scikit-learn: pip install scikit-learn."
            ) from error
        eps = torch.randn(
            count, *latents.latent_shape, generator=generator(seed, purpose="mixture")
        )
        z = latents.to("cpu").sample(eps).flatten(1).double()
        scale = z.var(0).mean()
        found = Sklearn(
            components, max_iter=max_rounds, reg_covar=float(RIDGE * scale), random_state=seed
        ).fit(z.numpy())
        return cls(
            latents.latent_shape,
            torch.from_numpy(found.weights_),
            torch.from_numpy(found.means_),
            torch.linalg.cholesky(torch.from_numpy(found.covariances_)),
        )

    def sample(self, count: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Samples `start ... start + count - 1`, `(count, *latent_shape)`."""
        size = self.means.shape[1]
        chosen = noise(start, count, (), seed=seed, purpose="component", uniform=True)
        bounds = self.weights.cumsum(0).cpu()
        k = torch.searchsorted(bounds, chosen).clamp_max(len(bounds) - 1).to(self.means.device)
        eps = noise(start, count, (size,), seed=seed, purpose="prior").to(self.means.device)
        z = self.means[k]
        for component in k.unique():
            rows = k == component
            z[rows] += eps[rows] @ self.roots[component].T
        return z.view(count, *self.latent_shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of `z (B, *latent_shape)` in nats, `(B,)`."""
        if z.shape[1:] != self.latent_shape:
            raise ShapeError(
                f"This prior is over latents (B, {', '.join(map(str, self.latent_shape))}), "
                f"it was given {tuple(z.shape)}."
            )
        centred = z.flatten(1) - self.means[:, None]  # (K, B, D)
        white = torch.linalg.solve_triangular(self.roots, centred.mT, upper=False)
        log_det = self.roots.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * math.log(2 * math.pi) * self.means.shape[1]
        each = -0.5 * white.square().sum(1) - log_det[:, None] - constant
        return torch.logsumexp(each + self.weights.log()[:, None], dim=0)

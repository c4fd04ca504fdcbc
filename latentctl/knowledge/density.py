r"""The conditional density of one knowledge, with a low-dimensional code `C`.

.. math::
    p(C) = \mathcal{N}(0, I), \quad
    p(e \mid C) = \mathcal{N}(h(e) \mid \mu(C), \mathrm{diag}\,\sigma(C)^2)
        \, |\det \partial h / \partial e|, \quad
    p(C \mid e) = \mathcal{N}(C \mid m(e), \mathrm{diag}\,s(e)^2)

over base noise :math:`e`, with a few coupling layers :math:`h`. Untrained it is the base
density, :math:`p(e \mid C) = \mathcal{N}(0, I)`.
"""

from __future__ import annotations

__all__ = ["ConditionalDensity"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nn import ScoreNet
from ..priors.couplings import Couplings

LOG_2PI = math.log(2 * math.pi)
SHARPEST = -3.0  # log of the smallest std of p(C | e), which the objective does not bound
NARROWEST, WIDEST = -7.0, 3.0  # log of the std of p(e | C)


class ConditionalDensity(nn.Module):
    """`p(e | C)` and `p(C | e)` over base noise `e (B, *latent_shape)` and `C (B, size)`.

    Arguments:
        latent_shape: Shape of one latent.
        size: Numbers in C.
        hidden: Units in each of the four layers from C to mean and std; 70 in the paper.
        width: Units of each layer of the couplings and of the inference network.
        blocks: Blocks of two couplings; 0 for a plain conditional Gaussian.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        size: int = 2,
        *,
        hidden: int = 70,
        width: int = 128,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        self.latent_shape, self.size = tuple(latent_shape), size
        layers: list[nn.Module] = []
        for features in (size, hidden, hidden):
            layers += [nn.Linear(features, hidden), nn.PReLU()]
        last = nn.Linear(hidden, 2 * math.prod(self.latent_shape))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.generator = nn.Sequential(*layers, last)
        self.flow = Couplings(latent_shape, width=width, blocks=blocks) if blocks else None
        self.inference = ScoreNet(latent_shape, 2 * size, width=width, depth=2)

    def infer(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of `p(C | e)`, each `(B, size)`."""
        mean, raw = self.inference(e).chunk(2, dim=1)
        return mean, SHARPEST + nn.functional.softplus(raw - SHARPEST)

    def sample_code(self, e: Tensor, eps: Tensor) -> Tensor:
        """A sample of `p(C | e)` for noise `eps (B, size)`."""
        mean, log_std = self.infer(e)
        return mean + log_std.exp() * eps

    def inference_log_prob(self, c: Tensor, e: Tensor) -> Tensor:
        """`log p(C | e)`, `(B,)`."""
        mean, log_std = self.infer(e)
        return normal((c - mean) / log_std.exp()) - log_std.sum(1)

    def log_prob(self, e: Tensor, c: Tensor) -> Tensor:
        """`log p(e | C)` in nats, `(B,)`; exact."""
        return self.transformed_log_prob(*self.transform(e), c)

    def transform(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """`h(e) (B, *latent_shape)` and its log-determinant `(B,)`."""
        return (e, e.new_zeros(len(e))) if self.flow is None else self.flow.to_base(e)

    def transformed_log_prob(self, h: Tensor, log_det: Tensor, c: Tensor) -> Tensor:
        """`log p(e | C)` in nats, `(B,)`, from what `transform` returned."""
        mean, log_std = self._moments(c)
        white = ((h - mean) / log_std.exp()).flatten(1)
        return normal(white) - log_std.flatten(1).sum(1) + log_det

    def decode(self, c: Tensor, eps: Tensor) -> Tensor:
        """A sample of `p(e | C)` for noise `eps (B, *latent_shape)`."""
        mean, log_std = self._moments(c)
        e = mean + log_std.exp() * eps
        return e if self.flow is None else self.flow.from_base(e)

    def _moments(self, c: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.generator(c).to(c.dtype).chunk(2, dim=1)
        log_std = raw.clamp(NARROWEST, WIDEST)
        return mean.view(-1, *self.latent_shape), log_std.view(-1, *self.latent_shape)


def normal(eps: Tensor) -> Tensor:
    """`log N(eps | 0, I)` of rows, `(B,)`."""
    density: Tensor = -0.5 * (eps.square() + LOG_2PI).sum(1)
    return density


def bound(density: ConditionalDensity, e: Tensor, eps: Tensor) -> Tensor:
    r"""The importance-weighted bound on `log p(e) = log E_{p(C)} p(e | C)`, `(B,)`.

    .. math:: \log \frac{1}{S} \sum_s \frac{p(C_s)\, p(e \mid C_s)}{p(C_s \mid e)}, \quad
        C_s \sim p(C \mid e)

    The samples of C are made of the noise `eps (S, B, size)`.
    """
    mean, log_std = density.infer(e)
    h, log_det = density.transform(e)
    each = []
    for row in eps:
        c = mean + log_std.exp() * row
        given = density.transformed_log_prob(h, log_det, c)
        each.append(normal(c) + given - normal(row) + log_std.sum(1))
    return torch.logsumexp(torch.stack(each), dim=0) - math.log(len(eps))

r"""Inversion: latents of given samples under a decoder without an encoder, such as a GAN.

The latent of a sample `x` minimizes

.. math:: c(z) = \frac{1}{2 \sigma^2 d} \| g(z) - x \|^2 - \frac{1}{d} \log p(z)

with `d` latent dimensions: the maximum a posteriori for a decoder error of standard deviation
:math:`\sigma`. The descent starts from those samples of the prior that are decoded nearest to `x`,
and the best result is kept. A generator need not contain `x`, so the reconstruction error is
returned, to be compared with the std of the decoder's own samples, the error of a random guess.

References:
    | Generative Visual Manipulation on the Natural Image Manifold (Zhu et al., 2016)
    | https://arxiv.org/abs/1609.03552
    | Inverting The Generator Of A Generative Adversarial Network (Creswell & Bharath, 2016)
    | https://arxiv.org/abs/1611.05644
"""

from __future__ import annotations

__all__ = ["Inversion", "invert", "with_inversion"]

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterError, InputError, check_positive
from ..progress import progress_bar
from .decoder import Decoder
from .descent import descend
from .posterior import Posterior
from .prior import Prior

SAMPLES = 64  # of the prior, from which starts are chosen and the spread is estimated
CHUNK = 64  # latents that are searched together
LARGE = 0.5  # share of the spread above which an inversion has failed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inversion:
    """The latents of samples, and the errors of their decodings in the units of the samples.

    Arguments:
        z: The best latent of each sample, `(B, *latent_shape)`.
        x: The decoding of `z`, `(B, *sample_shape)`.
        error: Root mean square of `x` minus the sample, `(B,)`.
        errors: The error of each start, `(B, starts)`: similar where the search is reliable.
        spread: Standard deviation of the decoder's own samples.
    """

    z: Tensor
    x: Tensor
    error: Tensor
    errors: Tensor
    spread: float

    @property
    def failed(self) -> Tensor:
        """Whether the error is above half of the spread, `(B,)`."""
        return ~(self.error <= LARGE * self.spread)  # a NaN has failed


def invert(
    decoder: Decoder,
    x: Tensor,
    *,
    steps: int = 300,
    starts: int = 4,
    learning_rate: float = 0.1,
    sigma: float | None = None,
    seed: int = 0,
) -> Inversion:
    """Latents whose decodings approximate `x`, found by Adam.

    The mean error is logged, as a warning if the inversion of a sample failed.

    Arguments:
        decoder: The frozen decoder; it must be differentiable.
        x: Samples, `(B, *sample_shape)`.
        steps: Steps of Adam, each one evaluation of the decoder with its gradient.
        starts: Searches for each sample, from those of 64 samples of the prior whose decodings are
            nearest to it.
        learning_rate: Of Adam, in the units of the latents; it falls to zero.
        sigma: Standard deviation of the decoder's error, in the units of the samples; a tenth of
            the spread by default. A larger one gives latents of higher prior density.
        seed: Seed of the starts.

    Raises:
        AdapterError: If no gradient reaches the latents.
        ShapeError: If `x` has another shape.
        InputError: If `x` is not finite or out of range, or there is no step or no start.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(2, 12), decode="forward")
        >>> x = decoder.decode(torch.tensor([[0.5, -1.0]]))
        >>> found = invert(decoder, x, steps=100)
        >>> bool(found.error < 0.05), bool(found.failed)
        (True, False)
    """
    decoder.check_sample(x)
    search = _Search(decoder.prior, steps, starts, learning_rate, sigma, seed)
    search.check(decoder)
    return search(decoder.name, decoder.decode, x.to(decoder.device).float())


def with_inversion(decoder: Decoder, **options: Any) -> Decoder:
    """The same decoder with `invert` as its encoder, so that real inputs can be edited.

    Latents, weights and fingerprint stay the same, and an encoder is replaced. Encoding a sample
    costs `starts * steps` evaluations of the decoder.

    Arguments:
        decoder: The frozen decoder; it must be differentiable.
        options: `steps`, `starts`, `learning_rate`, `sigma` and `seed` of `invert`.

    Raises:
        AdapterError: If no gradient reaches the latents.
        InputError: If there is no step or no start.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(2, 12), decode="forward")
        >>> decoder.can_encode, with_inversion(decoder).can_encode
        (False, True)
    """
    search = _Search(decoder.prior, **options)
    search.check(decoder)
    name, decode = decoder.name, decoder.decode_fn
    encode = functools.partial(_encode, search=search, name=name, decode=decode)
    inverted = f"{name} with inversion"
    made = decoder.derived(decoder.model, decode, encode, name=inverted, prior=decoder.prior)
    made.latents_are_noise = decoder.latents_are_noise
    return made


def _encode(
    model: Any, x: Tensor, search: _Search, name: str, decode: Callable[[Any, Tensor], Tensor]
) -> Posterior:
    # with the model of the new decoder, which may have been moved
    return Posterior(search(name, lambda z: decode(model, z.to(x.dtype)).float(), x.float()).z)


@dataclass(frozen=True)
class _Search:
    prior: Prior
    steps: int = 300
    starts: int = 4
    learning_rate: float = 0.1
    sigma: float | None = None
    seed: int = 0

    def check(self, decoder: Decoder) -> None:
        if min(self.steps, self.starts) < 1:
            raise InputError(
                f"Inversion needs steps and starts >= 1, not {self.steps} and {self.starts}."
            )
        if self.sigma is not None:
            check_positive("sigma", self.sigma)
        if not decoder.differentiable:
            raise AdapterError(
                f"No gradient reaches the latents of {decoder.name}, so it cannot be inverted. "
                f"Pass an encoder: latentctl.wrap(model, encode=...)."
            )

    def __call__(self, name: str, decode: Callable[[Tensor], Tensor], x: Tensor) -> Inversion:
        pool = self.prior.sample(max(SAMPLES, self.starts), seed=self.seed).to(x.device)
        with torch.no_grad():
            drawn = decode(pool)
        spread = float(drawn.std(0, unbiased=False).square().mean().sqrt())
        sigma = self.sigma if self.sigma is not None else 0.1 * max(spread, 1e-6)
        near = torch.cdist(x.flatten(1), drawn.flatten(1)).argsort(1)[:, : self.starts]
        size = max(1, CHUNK // self.starts)
        pairs = list(zip(x.split(size), near.split(size), strict=True))
        with progress_bar(len(pairs) * self.steps, "Invert", "step") as bar:
            parts = [
                self._part(decode, part, pool[rows.flatten()], sigma, bar.update)
                for part, rows in pairs
            ]
        z, back, errors = (torch.cat(column) for column in zip(*parts, strict=True))
        found = Inversion(z, back, errors.amin(1), errors, spread)
        if failed := int(found.failed.sum()):
            logger.warning(
                "%s: the inversion of %d of %d samples failed: their error is above half of %.3g, "
                "the std of the decoder's samples (mean error %.3g). The decoder may not contain "
                "them, or needs more steps= or starts=.",
                *(name, failed, len(z), spread, float(found.error.mean())),
            )
        elif len(z):
            logger.info(
                "%s: %d samples were inverted with a mean error of %.3g; the std of the decoder's "
                "samples is %.3g.",
                *(name, len(z), float(found.error.mean()), spread),
            )
        return found

    def _part(
        self,
        decode: Callable[[Tensor], Tensor],
        x: Tensor,
        z: Tensor,
        sigma: float,
        on_step: Callable[[], object],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Best latents `(B, ...)`, their samples and the errors `(B, starts)` of one chunk.

        The starts `z` of a sample are adjacent.
        """
        home = self.prior.sample(1).device  # may be another device than the decoder's
        goal = x.repeat_interleave(self.starts, 0)

        def cost(z: Tensor) -> Tensor:
            missed = (decode(z) - goal).flatten(1).square().sum(1)
            on_step()
            likely = self.prior.log_prob(z.to(home)).to(z.device)
            return (missed / (2 * sigma**2) - likely) / max(1, z[:1].numel())

        options: dict[str, Any] = {"adam": True, "anneal": 1.0}
        z = descend(cost, z, steps=self.steps, learning_rate=self.learning_rate, **options)[-1]
        with torch.no_grad():
            back = decode(z)
        errors = (back - goal).flatten(1).square().mean(1).sqrt().unflatten(0, (-1, self.starts))
        best = torch.arange(len(x), device=x.device) * self.starts
        best = best + errors.nan_to_num(torch.inf).argmin(1)
        return z[best], back[best], errors

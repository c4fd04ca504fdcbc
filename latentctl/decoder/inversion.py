r"""Inversion: the latent that a decoder without an encoder would have drawn a sample from.

A generator such as a GAN decodes only. The latent of a sample `x` is searched from several samples
of the prior, those that are decoded nearest to `x`, by descent of

.. math:: c(z) = \frac{1}{2 \sigma^2 d} \| g(z) - x \|^2 - \frac{1}{d} \log p(z)

with `d` latent dimensions, and the start that ends nearest to `x` is kept. This is the maximum a
posteriori of `z` where the decoder's error has the standard deviation :math:`\sigma`. Nothing says
that a generator can draw `x` at all: the error that is left is a part of the answer, and it is
compared with the spread of the decoder's own samples, which is what a guess would miss by.

References:
    | Generative Visual Manipulation on the Natural Image Manifold (Zhu et al., 2016)
    | https://arxiv.org/abs/1609.03552
    | Inverting The Generator Of A Generative Adversarial Network (Creswell & Bharath, 2016)
    | https://arxiv.org/abs/1611.05644
"""

from __future__ import annotations

__all__ = ["Inversion", "invert", "with_inversion"]

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterError, InputError
from .decoder import Decoder, Posterior
from .descent import descend
from .prior import Prior

SAMPLES = 64  # of the prior: their decodings are what starts are chosen from, and their spread
CHUNK = 64  # latents that are searched together
LARGE = 0.5  # of the spread: half of what a guess would miss by

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inversion:
    """The latents of samples, and how far from the samples they are decoded."""

    z: Tensor
    """The best latent of each sample, `(B, *latent_shape)`."""

    x: Tensor
    """What the decoder makes of it, `(B, *sample_shape)`."""

    error: Tensor
    """Root mean square of `x` minus the sample, `(B,)`, in the units of the samples."""

    errors: Tensor
    """The error that each start ended with, `(B, starts)`: alike where the search is reliable."""

    spread: float
    """Standard deviation of the decoder's own samples, in the same units."""

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
    """Latents that the decoder turns into `x`, as nearly as it can, found by Adam.

    The log has the mean error, as a warning where samples are missed by more than half of the
    spread of the decoder's own.

    Arguments:
        decoder: The frozen decoder; it must be differentiable.
        x: Samples, `(B, *sample_shape)`.
        steps: Steps of Adam, each one evaluation of the decoder with its gradient.
        starts: Searches for each sample, from those of 64 samples of the prior whose decodings are
            nearest to it; the best result is kept.
        learning_rate: Of Adam, in the units of the latents; it falls to zero.
        sigma: Standard deviation of the decoder's error, in the units of the samples; a tenth of
            the spread by default. A larger one keeps the latents more probable.
        seed: Of the starts.

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
    _check_options(decoder, steps, starts)
    decoder.check_sample(x)
    search = _Search(decoder.decode, decoder.prior, steps, starts, learning_rate, sigma, seed)
    found = search(x.to(decoder.device).float())
    _say(decoder.name, found)
    return found


def with_inversion(
    decoder: Decoder,
    *,
    steps: int = 300,
    starts: int = 4,
    learning_rate: float = 0.1,
    sigma: float | None = None,
    seed: int = 0,
) -> Decoder:
    """The same decoder with `encode` by `invert`, so that real inputs can be edited.

    Its latents, weights and fingerprint stay the same. Each call of `encode` costs
    `starts * steps` evaluations of each sample, and its error goes to the log.

    Arguments:
        decoder: The frozen decoder; an encoder that it has is not used any more.
        steps: As in `invert`, and so are the other arguments.
        starts: As in `invert`.
        learning_rate: As in `invert`.
        sigma: As in `invert`.
        seed: As in `invert`.

    Raises:
        AdapterError: If no gradient reaches the latents.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(2, 12), decode="forward")
        >>> decoder.can_encode, with_inversion(decoder).can_encode
        (False, True)
    """
    _check_options(decoder, steps, starts)
    name, prior, decode = decoder.name, decoder.prior, decoder.decode_fn

    def encode(model: Any, x: Tensor) -> Posterior:
        # the model is the new decoder's, which may have been moved
        search = _Search(
            lambda z: decode(model, z.to(x.dtype)).float(),
            *(prior, steps, starts, learning_rate, sigma, seed),
        )
        found = search(x.float())
        _say(name, found)
        return Posterior(found.z)

    return decoder.derived(
        decoder.model, decode, encode, name=f"{name} with inversion", prior=prior
    )


@dataclass(frozen=True)
class _Search:
    decode: Callable[[Tensor], Tensor]
    prior: Prior
    steps: int
    starts: int
    learning_rate: float
    sigma: float | None
    seed: int

    def __call__(self, x: Tensor) -> Inversion:
        pool = self.prior.sample(max(SAMPLES, self.starts), seed=self.seed).to(x.device)
        with torch.no_grad():
            drawn = self.decode(pool)
        spread = float(drawn.std(0, unbiased=False).square().mean().sqrt())
        sigma = self.sigma if self.sigma is not None else 0.1 * max(spread, 1e-6)
        near = torch.cdist(x.flatten(1), drawn.flatten(1)).argsort(1)[:, : self.starts]
        size = max(1, CHUNK // self.starts)
        pairs = zip(x.split(size), near.split(size), strict=True)
        parts = [self._part(part, pool[rows.flatten()], sigma) for part, rows in pairs]
        z, back, errors = (torch.cat(column) for column in zip(*parts, strict=True))
        return Inversion(z, back, errors.amin(1), errors, spread)

    def _part(self, x: Tensor, z: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Best latents `(B, ...)`, their samples and the errors `(B, starts)` of one chunk.

        The starts `z` of a sample stand in a row.
        """
        home = self.prior.sample(1).device  # a prior may be on another device than the decoder
        goal = x.repeat_interleave(self.starts, 0)

        def cost(z: Tensor) -> Tensor:
            missed = (self.decode(z) - goal).flatten(1).square().sum(1)
            likely = self.prior.log_prob(z.to(home)).to(z.device)
            return (missed / (2 * sigma**2) - likely) / max(1, z[:1].numel())

        options: dict[str, Any] = {"adam": True, "anneal": 1.0}
        z = descend(cost, z, steps=self.steps, learning_rate=self.learning_rate, **options)[-1]
        with torch.no_grad():
            back = self.decode(z)
        errors = (back - goal).flatten(1).square().mean(1).sqrt().unflatten(0, (-1, self.starts))
        best = torch.arange(len(x), device=x.device) * self.starts
        best = best + errors.nan_to_num(torch.inf).argmin(1)
        return z[best], back[best], errors


def _check_options(decoder: Decoder, steps: int, starts: int) -> None:
    if min(steps, starts) < 1:
        raise InputError(f"A search needs a step and a start, not {steps} and {starts}.")
    if not decoder.differentiable:
        raise AdapterError(
            f"No gradient reaches the latents of {decoder.name}, so that they cannot be searched. "
            f"Pass an encoder: latentctl.wrap(model, encode=...)."
        )


def _say(name: str, found: Inversion) -> None:
    if not len(found.z):
        return
    error, failed = float(found.error.mean()), int(found.failed.sum())
    text = f"{name}: {len(found.z)} samples were inverted with a mean error of {error:.3g}"
    text += f", where the decoder's own samples have a spread of {found.spread:.3g}"
    if failed:
        logger.warning(
            "%s. %d of them are missed by more than half of that: this decoder may be unable to "
            "draw them, or needs more steps= or starts=. Their edits start from something else.",
            text,
            failed,
        )
    else:
        logger.info("%s.", text)

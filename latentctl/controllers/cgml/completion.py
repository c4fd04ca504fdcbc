r"""Completion: what a frozen decoder puts in the place of the hidden part of an input.

Of a sample :math:`x` only the part where the mask :math:`m` is 1 is visible. From each start
:math:`z_0 \sim p(z)` the latent moves to a minimum of

.. math:: c(z; z_0) = \frac{1}{2 \sigma^2 d} \| m \odot (g(z) - x) \|^2
    + \frac{1}{2 d} \| z - z_0 \|^2

with `d` latent dimensions. Where the visible part is not informative, the latent stays at its
start, so that different starts give different completions. For a linear decoder and a normal prior
these are samples of the posterior, up to the noise of `x` (randomised maximum a posteriori).
Gradient descent evaluates the decoder in each step. An `Updater` trained on this cost takes a few
evaluations, and needs the decoder only with `gradient_input`.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Randomize-Then-Optimize (Bardsley et al., 2014)
    | https://doi.org/10.1137/140964023
"""

from __future__ import annotations

__all__ = ["Completion", "complete", "completer", "seen_input", "visible_cost"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...decoder import Decoder, Prior
from ...decoder.descent import LatentCost, descend
from ...errors import InputError, ShapeError, check_positive
from ...random import seeded
from ...storage import Saved
from ...training import Step
from ..request import prior_starts
from .completed import Completion
from .training import train_unrolled
from .updater import Updater

BATCH = 256  # completions that are decoded together
SIGMA = 0.05  # std of the decoder's error, as a share of its value range


def visible_cost(
    decoder: Decoder, x: Tensor, mask: Tensor, start: Tensor, *, sigma: float = SIGMA
) -> LatentCost:
    """The cost `c(z; z_0)` of latents `(B, *latent_shape)` from the starts `z_0` of this shape.

    Samples `x` and boolean masks are `(B, *sample_shape)`; `sigma` is in the units of the samples.
    """
    return lambda z: _cost(_missed(decoder.decode(z), x, mask), z, start, sigma)


def _missed(drawn: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the visible part, `(B,)`."""
    return torch.where(mask, drawn - x, 0.0).flatten(1).square().sum(1)


def _cost(missed: Tensor, z: Tensor, start: Tensor, sigma: float) -> Tensor:
    far = (z - start).flatten(1).square().sum(1)
    return (missed / sigma**2 + far) / (2 * z[0].numel())


def complete(
    decoder: Decoder,
    x: Tensor,
    mask: Tensor,
    *,
    count: int = 4,
    updater: Updater | None = None,
    prior: Prior | None = None,
    steps: int | None = None,
    sigma: float | None = None,
    seed: int = 0,
) -> Completion:
    """Completions of partly visible inputs.

    Arguments:
        decoder: The frozen decoder.
        x: Inputs, `(B, *sample_shape)`. Hidden values may be anything, NaN included.
        mask: 1 or True where `x` is visible; `(B, *sample_shape)`, or what broadcasts to it.
        count: Completions of each.
        updater: From `completer`; by default each completion is 100 steps of Adam.
        prior: Distribution of the starts; the decoder's prior by default.
        steps: Evaluations of the updater, or steps of Adam.
        sigma: Standard deviation of the decoder's error, in the units of the samples; a twentieth
            of its value range by default.
        seed: Of the starts.

    Raises:
        ShapeError: If `x` or `mask` has another shape.
        InputError: If the mask hides everything or nothing, or the visible part is not finite or
            out of range.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(nn.Linear(4, 12), decode="forward")
        >>> mask = torch.arange(12) < 6
        >>> complete(decoder, torch.zeros(2, 12), mask, count=3, steps=5).x.shape
        torch.Size([2, 3, 12])
    """
    x, mask = _checked(decoder, x, mask)
    sigma = _sigma(decoder) if sigma is None else check_positive("sigma", sigma)
    wanted, shown = (part.repeat_interleave(count, 0) for part in (x, mask))
    start = (prior or decoder.prior).sample(len(wanted), seed=seed).to(decoder.device)
    cost = visible_cost(decoder, wanted, shown, start, sigma=sigma)
    if updater is None:
        steps = 100 if steps is None else steps
        z = descend(cost, start, steps=steps, learning_rate=0.05, adam=True)[-1]
    else:
        steps = updater.steps if steps is None else steps
        with torch.no_grad():
            h = updater.encode_request(seen_input(x, mask), start)
        seen_cost = cost if updater.gradient_input else None
        z = updater.walk(h, start, steps=steps, cost=seen_cost)[0][-1]
    with torch.no_grad():
        drawn = decoder.decode(z, batch_size=BATCH)
    missed = _missed(drawn, wanted, shown)
    value, error = _cost(missed, z, start, sigma), (missed / shown.flatten(1).sum(1)).sqrt()
    parts = [part.unflatten(0, (-1, count)) for part in (drawn, z, error, value)]
    spread = torch.where(mask, 0.0, parts[0].std(1, unbiased=False)).flatten(1).sum(1)
    order = parts[2].argsort(1)
    rows = torch.arange(len(x), device=x.device)[:, None]
    x, z, error, value = (part[rows, order] for part in parts)
    diversity = spread / (~mask).flatten(1).sum(1)
    return Completion(x, z, error, value, diversity, steps, decoder.display)


def completer(
    decoder: Decoder,
    data: Any,
    masks: Callable[[Step], Tensor],
    *,
    prior: Prior | None = None,
    steps: int = 5,
    gradient_input: bool = False,
    width: int = 512,
    depth: int = 3,
    features: int = 256,
    sigma: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    **options: Any,
) -> Updater:
    """An updater that completes samples of a frozen decoder, trained on unrolled walks.

    Arguments:
        decoder: The frozen decoder; it must be differentiable.
        data: Training samples, whose batches are `(B, *sample_shape)` or begin with it.
        masks: From a step to masks `(step.count, *sample_shape)`, or what broadcasts to it.
        prior: Distribution of the starts; the decoder's prior by default.
        steps: Evaluations of a walk.
        gradient_input: Whether the updater sees the gradient of the cost, which takes the decoder
            in each step.
        width: Units of each layer of the updater.
        depth: Number of its layers.
        features: Features of the visible part.
        sigma: As in `complete`.
        batch_size: Walks in a step.
        seed: Decides every random number.
        options: Further arguments of `train_unrolled`, such as `max_train_steps`.
    """
    start = prior or decoder.prior
    sigma = _sigma(decoder) if sigma is None else check_positive("sigma", sigma)
    size = start.sample(1)[0].numel()
    with seeded(seed, "completer"):
        updater = Updater(
            decoder.latent_shape,
            context=features + size,
            context_encoder=VisibleEncoder(decoder.sample_shape, features),
            width=width,
            depth=depth,
            steps=steps,
            gradient_input=gradient_input,
        ).to(decoder.device)

    def starts(batch: Any, step: Step) -> tuple[Tensor, Tensor]:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        z = prior_starts(start, step).to(x.device)
        return z, seen_input(*_checked(decoder, x, masks(step).to(x.device)))

    def cost(z: Tensor, origin: Tensor, asked: Tensor) -> Tensor:
        channels = decoder.sample_shape[0]
        x, mask = asked[:, :channels], asked[:, channels:] > 0.5
        return visible_cost(decoder, x, mask.expand_as(x), origin, sigma=sigma)(z)

    train_unrolled(updater, cost, starts, data, batch_size=batch_size, seed=seed, **options)
    return updater


class VisibleEncoder(Saved, kind="visible-encoder"):
    """Features of visible parts `(B, ...)`, followed by the starts of the walks.

    The starts are `(B * count, *latent_shape)`, those of a sample in a row; the result has a row
    for each.

    Arguments:
        sample_shape: `(C, H, W)` with one mask for all channels, or `(D,)`.
        features: Number of features.
        width: Channels of the first convolution, doubled by each.

    Example:
        >>> VisibleEncoder((3, 16, 16), 8)(torch.zeros(2, 4, 16, 16), torch.zeros(2, 5)).shape
        torch.Size([2, 13])
    """

    def __init__(self, sample_shape: Sequence[int], features: int, *, width: int = 32) -> None:
        super().__init__()
        self.config = {"sample_shape": list(sample_shape), "features": features, "width": width}
        layers: list[nn.Module] = []
        if len(sample_shape) == 3:
            channels, side = sample_shape[0] + 1, min(sample_shape[1:])
            while side > 4 and width < 512:
                layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.SiLU()]
                channels, side, width = width, side // 2, 2 * width
            layers += [nn.Flatten(), nn.LazyLinear(features), nn.SiLU()]
        else:
            layers += [nn.Linear(2 * sample_shape[0], 512), nn.SiLU(), nn.Linear(512, features)]
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():  # gives the lazy layer its shape
            example = torch.zeros(1, *sample_shape)
            self.layers(seen_input(example, torch.ones_like(example).bool()))

    def forward(self, asked: Tensor, origin: Tensor) -> Tensor:
        # several walks may start for one sample, which is encoded once
        features = self.layers(asked).repeat_interleave(len(origin) // len(asked), 0)
        return torch.cat([features, origin.flatten(1)], dim=1)


def seen_input(x: Tensor, mask: Tensor) -> Tensor:
    """The visible part and its mask as channels, the input of a `VisibleEncoder`."""
    shown = mask[:, :1] if x.ndim == 4 else mask
    return torch.cat([torch.where(mask, x, 0.0), shown.to(x.dtype)], dim=1)


def _checked(decoder: Decoder, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) == 0:
        raise InputError("There is no input to complete. Give one or more.")
    if x.shape[1:] != decoder.sample_shape:
        decoder.check_sample(x)
    try:
        mask = mask.to(x.device).bool().expand_as(x)
    except RuntimeError as error:
        raise ShapeError(
            f"A mask of samples {tuple(x.shape)} has that shape or one that broadcasts to it, this "
            f"one is {tuple(mask.shape)}."
        ) from error
    if x.ndim == 4 and not bool((mask == mask[:, :1]).all()):
        raise ShapeError("A mask of an image is the same in all channels; give it as (B, 1, H, W).")
    for uniform, what, hint in (
        (~mask, "everything", "use `sample` without an input"),
        (mask, "nothing", "leave those rows out"),
    ):
        if rows := uniform.flatten(1).all(1).nonzero().flatten().tolist():
            raise InputError(
                f"The mask hides {what} of rows {rows[:8]}. It is 1 where x is visible: {hint}."
            )
    hidden = 0.0 if decoder.value_range is None else decoder.value_range[0]
    x = torch.where(mask, x, torch.full_like(x, hidden))
    decoder.check_sample(x)
    return x.to(decoder.device), mask.to(decoder.device)


def _sigma(decoder: Decoder) -> float:
    low, high = decoder.picture_range
    return SIGMA * (high - low)

r"""Completion: what a frozen decoder puts in the place of the hidden part of an input.

Of a sample :math:`x` only the part where the mask :math:`m` is 1 is seen. From each start
:math:`z_0 \sim p(z)` the latent moves to a minimum of

.. math:: c(z; z_0) = \frac{1}{2 \sigma^2 d} \| m \odot (g(z) - x) \|^2
    + \frac{1}{2 d} \| z - z_0 \|^2

with `d` latent dimensions. Where the visible part says nothing, the latent stays where it started,
so that other starts give other completions; for a linear decoder and a normal prior these would be
samples of the posterior up to the noise of `x` (randomised maximum a posteriori). Descent finds the
minimum with the decoder in every step; an `Updater` that has practised this cost needs a few
evaluations, and the decoder only if it is gradient_input.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Randomize-Then-Optimize (Bardsley et al., 2014)
    | https://doi.org/10.1137/140964023
"""

from __future__ import annotations

__all__ = ["Completion", "complete", "completer", "visible_cost"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...decoder import Decoder, Prior
from ...decoder.descent import Cost, descend
from ...errors import InputError, ShapeError
from ...random import seeded
from ...training import Step
from .practice import train_unrolled
from .updater import Updater

CHUNK = 256  # completions that are decoded together
SIGMA = 0.05  # std of the decoder's error, as a share of its range


@dataclass(frozen=True)
class Completion:
    """Several completions of each input, the one that fits the visible part best first."""

    x: Tensor
    """The decoder's samples, `(B, count, *sample_shape)`."""

    z: Tensor
    """Their latents, `(B, count, *latent_shape)`."""

    error: Tensor
    """Root mean square error of the visible part, `(B, count)`, in the units of the samples."""

    cost: Tensor
    """The cost `c(z; z_0)`, `(B, count)`."""

    diversity: Tensor
    """Standard deviation over the completions, mean of the hidden part, `(B,)`."""

    evaluations: int
    """Evaluations of the updater or steps of the descent, of each completion."""

    def pasted(self, x: Tensor, mask: Tensor) -> Tensor:
        """The completions with the visible part of `x` as it is, `(B, count, *sample_shape)`."""
        return torch.where(mask.bool()[:, None], x[:, None], self.x)


def visible_cost(
    decoder: Decoder, x: Tensor, mask: Tensor, start: Tensor, *, sigma: float = SIGMA
) -> Cost:
    """The cost `c(z; z_0)` of latents, `(B,)`.

    Arguments:
        decoder: The frozen decoder.
        x: Samples, `(B, *sample_shape)`; what is hidden has no influence.
        mask: 1 or True where `x` is seen, `(B, *sample_shape)`.
        start: The latents `z_0`, `(B, *latent_shape)`.
        sigma: Standard deviation of the decoder's error, in the units of the samples.
    """

    def cost(z: Tensor) -> Tensor:
        seen = torch.where(mask, decoder.decode(z) - x, 0.0).flatten(1).square().sum(1)
        far = (z - start).flatten(1).square().sum(1)
        return (seen / sigma**2 + far) / (2 * z[0].numel())

    return cost


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
    """Completions of partly seen inputs.

    Arguments:
        decoder: The frozen decoder.
        x: Inputs, `(B, *sample_shape)`. Hidden values may be anything, NaN included.
        mask: 1 or True where `x` is seen; `(B, *sample_shape)`, or what broadcasts to it.
        count: Completions of each.
        updater: From `completer`; by default each completion is 100 steps of Adam.
        prior: Where walks start; the decoder's prior by default.
        steps: Evaluations of the updater, or steps of Adam.
        sigma: Standard deviation of the decoder's error, in the units of the samples; a twentieth
            of its range by default.
        seed: Of the starts.

    Raises:
        ShapeError: If `x` or `mask` has another shape.
        InputError: If the mask hides everything or nothing, or what is seen is not finite or out
            of range.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(nn.Linear(4, 12), decode="forward")
        >>> mask = torch.arange(12) < 6
        >>> complete(decoder, torch.zeros(2, 12), mask, count=3, steps=5).x.shape
        torch.Size([2, 3, 12])
    """
    x, mask = _checked(decoder, x, mask)
    sigma = _sigma(decoder) if sigma is None else sigma
    many = torch.arange(len(x), device=x.device).repeat_interleave(count)
    start = (prior or decoder.prior).sample(len(many), seed=seed).to(decoder.device)
    cost, z = visible_cost(decoder, x[many], mask[many], start, sigma=sigma), start
    if updater is None:
        steps = 100 if steps is None else steps
        z = descend(cost, z, steps=steps, learning_rate=0.05, adam=True)[-1]
    else:
        steps = updater.steps if steps is None else steps
        with torch.no_grad():
            h = updater.told(seen_input(x, mask), len(z), z.device, z)
        z = updater.walk(h, z, steps=steps, cost=cost if updater.gradient_input else None)[0][-1]
    with torch.no_grad():
        drawn = torch.cat([decoder.decode(part) for part in z.split(CHUNK)])
    far = (z - start).flatten(1).square().sum(1)
    drawn, z, far = (part.unflatten(0, (len(x), count)) for part in (drawn, z, far))
    shown = mask[:, None].expand_as(drawn)
    seen = torch.where(shown, drawn - x[:, None], 0.0).flatten(2).square().sum(2)
    value = (seen / sigma**2 + far) / (2 * z[0, 0].numel())
    error = (seen / shown.flatten(2).sum(2)).sqrt()
    order = error.argsort(1)
    rows = torch.arange(len(x), device=x.device)[:, None]
    spread = torch.where(mask, 0.0, drawn.std(1, unbiased=False)).flatten(1).sum(1)
    return Completion(
        x=drawn[rows, order],
        z=z[rows, order],
        error=error[rows, order],
        cost=value[rows, order],
        diversity=spread / (~mask).flatten(1).sum(1),
        evaluations=steps,
    )


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
    max_train_steps: int = 1500,
    batch_size: int = 64,
    seed: int = 0,
    **options: Any,
) -> Updater:
    """An updater that completes what a frozen decoder may have drawn.

    Arguments:
        decoder: The frozen decoder; it must be differentiable.
        data: Training samples, whose batches are `(B, *sample_shape)` or begin with it.
        masks: Of a step, masks `(step.count, *sample_shape)` or what broadcasts to it.
        prior: Where walks start; the decoder's prior by default.
        steps: Evaluations of a walk.
        gradient_input: Whether it sees the gradient of the cost, which takes the decoder at each step.
        width: Units of each layer.
        depth: Number of layers.
        features: Numbers that the visible part is summed up in.
        sigma: As in `complete`.
        max_train_steps: Steps of practice.
        batch_size: Walks in a step.
        seed: Decides every random number.
        options: Further arguments of `train_unrolled`.
    """
    start = prior or decoder.prior
    sigma = _sigma(decoder) if sigma is None else sigma
    size = start.sample(1)[0].numel()
    with seeded(seed, "completer"):
        context_encoder = Observer(decoder.sample_shape, features)
        updater = Updater(
            decoder.latent_shape,
            context=features + size,
            context_encoder=context_encoder,
            width=width,
            depth=depth,
            steps=steps,
            gradient_input=gradient_input,
        ).to(decoder.device)

    def starts(batch: Any, step: Step) -> tuple[Tensor, Tensor]:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        first = step.index * step.total + step.start
        z = start.sample(step.count, seed=~step.seed, start=first).to(x.device)
        x, mask = _checked(decoder, x, masks(step).to(x.device))
        return z, seen_input(x, mask)

    def cost(z: Tensor, origin: Tensor, asked: Tensor) -> Tensor:
        channels = decoder.sample_shape[0]
        x, mask = asked[:, :channels], asked[:, channels:] > 0.5
        mask = mask.expand_as(x) if x.ndim > 2 else mask
        return visible_cost(decoder, x, mask, origin, sigma=sigma)(z)

    return train_unrolled(
        updater,
        cost,
        starts,
        data,
        max_train_steps=max_train_steps,
        batch_size=batch_size,
        seed=seed,
        **options,
    )


class Observer(nn.Module):
    """Features of the visible part of samples `(B, ...)`, followed by where walks start.

    The walks' starts are `(B * count, *latent_shape)`, those of a sample in a row; the result has
    a row for each.

    Arguments:
        sample_shape: `(C, H, W)` with one mask for all channels, or `(D,)`.
        features: Number of features.
        width: Channels of the first layer of convolutions, doubled by each.

    Example:
        >>> Observer((3, 16, 16), 8)(torch.zeros(2, 4, 16, 16), torch.zeros(2, 5)).shape
        torch.Size([2, 13])
    """

    def __init__(self, sample_shape: tuple[int, ...], features: int, *, width: int = 32) -> None:
        super().__init__()
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
        with torch.no_grad():
            extra = 1 if len(sample_shape) == 3 else sample_shape[0]
            self.layers(torch.zeros(1, sample_shape[0] + extra, *sample_shape[1:]))

    def forward(self, asked: Tensor, origin: Tensor) -> Tensor:
        # several walks may start for one sample, which is looked at once
        features = self.layers(asked).repeat_interleave(len(origin) // len(asked), 0)
        return torch.cat([features, origin.flatten(1)], dim=1)


def seen_input(x: Tensor, mask: Tensor) -> Tensor:
    """What an context_encoder is shown: the visible part, and where it is."""
    shown = mask[:, :1] if x.ndim == 4 else mask
    return torch.cat([torch.where(mask, x, 0.0), shown.to(x.dtype)], dim=1)


def _checked(decoder: Decoder, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
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
    share = mask.flatten(1).float().mean(1)
    for value, what in ((0.0, "everything"), (1.0, "nothing")):
        rows = (share == value).nonzero().flatten().tolist()
        if rows:
            raise InputError(
                f"The mask hides {what} of rows {rows[:8]}. It is 1 where the input is seen: "
                + ("use `sample` without an input." if value == 0 else "there is nothing to do.")
            )
    x = torch.where(
        mask, x, torch.zeros_like(x) if decoder.value_range is None else decoder.value_range[0]
    )
    decoder.check_sample(x)
    return x.to(decoder.device), mask.to(decoder.device)


def _sigma(decoder: Decoder) -> float:
    low, high = decoder.value_range or (0.0, 1.0)
    return SIGMA * (high - low)

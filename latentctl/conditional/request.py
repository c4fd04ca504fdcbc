"""What a user asks of attributes, as targets `(B, K)`: 0, 1, a probability, or NaN for free."""

from __future__ import annotations

__all__ = ["Value", "asked_targets", "held_targets", "latent_region", "least_likely"]

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..critics import Critic
from ..decoder import Decoder
from ..errors import InputError, ShapeError, UnknownNameError

PART = 64  # latents that a critic may have to decode

Value: TypeAlias = bool | float | Sequence[bool | float | None] | Tensor | None
"""What a user gives to an attribute: one value for all samples, or one each."""


def asked_targets(
    names: Sequence[str],
    count: int,
    y: Tensor | None,
    where: Critic | None,
    named: Mapping[str, Value],
) -> Tensor:
    """Targets `(count, K)`, NaN where nothing is asked.

    Arguments:
        names: The K attributes that the critic knows.
        count: Number of samples.
        y: Targets `(count, K)` or `(1, K)`, instead of `named`.
        where: A critic that is to be satisfied as well.
        named: A value for each attribute that is asked for.

    Raises:
        UnknownNameError: If an attribute is not known.
        ShapeError: If `y` has another shape.
        InputError: If a value is out of [0, 1], or the request contradicts itself.

    Example:
        >>> asked_targets(["Smiling", "Male"], 2, None, None, {"Male": [True, None]})
        tensor([[nan, 1.],
                [nan, nan]])
    """
    if y is not None and named:
        raise InputError("Give targets as `y` or by name, not both.")
    if y is not None:
        if y.ndim != 2 or y.shape[1] != len(names) or len(y) not in (1, count):
            raise ShapeError(
                f"Targets `y` for {count} samples are ({count}, {len(names)}) or "
                f"(1, {len(names)}), these are {tuple(y.shape)}. Columns: {', '.join(names)}."
            )
        asked = y.float().expand(count, -1).clone()
    else:
        asked = torch.full((count, len(names)), torch.nan)
    for name, value in named.items():
        asked[:, _index(names, name)] = _column(name, value, count).to(asked.device)
    if bool(((asked < 0) | (asked > 1)).any()):
        raise InputError("Targets are probabilities in [0, 1]; True and False are 1 and 0.")
    if where is not None:
        some = (~torch.isnan(asked)).any(0)
        both = {name for name, a in zip(names, some, strict=True) if a} & where.attributes
        if both:
            raise InputError(
                f"{', '.join(sorted(both))} is asked by name and in `where`: the request may "
                f"contradict itself. Say it once."
            )
    return asked


def held_targets(
    names: Sequence[str], asked: Tensor, where: Critic | None, hold: bool | Iterable[str]
) -> Tensor:
    """Which attributes of which samples are held where they are, `(B, K)` booleans.

    Arguments:
        names: The K attributes that the critic knows.
        asked: Targets, `(B, K)`, NaN where nothing is asked.
        where: A critic to be satisfied; what it speaks of is not held.
        hold: All that is not asked, none, or some by name.

    Raises:
        UnknownNameError: If an attribute is not known.
        InputError: If an attribute is to be held and to be changed.
    """
    free = torch.isnan(asked)
    spoken = where.attributes if where is not None else frozenset[str]()
    if isinstance(hold, bool):
        unspoken = torch.tensor([name not in spoken for name in names], dtype=torch.bool)
        return free & hold & unspoken.to(free.device)
    held = torch.zeros_like(free)
    for name in [hold] if isinstance(hold, str) else hold:
        column = _index(names, name)
        if not bool(free[:, column].all()) or name in spoken:
            raise InputError(f"{name} is to be changed and to be held: ask for one of both.")
        held[:, column] = True
    return held


def latent_region(mask: Tensor, decoder: Decoder, count: int) -> Tensor:
    """A mask of pixels as one of the cells of a spatial latent, `(count, 1, h', w')`.

    Arguments:
        mask: 1 or True where a sample may change, `(h, w)`, `(1, h, w)` or `(count, 1, h, w)`.
        decoder: Whose latents and samples they are.
        count: Number of samples.

    Returns:
        1 for the cells of which half of the pixels may change, 0 for all others.

    Raises:
        InputError: If the latents are no grids.
        ShapeError: If the mask does not fit the samples.
    """
    latent, sample = decoder.latent_shape, decoder.sample_shape
    if len(latent) != 3 or len(sample) != 3:
        raise InputError(
            f"An edit is held to a region only where latents have places, as in (C, h, w); "
            f"{decoder.name} has latents {latent} of samples {sample}. Leave out mask=, or hold "
            f"attributes instead."
        )
    pixels = math.prod(sample[-2:])
    if mask.shape[-2:] != sample[-2:] or mask.numel() not in (pixels, count * pixels):
        raise ShapeError(
            f"A mask of {count} samples {sample} is {sample[-2:]} or ({count}, 1, {sample[-2]}, "
            f"{sample[-1]}), this one is {tuple(mask.shape)}."
        )
    places = mask.to(torch.float32).reshape(-1, 1, *sample[-2:])
    cells = torch.nn.functional.adaptive_avg_pool2d(places, latent[-2:]) >= 0.5
    return cells.float().expand(count, -1, -1, -1)


def least_likely(z: Tensor, probability: Tensor, asked: Tensor, where: Critic | None) -> Tensor:
    """Probability `(B,)` of that part of each request which is least likely to hold.

    Arguments:
        z: Latents, `(B, *latent_shape)`.
        probability: Of each attribute, `(B, K)`.
        asked: Targets, `(B, K)`, NaN where nothing is asked.
        where: A critic to satisfy as well.
    """
    agreement = torch.where(torch.isnan(asked), 1.0, 1 - (probability - asked).abs())
    least = torch.cat([agreement, z.new_ones(len(z), 1)], 1).amin(1)
    if where is not None:
        parts = (where.probability(part) for part in z.split(PART))
        least = torch.minimum(least, torch.cat(list(parts)))
    return least


def _index(names: Sequence[str], name: str) -> int:
    if not names:
        raise InputError(
            f"{name} was asked of a critic without named attributes. Use an AttributeCritic."
        )
    if name not in names:
        raise UnknownNameError("attribute", name, names)
    return list(names).index(name)


def _column(name: str, value: Value, count: int) -> Tensor:
    """One attribute's targets, `(count,)`."""
    values: Sequence[Any] = [value]
    if isinstance(value, Tensor):
        values = value.flatten().tolist()
    elif isinstance(value, Iterable) and not isinstance(value, str):
        values = list(value)
    try:
        column = torch.tensor([torch.nan if v is None else float(v) for v in values])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} takes True, False, a probability, None for free, or a sequence of these, it "
            f"was given {value!r}."
        ) from error
    if len(column) not in (1, count):
        raise InputError(
            f"{name} was given {len(column)} values for {count} samples. Give one, or one each."
        )
    return column.expand(count)

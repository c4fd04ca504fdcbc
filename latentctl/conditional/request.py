"""The fields of a `Request` from a caller's arguments: names, values, holds and masks."""

from __future__ import annotations

__all__ = [
    "Value",
    "held_attributes",
    "latent_region",
    "least_likely",
    "requested_targets",
    "unheld",
]

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..critics import Critic
from ..critics.ties import tied_to
from ..decoder import Decoder
from ..errors import InputError, ShapeError, UnknownNameError
from .inputs import read_mask

BATCH = 64  # latents of a critic that may decode them
UNTIED = "untied"

Value: TypeAlias = bool | float | Sequence[bool | float | None] | Tensor | None
"""The value of an attribute: one for all samples, or one for each."""


def requested_targets(
    names: Sequence[str],
    count: int,
    y: Any,
    where: Critic | None,
    named: Mapping[str, Value],
) -> Tensor:
    """Targets `(count, K)`, NaN = free.

    Arguments:
        names: The K attributes of the critic.
        count: Number of samples.
        y: Targets `(count, K)` or `(1, K)`, instead of `named`; in lists None is free.
        where: A further critic to satisfy.
        named: A value for each requested attribute.

    Raises:
        UnknownNameError: If an attribute is not known.
        ShapeError: If `y` has another shape.
        InputError: If a value is out of [0, 1], or the request contradicts itself.

    Example:
        >>> requested_targets(["Smiling", "Male"], 2, None, None, {"Male": [True, None]})
        tensor([[nan, 1.],
                [nan, nan]])
    """
    if y is not None and named:
        raise InputError("Give targets as `y` or by name, not both.")
    if y is not None:
        rows = _targets(y)
        if rows.ndim != 2 or rows.shape[1] != len(names) or len(rows) not in (1, count):
            raise ShapeError(
                f"Targets `y` for {count} samples are ({count}, {len(names)}) or "
                f"(1, {len(names)}), these are {tuple(rows.shape)}. Columns: {', '.join(names)}."
            )
        requested = rows.expand(count, -1).clone()
    else:
        requested = torch.full((count, len(names)), torch.nan)
    for name, value in named.items():
        requested[:, _index(names, name)] = _column(name, value, count).to(requested.device)
    if bool(((requested < 0) | (requested > 1)).any()):
        raise InputError("Targets are probabilities in [0, 1]; True and False are 1 and 0.")
    if where is not None:
        some = (~torch.isnan(requested)).any(0)
        both = {name for name, a in zip(names, some, strict=True) if a} & where.attributes
        if both:
            raise InputError(
                f"{', '.join(sorted(both))} is requested by name and in `where`, which may "
                f"contradict each other. Leave it out of one of them."
            )
    return requested


def held_attributes(
    critic: Critic, requested: Tensor, where: Critic | None, hold: bool | str | Iterable[str]
) -> Tensor:
    """Which attributes of which samples are held, `(B, K)` booleans.

    Arguments:
        critic: The critic of the K attributes, with its ties.
        requested: Targets, `(B, K)`, NaN = free.
        where: A further critic to satisfy; the attributes it depends on are not held.
        hold: `"untied"` for all attributes that are not tied to what is requested, True for all,
            False for none, or names. What is requested is not held, so that one list serves all
            edits.

    Raises:
        UnknownNameError: If an attribute is not known.
    """
    asked = _asked(critic, requested, where)
    if hold == UNTIED:
        return ~(asked | tied_to(asked, critic.ties, critic.names))
    if isinstance(hold, bool):
        return ~asked if hold else torch.zeros_like(asked)
    if not isinstance(hold, Iterable):
        raise InputError(
            f"hold= takes {UNTIED!r}, True, False, or names of attributes; found {hold!r}."
        )
    kept = {_index(critic.names, name) for name in ([hold] if isinstance(hold, str) else hold)}
    columns = torch.tensor([k in kept for k in range(len(critic.names))], dtype=torch.bool)
    return columns.to(asked.device) & ~asked


def unheld(
    critic: Critic, requested: Tensor, where: Critic | None, held: Tensor
) -> tuple[Tensor, Tensor]:
    """Attributes that are tied to what is requested and not held, and all others, `(B, K)` each.

    The arguments are those of `held_attributes`, and its result.
    """
    asked = _asked(critic, requested, where)
    tied = tied_to(asked, critic.ties, critic.names) & ~held
    return tied, ~(asked | tied | held)


def _asked(critic: Critic, requested: Tensor, where: Critic | None) -> Tensor:
    """Attributes that are requested, by name or in `where`, `(B, K)` booleans."""
    asked = ~torch.isnan(requested)
    for name in where.attributes & {*critic.names} if where is not None else ():
        asked[:, critic.names.index(name)] = True
    return asked


def latent_region(mask: Any, decoder: Decoder, count: int) -> Tensor:
    """A mask of the cells of a spatial latent, `(count, 1, h', w')`, from a mask of pixels.

    Arguments:
        mask: 1, True or white where a sample may change; `(h, w)`, `(1, h, w)` or
            `(count, 1, h, w)`.
        decoder: The decoder.
        count: Number of samples.

    Returns:
        1 for the cells of which half of the pixels may change, 0 for all others.

    Raises:
        InputError: If the latents are no grids.
        ShapeError: If the mask does not fit the samples.
    """
    mask = read_mask(mask)
    latent, sample = decoder.latent_shape, decoder.sample_shape
    if len(latent) != 3 or len(sample) != 3:
        raise InputError(
            f"mask= needs spatial latents (C, h, w) of images; {decoder.name} has latents {latent} "
            f"of samples {sample}. Leave out mask=, or hold attributes instead."
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


def least_likely(z: Tensor, probability: Tensor, target: Tensor, where: Critic | None) -> Tensor:
    """Probability `(B,)` of the least likely part of each request.

    Arguments:
        z: Latents, `(B, *latent_shape)`.
        probability: Of each attribute, `(B, K)`.
        target: Targets, `(B, K)`, NaN = free.
        where: A further critic to satisfy.
    """
    agreement = torch.where(torch.isnan(target), 1.0, 1 - (probability - target).abs())
    if where is not None:
        agreement = torch.cat([agreement, where.score(z, batch_size=BATCH).sigmoid()], 1)
    return torch.cat([agreement, z.new_ones(len(z), 1)], 1).amin(1)


def _targets(y: Any) -> Tensor:
    """Targets as a float tensor, from a tensor, an array or lists, in which None is free."""
    try:
        if isinstance(y, list | tuple):
            y = [[torch.nan if v is None else float(v) for v in row] for row in y]
        return torch.as_tensor(y).float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Targets `y` are a tensor (B, K) or a list of rows of numbers; found {y!r}."
        ) from error


def _index(names: Sequence[str], name: str) -> int:
    if not names:
        raise InputError(
            f"{name} was requested, but the critic has no named attributes. Use an AttributeCritic."
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
            f"{name} takes True, False, a probability, None for free, or a sequence of these; "
            f"found {value!r}."
        ) from error
    if len(column) not in (1, count):
        raise InputError(
            f"{name} has {len(column)} values for {count} samples. Give one, or one for each."
        )
    return column.expand(count)

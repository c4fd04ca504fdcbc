"""What a user asks of attributes, as targets `(B, K)`: 0, 1, a probability, or NaN for free."""

from __future__ import annotations

__all__ = ["Value", "asked_targets", "held_targets"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .critics import Critic
from .errors import InputError, ShapeError, UnknownNameError

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

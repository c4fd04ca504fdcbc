"""One family of exceptions. Each message says what was asked, what was found, and what to do."""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "BudgetError",
    "CacheError",
    "CheckpointError",
    "FingerprintError",
    "InputError",
    "LatentctlError",
    "LawError",
    "NonFiniteError",
    "ShapeError",
    "UnknownNameError",
    "check_kind",
    "check_positive",
    "check_rows",
    "nearest",
]

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any


class LatentctlError(Exception):
    """Base of every error that latentctl raises on purpose."""


class InputError(LatentctlError, ValueError):
    """A value that cannot be used: out of range, not finite, contradictory, a single class."""


class ShapeError(InputError):
    """A tensor of another shape than the decoder or the network takes."""


class UnknownNameError(InputError):
    """A name (attribute, adapter, column) that does not exist; the message lists the nearest."""

    def __init__(self, kind: str, name: Any, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(f"There is no {kind} named {name!r}. {nearest(name, known)}")
        self.name = name
        self.known = known


class NonFiniteError(LatentctlError, ArithmeticError):
    """A NaN or an infinity where a finite number is required; `rows` says in which rows."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class AdapterError(LatentctlError, RuntimeError):
    """An adapter could not be loaded, or the model does not fit it."""


class FingerprintError(LatentctlError, RuntimeError):
    """Something that was saved for one decoder is used with another."""


class CheckpointError(LatentctlError, RuntimeError):
    """A checkpoint or pack that is missing, truncated, corrupted or of a later format."""


class BudgetError(LatentctlError, RuntimeError):
    """The limit of reward calls is reached; `found` holds the scores so far."""

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


class CacheError(LatentctlError, RuntimeError):
    """A cache of latents that is incomplete, corrupted or made by another decoder."""


class LawError(LatentctlError, AssertionError):
    """A decoder, critic or controller violates a law of `latentctl.evaluation.laws`."""


def check_kind(value: Any, kind: type, subject: str, advice: str) -> None:
    """Raises an `InputError` unless `value` is a `kind`.

    Arguments:
        value: What a caller passed.
        kind: The class it must have.
        subject: The beginning of the message: the argument, such as "where=".
        advice: Its end: what to do.

    Example:
        >>> check_kind(3, str, "name=", "Write its name.")
        Traceback (most recent call last):
            ...
        latentctl.errors.InputError: name= must be of type str, not int. Write its name.
    """
    if not isinstance(value, kind):
        raise InputError(
            f"{subject} must be of type {kind.__name__}, not {type(value).__name__}. {advice}"
        )


def check_positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0; else an `InputError`."""
    if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a number above 0, not {value!r}.")
    return value


def check_rows(x: Any, shape: Sequence[int], subject: str, advice: str) -> None:
    """Raises a `ShapeError` unless the tensor `x` is `(B, *shape)`.

    Arguments:
        x: The tensor.
        shape: The shape of one row.
        subject: The beginning of the message, such as "This critic takes latents".
        advice: Its end: what to do.
    """
    if not hasattr(x, "shape"):
        raise ShapeError(
            f"{subject} (B, {', '.join(map(str, shape))}) as a tensor, not {type(x).__name__}. "
            f"{advice}"
        )
    if tuple(x.shape[1:]) != tuple(shape):
        raise ShapeError(
            f"{subject} (B, {', '.join(map(str, shape))}), these are {tuple(x.shape)}. {advice}"
        )


def nearest(name: Any, known: Iterable[str]) -> str:
    """A sentence with the known names that are most similar to `name`.

    Example:
        >>> nearest("smilng", ["Smiling", "Male"])
        "Did you mean 'Smiling'?"
        >>> nearest("Hat", ["Smiling", "Male"])
        'Known: Male, Smiling.'
    """
    by_lower = {k.lower(): k for k in known}
    close = [by_lower[c] for c in difflib.get_close_matches(str(name).lower(), by_lower, n=3)]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(sorted(by_lower.values()))}."

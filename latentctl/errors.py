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
    "nearest",
]

import difflib
from collections.abc import Iterable
from typing import Any


class LatentctlError(Exception):
    """Base of every error that latentctl raises on purpose."""


class InputError(LatentctlError, ValueError):
    """A value that cannot be used: out of range, not finite, contradictory, one class only."""


class ShapeError(InputError):
    """A tensor of another shape than the decoder or the network takes."""


class UnknownNameError(InputError):
    """A name (attribute, adapter, column) that does not exist; the message lists the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(f"There is no {kind} named {name!r}. {nearest(name, known)}")
        self.name = name
        self.known = known


class NonFiniteError(LatentctlError, ArithmeticError):
    """A NaN or an infinity appeared where a finite number is promised."""


class AdapterError(LatentctlError, RuntimeError):
    """An adapter could not be loaded, or the model does not fit it."""


class FingerprintError(LatentctlError, RuntimeError):
    """Something saved for one decoder meets another decoder."""


class CheckpointError(LatentctlError, RuntimeError):
    """A checkpoint or pack that is missing, cut, altered or from a later format."""


class BudgetError(LatentctlError, RuntimeError):
    """A limit on calls of a reward is reached; `found` is what was scored before."""

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


class CacheError(LatentctlError, RuntimeError):
    """A cache of latents that is incomplete, altered or made by another decoder."""


class LawError(LatentctlError, AssertionError):
    """A decoder, critic or controller breaks one of the laws of `latentctl.evaluation.laws`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names that look most like `name`.

    Example:
        >>> nearest("smilng", ["Smiling", "Male"])
        "Did you mean 'Smiling'?"
        >>> nearest("Hat", ["Smiling", "Male"])
        'Known: Male, Smiling.'
    """
    by_lower = {k.lower(): k for k in known}
    close = [by_lower[c] for c in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(sorted(by_lower.values()))}."

"""Names of attributes, labels and rules: unique, and none that `sample` and `edit` use themselves.

An attribute is requested by its name as a keyword, as in `faces.edit(x, Smiling=True)`. A name
that is an argument of its own there could never be requested.
"""

from __future__ import annotations

__all__ = ["RESERVED", "attribute_names", "checked_labels"]

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import InputError

RESERVED = frozenset(
    {"self", "count", "x", "y", "where", "hold", "mask", "strength", "seed", "start"}
)
"""The arguments of `Conditional.sample` and `Conditional.edit`."""


def attribute_names(names: str | Iterable[str], kind: str = "attribute") -> tuple[str, ...]:
    """The names as a tuple; one string is one name.

    Arguments:
        names: The names.
        kind: What they name, for messages.

    Raises:
        InputError: If one is not a string, is empty, appears twice, or is reserved.

    Example:
        >>> attribute_names(["Smiling", "Male"]), attribute_names("Smiling")
        (('Smiling', 'Male'), ('Smiling',))
    """
    found = (names,) if isinstance(names, str) else tuple(names)
    for name in found:
        if not isinstance(name, str) or not name:
            raise InputError(f"The name of a {kind} is a text, such as 'Smiling'; found {name!r}.")
        if name in RESERVED:
            raise InputError(
                f"No {kind} can be named {name!r}: sample and edit have an argument of that name. "
                f"Rename it; reserved are {', '.join(sorted(RESERVED))}."
            )
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputError(f"Names of {kind}s must be unique; twice: {', '.join(twice)}.")
    return found


def checked_labels(labels: Tensor, names: Sequence[str]) -> Tensor:
    """Labels `(N, K)` as float32; raises an `InputError` that names one outside [0, 1]."""
    labels = labels.to(torch.float32)
    outside = (labels < 0) | (labels > 1)
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        raise InputError(
            f"Labels are in [0, 1] or NaN for unknown; {names[column]!r} of row {row} is "
            f"{float(labels[row, column]):g}. Map -1 to 0, or to NaN if it means unknown."
        )
    return labels

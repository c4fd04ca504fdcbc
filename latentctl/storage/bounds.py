"""Bounds on what the configuration of a saved module may build.

A configuration is untrusted input. It holds plain values, and the module that it builds may
have no more weights than the file beside it, which ends the construction before memory or time is
spent: a layer is registered before its weights are drawn.
"""

from __future__ import annotations

__all__ = ["at_most", "check_config"]

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as registry
from torch.nn.parameter import is_lazy

from ..errors import CheckpointError

LARGEST = 1 << 20  # of whole numbers
LONGEST = 1 << 16  # items of a list, characters of a text
DEEPEST = 8  # lists in lists
MODULES = 1 << 13
SPARE = 1 << 12  # numbers that are not saved, such as means of pixels


def check_config(config: Any, what: str) -> None:
    """Raises a `CheckpointError` unless a configuration holds plain values within bounds."""
    if not isinstance(config, dict):
        raise CheckpointError(
            f"The saved {what} is malformed: its configuration is a {type(config).__name__}, not "
            f"names and values. Save it again."
        )
    for name, value in config.items():
        if problem := _problem(value, DEEPEST):
            raise CheckpointError(
                f"The saved {what} cannot be built: its {name[:80]} {problem}. Do not load it, or "
                f"save it again."
            )


def _problem(value: Any, depth: int) -> str:
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int):
        return f"is beyond {LARGEST}" if abs(value) > LARGEST else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "is not finite"
    if len(value) > LONGEST or depth == 0:
        return f"is longer than {LONGEST}, or lists in lists over {DEEPEST} deep"
    if isinstance(value, str):
        return ""
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    return next(filter(None, (_problem(item, depth - 1) for item in inside)), "")


@contextlib.contextmanager
def at_most(numbers: int, what: str) -> Iterator[None]:
    """A block in which this thread builds a module of about `numbers` weights.

    Raises:
        CheckpointError: As soon as there are more than twice as many, or many thousand modules.
    """
    thread, limit = threading.get_ident(), 2 * numbers + SPARE  # some layers replace their weights
    counted = {"numbers": 0, "modules": 0}

    def count(kind: str, amount: int) -> None:
        if threading.get_ident() != thread:
            return
        counted[kind] += amount
        if counted["numbers"] > limit or counted["modules"] > MODULES:
            raise CheckpointError(
                f"The saved {what} cannot be built: its configuration asks for more than the "
                f"{numbers} weights in its file. Do not load it, or save it again."
            )

    def tensor(module: nn.Module, name: str, value: Any) -> None:
        count("numbers", 0 if value is None or is_lazy(value) else value.numel())

    def child(module: nn.Module, name: str, value: Any) -> None:
        count("modules", 1)

    with contextlib.ExitStack() as stack:
        for handle in (
            registry.register_module_parameter_registration_hook(tensor),
            registry.register_module_buffer_registration_hook(tensor),
            registry.register_module_module_registration_hook(child),
        ):
            stack.callback(handle.remove)
        yield

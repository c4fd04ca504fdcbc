"""Linear algebra that stays in float32 under mixed precision."""

from __future__ import annotations

__all__ = ["full_precision"]

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """A block in which autocast leaves matrix products of tensors like `x` in their precision.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision(x):
        ...     y = x @ x
        >>> y.dtype
        torch.float32
    """
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()

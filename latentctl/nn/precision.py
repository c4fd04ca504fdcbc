"""Precision of sums and of linear algebra, whatever the device and the autocast."""

from __future__ import annotations

__all__ = ["double_precision", "full_precision"]

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)


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


def double_precision(x: Tensor) -> Tensor:
    """`x` in float64: on its device, or on the CPU if its device, an MPS, has no float64.

    Example:
        >>> double_precision(torch.ones(2))
        tensor([1., 1.], dtype=torch.float64)
    """
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()

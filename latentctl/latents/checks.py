"""A check of arguments that must be `Latents`."""

from __future__ import annotations

__all__ = ["require_latents"]

from typing import Any

from ..errors import check_kind
from .latents import Latents


def require_latents(latents: Any) -> None:
    """Raises an `InputError` unless `latents` are `Latents`."""
    advice = "Make them with latentctl.encode_dataset, or of a tensor: latentctl.Latents(z)."
    check_kind(latents, Latents, "latents=", advice)

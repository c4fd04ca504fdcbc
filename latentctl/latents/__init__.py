"""Encodings of a data set, computed once and cached."""

from __future__ import annotations

__all__ = ["Covariance", "Latents", "require_latents"]

from .checks import require_latents
from .covariance import Covariance
from .latents import Latents

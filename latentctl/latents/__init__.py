"""Encodings of a data set, computed once and cached."""

from __future__ import annotations

__all__ = ["Covariance", "Latents", "require_latents", "shared_pattern", "typicality"]

from .checks import require_latents
from .covariance import Covariance
from .latents import Latents
from .typicality import shared_pattern, typicality

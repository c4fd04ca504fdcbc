"""Encodings of a data set, computed once and cached."""

from __future__ import annotations

__all__ = ["Covariance", "Latents"]

from .covariance import Covariance
from .latents import Latents

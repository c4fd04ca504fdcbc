"""Densities over latents: one file a family."""

from __future__ import annotations

__all__ = ["GaussianMixture", "LatentFlow"]

from .flow import LatentFlow
from .mixture import GaussianMixture

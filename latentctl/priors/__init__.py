"""Where the latents of data are: one file a family of densities."""

from __future__ import annotations

__all__ = ["Gaussian", "GaussianMixture", "LatentFlow", "Prior"]

from .flow import LatentFlow
from .gaussian import Gaussian, Prior
from .mixture import GaussianMixture

"""Where the latents of data are: one file a family of densities."""

from __future__ import annotations

__all__ = ["Gaussian", "Prior"]

from .gaussian import Gaussian, Prior

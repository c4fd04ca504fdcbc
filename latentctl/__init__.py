"""latentctl: control a frozen generator from its latent space."""

from __future__ import annotations

__version__ = "0.1.0"

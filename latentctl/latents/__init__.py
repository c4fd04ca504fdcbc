"""Encode once, train on the cache ever after."""

from __future__ import annotations

__all__ = ["Latents", "encode_dataset"]

from .cache import Latents
from .encode import encode_dataset

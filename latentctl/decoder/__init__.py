"""The frozen decoder, its prior, its registry, and what encodes data with it."""

from __future__ import annotations

__all__ = [
    "Decoder",
    "Flow",
    "Gaussian",
    "Inversion",
    "Posterior",
    "Prior",
    "available",
    "encode_dataset",
    "frozen_view",
    "invert",
    "read_samples",
    "with_inversion",
    "load",
    "wrap",
]

from .decoder import Decoder
from .encode import encode_dataset
from .frozen import frozen_view
from .inversion import Inversion, invert, with_inversion
from .posterior import Posterior
from .prior import Flow, Gaussian, Prior
from .registry import available, load, wrap
from .samples import read_samples

"""Networks over latents `(B, *latent_shape)`, vectors or cells with channels."""

from __future__ import annotations

__all__ = [
    "Dropout",
    "GatedResidual",
    "ScoreNet",
    "Trunk",
    "UNet",
    "Velocity",
    "check_shape",
    "encode_targets",
    "rows_of_batch",
]

from .dropout import Dropout, rows_of_batch
from .grids import check_shape
from .trunk import GatedResidual, ScoreNet, Trunk, encode_targets
from .unet import UNet
from .velocity import Velocity

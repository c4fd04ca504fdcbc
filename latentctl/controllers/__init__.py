"""Moves of a latent, interchangeable under `latentctl.condition`: one file a method."""

from __future__ import annotations

__all__ = [
    "Actor",
    "Ascent",
    "Controller",
    "FlowEdit",
    "FlowMatching",
    "Move",
    "Refined",
    "Rejection",
    "Request",
    "SphericalAscent",
    "Transport",
    "Updater",
    "amortise",
    "distill",
]

from .actor import Actor
from .amortise import amortise
from .ascent import Ascent
from .base import Controller, Move
from .cgml.updater import Updater
from .distillation import distill
from .flow_edit import FlowEdit
from .flow_matching import FlowMatching
from .refined import Refined
from .rejection import Rejection
from .request import Request
from .spherical import SphericalAscent
from .transport import Transport

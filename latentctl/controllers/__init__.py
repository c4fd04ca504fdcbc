"""Moves of a latent, interchangeable under `latentctl.condition`: one file a method."""

from __future__ import annotations

__all__ = [
    "Actor",
    "Ascent",
    "Controller",
    "FlowMatching",
    "Move",
    "Refined",
    "Transport",
    "Updater",
    "amortise",
]

from .actor import Actor
from .amortised import amortise
from .ascent import Ascent
from .base import Controller, Move
from .flow_matching import FlowMatching
from .refined import Refined
from .transport import Transport
from .updater import Updater

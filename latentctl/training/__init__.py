"""The one training loop, and its parts."""

from __future__ import annotations

__all__ = ["History", "Player", "Step", "fit", "train"]

from .loop import History, fit
from .player import Player
from .schedule import Step
from .train import train

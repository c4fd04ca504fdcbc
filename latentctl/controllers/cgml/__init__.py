"""Conditional Generation by Modeling the Latent Space (Ramasinghe et al., 2021)."""

from __future__ import annotations

__all__ = [
    "Completion",
    "OneToMany",
    "Updater",
    "complete",
    "completer",
    "train_dagger",
    "train_unrolled",
]

from .completion import Completion, complete, completer
from .one_to_many import OneToMany
from .training import train_dagger, train_unrolled
from .updater import Updater

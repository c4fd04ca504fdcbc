"""Conditional Generation by Modeling the Latent Space (Ramasinghe et al., 2021)."""

from __future__ import annotations

__all__ = ["Completion", "OneToMany", "Updater", "complete", "completer"]

from .completion import Completion, complete, completer
from .one_to_many import OneToMany
from .updater import Updater

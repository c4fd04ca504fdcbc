"""The command `latentctl`: `sample`, `edit`, `verify`, `fit`, `push` and `doctor`."""

from __future__ import annotations

__all__ = ["load_function", "main"]

from .main import main
from .sources import load_function

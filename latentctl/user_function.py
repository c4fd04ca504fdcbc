"""A function of the user's that a command line names: `FILE.py:FUNCTION` or `MODULE:FUNCTION`."""

from __future__ import annotations

__all__ = ["load_function"]

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError


def load_function(source: str, flag: str) -> Callable[..., Any]:
    """A function of the user's, `FILE.py:FUNCTION` or `MODULE:FUNCTION`.

    Raises:
        InputError: If the file, the module or the function does not exist; the message has `flag`.
    """
    where, _, name = source.rpartition(":")
    if not where or not name:
        raise InputError(f"{flag} is FILE.py:FUNCTION or MODULE:FUNCTION, it was {source!r}.")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        if not Path(where).is_file() or spec is None or spec.loader is None:
            raise InputError(f"{flag}: {where!r} is not a file.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise InputError(f"{flag}: {error}. Give a FILE.py:FUNCTION, or install it.") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{flag}: there is no function {name!r} in {where}.")
    found: Callable[..., Any] = function
    return found

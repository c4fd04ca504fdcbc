"""A recipe as a command: flags in, and a message where something has to be put right."""

from __future__ import annotations

__all__ = ["run"]

from collections.abc import Callable
from typing import Any

from latentctl.errors import LatentctlError


def run(main: Callable[[Any], object], flags: type) -> None:
    """Reads the flags and runs the recipe.

    Arguments:
        main: The recipe.
        flags: Its dataclass of flags.

    Raises:
        SystemExit: With the message alone, if latentctl refuses something.
    """
    import tyro

    parsed = tyro.cli(flags, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True)
    try:
        main(parsed)
    except LatentctlError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None

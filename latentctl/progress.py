"""The progress bar of everything that may take long.

A bar with the time left appears on stderr, in notebooks as a widget, once the work has taken
`DELAY` seconds. Where stderr is no terminal, it is written every `LOGGED` seconds. Only the main
process shows one, and only one is shown at a time: that of the outermost call, so that an
exploration shows its rounds and not each training in them.

No bar is shown with `progress=False`, or with the environment variable `LATENTCTL_PROGRESS=0`.
"""

from __future__ import annotations

__all__ = ["progress_bar", "track"]

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

DELAY = 2.0  # seconds of work without a bar
LOGGED = 30.0  # seconds between two states of a bar in a log file
T = TypeVar("T")
_inside = ContextVar("latentctl_progress", default=False)


@contextlib.contextmanager
def progress_bar(
    total: int | None, desc: str, unit: str, *, progress: bool = True, initial: int = 0
) -> Iterator[Any]:
    """A tqdm bar for the work of a block; the caller calls its `update`.

    Arguments:
        total: Number of units; None if it is not known.
        desc: The work, in a word or two.
        unit: One unit of it.
        progress: False shows no bar here, nor in the calls inside.
        initial: Units that were done before.

    Example:
        >>> with progress_bar(3, "Count", "number") as bar:
        ...     for number in range(3):
        ...         bar.update()
    """
    from tqdm.auto import tqdm

    hidden = not progress or _inside.get() or not _wanted()
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    pace = {} if live else {"mininterval": LOGGED, "maxinterval": LOGGED}
    outside = _inside.get()
    _inside.set(True)
    try:
        with tqdm(
            total=total,
            desc=desc,
            unit=unit,
            initial=initial,
            disable=hidden,
            delay=DELAY,
            **pace,
        ) as bar:
            yield bar
    finally:
        _inside.set(outside)


def track(items: Sequence[T], desc: str, unit: str, *, progress: bool = True) -> Iterator[T]:
    """The items one by one, with a bar; the other arguments are those of `progress_bar`.

    Example:
        >>> [number for number in track([1, 2, 3], "Count", "number")]
        [1, 2, 3]
    """
    if len(items) < 2 and progress:
        yield from items
        return
    with progress_bar(len(items), desc, unit, progress=progress) as bar:
        for item in items:
            yield item
            bar.update()


def _wanted() -> bool:
    if os.environ.get("LATENTCTL_PROGRESS", "1").lower() in ("0", "false", "no", "off"):
        return False
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"

"""Stopping a long job after its current step.

The first SIGTERM or SIGINT is recorded, so that the job can finish its step and save. The second
one ends the process at once, which loses no checkpoint because they are written atomically.
"""

from __future__ import annotations

__all__ = ["stop_on_signals"]

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that gets the first SIGTERM or SIGINT; the second one exits.

    The old handlers are restored at the end, and a signal that was not acted on is raised again.
    Outside the main thread Python allows no handlers: signals then act as before.

    Example:
        >>> with stop_on_signals() as received:
        ...     received
        []
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def record(signum: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        # os.write, because this handler may interrupt a print
        os.write(2, b"\nStopping after this step. A second signal exits at once.\n")

    old = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    finished = False
    try:
        yield received
        finished = True
    finally:
        for number, handler in old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if finished and received:
            signal.raise_signal(received[0])

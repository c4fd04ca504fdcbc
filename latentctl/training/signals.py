"""Stopping a long job after its current step.

The first SIGTERM or SIGINT is recorded, so that the job can finish its step and save. The second
one ends the process at once, which loses no checkpoint because they are written atomically.
"""

from __future__ import annotations

__all__ = ["StopRequest", "stop_on_signals"]

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """The signal that asked the job to stop: `signum` is None until one arrives."""

    signum: int | None = None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT; 143 after SIGTERM, or if another process was stopped."""
        return 128 + (self.signum or signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record the first SIGTERM or SIGINT and exit at the second; restore the handlers at the end.

    Outside the main thread Python allows no handlers: signals then act as before. A signal that
    was recorded but not acted on is raised again at the end.

    Example:
        >>> with stop_on_signals() as stop:
        ...     stop.signum is None
        True
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def record(signum: int, frame: FrameType | None) -> None:
        if request.signum is not None:
            os._exit(128 + signum)
        request.signum = signum
        # os.write, because this handler may interrupt a print
        os.write(2, b"\nStopping after this step. A second signal exits at once.\n")

    old = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    finished = False
    try:
        yield request
        finished = True
    finally:
        for number, handler in old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if finished and request.signum is not None:
            signal.raise_signal(request.signum)

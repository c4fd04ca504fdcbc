"""Stopping a long job without losing its last step.

The first SIGTERM or SIGINT is only noted, so that the job can finish what it is doing and save; the
second one ends the process at once, which is safe because checkpoints appear whole or not at all.
"""

from __future__ import annotations

__all__ = ["StopRequest", "stop_on_signals"]

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether a signal has asked for the end: `signum` is None until then."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects: 143 after SIGTERM (or another process's stop), 130 after SIGINT."""
        return 128 + (self.signum or signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first SIGTERM or SIGINT, exit at the second, put the old handlers back at the end.

    Outside the main thread Python allows no handlers: signals then act as they did before. A signal
    that nobody acted on before the end goes to the old handler.

    Example:
        >>> with stop_on_signals() as stop:
        ...     stop.signum is None
        True
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum is not None:
            os._exit(128 + signum)
        request.signum = signum
        # os.write, because print may be interrupted by this very handler
        os.write(2, b"\nStopping after this step. A second signal exits at once.\n")

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    ended_well = False
    try:
        yield request
        ended_well = True
    finally:
        for number, handler in old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if ended_well and request.signum is not None:
            signal.raise_signal(request.signum)

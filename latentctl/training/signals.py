"""Stopping a long job after its current step.

The first SIGTERM or SIGINT is recorded, so that the job can finish its step and save. The second
one ends the process at once, which loses no checkpoint because they are written atomically.

`accelerate launch` with one process does not pass a SIGTERM on: it ends, and its worker goes on.
On Linux `end_with_launcher` makes the kernel send the worker a SIGTERM then.
"""

from __future__ import annotations

__all__ = ["end_with_launcher", "stop_on_signals"]

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1


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


def end_with_launcher() -> bool:
    """On Linux, a SIGTERM for this process when the `accelerate launch` that started it ends.

    Returns:
        Whether it was started so, and the signal was asked for.
    """
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:  # another system
        return False
    if not sys.platform.startswith("linux") or not any(b"accelerate" in word for word in command):
        return False
    died: bool = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) == 0
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGTERM)
    return died

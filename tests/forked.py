"""Work in forked processes: cheap to start, and they can be killed."""

from __future__ import annotations

import os
import time


def start(work, *given):
    """A process that runs `work(*given)`; its number. It exits with 1 after an error."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*given)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid


def ends(pids):
    """The exit codes of processes, after all of them have ended; that of one killed is -9."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def children(count, work):
    """Runs `work(number)` in several processes at once, and returns their exit codes."""
    begin = time.monotonic() + 0.05

    def one(number):
        time.sleep(max(0, begin - time.monotonic()))
        work(number)

    return ends([start(one, number) for number in range(count)])

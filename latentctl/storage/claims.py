"""Claims on tasks by processes that share a folder and know nothing of each other.

A claim is a file that is made by an atomic create. Its content changes while its holder works. It
is abandoned, and another process may take it, if the holder ran on this machine and has ended (the
operating system's lock on the file is free), or if its content did not change for `LEASE` seconds
on the clock of the process that looks on. Times of different processes or machines are never
compared. A task that is done twice must do no harm: a holder that pauses for longer than the lease
loses its claim without notice.
"""

from __future__ import annotations

__all__ = ["LEASE", "Claims"]

import contextlib
import os
import secrets
import shutil
import socket
import time
from pathlib import Path

from .files import read_regular
from .lock import close_locked, lock_now, remove_unlocked

LEASE = 120.0  # seconds without a change after which a claim of another machine is abandoned
BEAT = 5.0  # seconds between two changes
LONGEST = 1.0  # seconds between two looks at the claims of others
DONE = b"done"


class Claims:
    """The claims of this process among those in `folder`, which is removed when all is done.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> one, other = Claims(folder), Claims(folder)
        >>> one.take("3"), other.take("3")
        (True, False)
        >>> one.release("3")
        >>> other.take("3")
        True
    """

    def __init__(self, folder: Path, lease: float = LEASE) -> None:
        self.folder, self.lease = folder, lease
        self._host = socket.gethostname().encode()
        self._held: dict[str, tuple[int, float]] = {}
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._pause = 0.01

    def take(self, task: str) -> bool:
        """Whether the task is this process's from now on."""
        if not self.is_free(task):
            return False
        path = self.folder / task
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except (FileExistsError, FileNotFoundError):  # the folder was removed in between
            return False
        lock_now(descriptor)
        self._held[task] = descriptor, 0.0
        self._pause = 0.01
        self.beat(task)
        return True

    def is_free(self, task: str) -> bool:
        """Whether nobody holds the task; an abandoned claim is removed."""
        path = self.folder / task
        try:
            content = read_regular(path)
        except FileNotFoundError:
            return True
        if content == DONE:
            return False
        if content.startswith(self._host + b" ") and remove_unlocked(path, content):
            return True
        if not self._stands_still(task, content):
            return False
        path.unlink(missing_ok=True)  # two processes that do so both take the task: no harm
        return True

    def is_done(self, task: str) -> bool:
        """Whether `finish` was called for the task."""
        with contextlib.suppress(FileNotFoundError):
            return read_regular(self.folder / task) == DONE
        return False

    def beat(self, task: str) -> None:
        """Shows that the holder is at work."""
        descriptor, last = self._held[task]
        if (now := time.monotonic()) - last >= BEAT or not last:
            self._write(descriptor, self._host + b" " + secrets.token_hex(8).encode())
            self._held[task] = descriptor, now

    def finish(self, task: str) -> None:
        """Nobody takes the task again."""
        descriptor, _ = self._held.pop(task)
        self._write(descriptor, DONE)
        close_locked(descriptor)

    def release(self, task: str) -> None:
        """Gives the task back, or makes one that was done free again."""
        (self.folder / task).unlink(missing_ok=True)
        if task in self._held:
            close_locked(self._held.pop(task)[0])

    def wait(self) -> None:
        """Pauses before the next look at the claims of others."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST)

    def remove(self) -> None:
        """Removes all claims, once all is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_empty(self) -> None:
        """Removes the folder of the claims and the one around it, if they are empty."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _stands_still(self, task: str, content: bytes) -> bool:
        """Whether this process has seen the same content for longer than the lease."""
        now = time.monotonic()
        before, since = self._seen.get(task, (None, now))
        if content != before:
            self._seen[task] = content, now
        return content == before and now - since >= self.lease

    def _write(self, descriptor: int, content: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk: the file is the claim, not its content
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, content)

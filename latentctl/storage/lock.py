"""Locks that end with their process.

A lock is a hidden file that is locked by the operating system (`flock`) and removed at the end.
The file of a process that was killed is not locked any more, so the next one takes it over. Its
content names the process that holds it, for messages. Where the file system has no locks, nothing
is locked.
"""

from __future__ import annotations

__all__ = [
    "PATIENCE",
    "LockedError",
    "close_locked",
    "held",
    "lock",
    "lock_now",
    "remove_unlocked",
]

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError, LatentctlError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment,unused-ignore]

PATIENCE = 600.0  # seconds for which a save waits for another one
PAUSE = 0.005  # seconds between two attempts
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
_open: set[int] = set()


class LockedError(OSError):
    """The lock is held by another process or thread."""


@contextlib.contextmanager
def lock(file: Path, seconds: float = 0.0) -> Iterator[None]:
    """Holds the lock `file` in a folder that exists.

    Arguments:
        file: The lock.
        seconds: How long to wait for another holder.

    Raises:
        LockedError: If another process or thread still holds it; the message names the process.
        OSError: If the file cannot be made.
    """
    descriptor = _acquire(file, time.monotonic() + seconds)
    _open.add(descriptor)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds, without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        try:
            with contextlib.suppress(OSError):
                os.unlink(file)
        finally:
            _open.discard(descriptor)
            os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path, error: type[LatentctlError] = CheckpointError) -> Iterator[None]:
    """Holds the folder of a run, which is made where it is missing.

    Raises:
        LatentctlError: An `error`, if another running process holds it, or it cannot be written.
    """
    made = not folder.exists()
    with contextlib.ExitStack() as stack:
        if made:  # of a run that wrote nothing, nothing is left
            stack.callback(_remove_empty, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder / ".lock"))
        except LockedError as found:
            raise error(
                f"{folder} is in use: {found} is writing into it. Wait for that run or end it, or "
                f"choose another folder."
            ) from found
        except OSError as found:
            raise error(
                f"Cannot write into {folder}: {found}. Free some disk space, or choose another "
                f"folder."
            ) from found
        yield


def lock_now(descriptor: int) -> bool:
    """Locks an open file until `close_locked`; False if another process or thread holds it.

    True where the file system has no locks.
    """
    if locked := _locks(descriptor):
        _open.add(descriptor)
    return locked


def close_locked(descriptor: int) -> None:
    """Closes a file that was locked by `lock_now`."""
    _open.discard(descriptor)
    os.close(descriptor)


def remove_unlocked(file: Path, content: bytes) -> bool:
    """Removes a file that still has this content, if no process on this machine holds it.

    False where the file system has no locks.
    """
    if fcntl is None:
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # its holder may have changed it at last, or another process may have replaced it
            if os.read(descriptor, len(content) + 1) == content and _is(file, descriptor):
                os.unlink(file)
                return True
        finally:
            os.close(descriptor)
    return False


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _acquire(file: Path, deadline: float) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(file, flags, 0o644)
        try:
            if _locks(descriptor) and _is(file, descriptor):
                return descriptor
            holder = os.read(descriptor, 200).decode(errors="replace")
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise LockedError(holder or "another process")
        time.sleep(PAUSE)


def _locks(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True


def _is(file: Path, descriptor: int) -> bool:
    """Whether `descriptor` is the file: its last holder may have removed it in between."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    return False


def _close_in_child() -> None:
    # a child that outlives its parent, such as a reader of batches, must not keep the lock
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

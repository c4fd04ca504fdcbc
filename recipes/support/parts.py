"""The parts of a run: which one it is at, what each took, and how long the rest will take."""

from __future__ import annotations

__all__ = ["Parts"]

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

ENOUGH = 0.1  # share of the expected time after which the run's own speed is used


class Parts:
    """Announces each part of a run with the time that is left, and records its seconds.

    Arguments:
        expected: The parts in order, with the seconds that each takes on two cores. What is left
            is scaled by the speed of this run so far.
        announce: Whether to log; False on all processes but the main one.

    Example:
        >>> parts = Parts({"draw": 1.0, "train": 2.0}, announce=False)
        >>> with parts("draw"):
        ...     pass
        >>> list(parts.seconds)
        ['draw']
    """

    def __init__(self, expected: Mapping[str, float], *, announce: bool = True) -> None:
        self.expected, self.announce = dict(expected), announce
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """One part; one that was not expected is recorded, and not numbered."""
        if self.announce:
            logger.warning("%s", self._line(name))
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def _line(self, name: str) -> str:
        if name not in self.expected:
            return name
        names = list(self.expected)
        place = names.index(name)
        done = sum(self.expected[other] for other in names[:place])
        left = sum(self.expected.values()) - done
        if done > ENOUGH * sum(self.expected.values()):
            left *= (time.monotonic() - self._started) / done
        return f"[{place + 1}/{len(names)}] {name} (about {max(5 * round(left / 5), 5)} s left)"

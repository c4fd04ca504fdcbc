"""Who does which task of an encoding: by claims, or as a scheduler said."""

from __future__ import annotations

__all__ = ["Given", "Share"]

from dataclasses import dataclass
from typing import Protocol


class Share(Protocol):
    """Which tasks are those of this process; `latentctl.storage.claims.Claims` is one."""

    def take(self, task: str) -> bool: ...
    def beat(self, task: str) -> None: ...
    def finish(self, task: str) -> None: ...
    def release(self, task: str) -> None: ...


@dataclass(frozen=True)
class Given:
    """The tasks that a scheduler gave to this process: those that are in `numbers` modulo `of`.

    Nothing is claimed: a task that is given to two processes is done twice, with one result.
    """

    numbers: range
    of: int

    def take(self, task: str) -> bool:
        return int(task) % self.of in self.numbers

    def beat(self, task: str) -> None: ...
    def finish(self, task: str) -> None: ...
    def release(self, task: str) -> None: ...

"""Buffers of networks over a step: averaged over processes, and restored where the step failed."""

from __future__ import annotations

__all__ = ["Buffers"]

from collections.abc import Sequence

from torch import Tensor, nn


class Buffers:
    """The buffers of all networks, such as running means.

    Arguments:
        modules: The networks.
        processes: Number of processes. On several the changes of floating-point buffers are
            averaged; on one they stay as they are.
        share: Share of the rows of a step on this process, times the number of processes.
    """

    def __init__(self, modules: Sequence[nn.Module], processes: int, share: float) -> None:
        self.every = [buffer for module in modules for buffer in module.buffers()]
        self.shared = [
            number
            for number, buffer in enumerate(self.every)
            if processes > 1 and buffer.is_floating_point()
        ]
        self.share = share
        self.before: list[Tensor] = []

    def remember(self) -> None:
        """Keeps the values from before a step."""
        self.before = [buffer.clone() for buffer in self.every]

    def changes(self) -> list[Tensor]:
        """What the step has changed on this process, whose mean over processes is `apply`'s."""
        return [(self.every[k] - self.before[k]) * self.share for k in self.shared]

    def apply(self, changes: Sequence[Tensor]) -> None:
        """Sets the values from before the step, changed by means over processes."""
        for k, change in zip(self.shared, changes, strict=True):
            self.every[k].copy_(self.before[k] + change)

    def restore(self) -> None:
        """Sets the values from before the step."""
        for buffer, old in zip(self.every, self.before, strict=True):
            buffer.copy_(old)

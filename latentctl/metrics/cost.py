"""What a result cost: wall seconds, and evaluations of the networks that matter."""

from __future__ import annotations

__all__ = ["Cost", "measure_cost"]

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Cost:
    """Filled in while `measure_cost` is open.

    `evaluations` and `samples` count forward calls of each watched module and the rows they
    had; `seconds` is wall time, final when the block ends.
    """

    seconds: float = 0.0
    evaluations: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)


@contextmanager
def measure_cost(**modules: nn.Module) -> Iterator[Cost]:
    """Time a block and count the forward calls of the named modules in it.

    A call counts when the module itself is called, not when a method beside `forward` is. Where
    one of them is on a GPU, the clock stops after all queued work is done.

    Arguments:
        modules: The modules to watch, each under a name of your choice.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> with measure_cost(critic=net) as cost:
        ...     _ = net(torch.zeros(8, 2)), net(torch.zeros(4, 2))
        >>> cost.evaluations, cost.samples
        ({'critic': 2}, {'critic': 12})
    """
    cost = Cost(evaluations=dict.fromkeys(modules, 0), samples=dict.fromkeys(modules, 0))
    handles = []
    for name, module in modules.items():

        def count(module: nn.Module, inputs: tuple[object, ...], name: str = name) -> None:
            cost.evaluations[name] += 1
            first = inputs[0] if inputs else None
            cost.samples[name] += len(first) if isinstance(first, Tensor) else 0

        handles.append(module.register_forward_pre_hook(count))
    _synchronise(modules)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        _synchronise(modules)
        cost.seconds = time.perf_counter() - start
        for handle in handles:
            handle.remove()


def _synchronise(modules: dict[str, nn.Module]) -> None:
    if any(p.is_cuda for module in modules.values() for p in module.parameters()):
        torch.cuda.synchronize()

"""Stateless random numbers: generators seeded by a hash of `(seed, step, rank, purpose)`.

Resuming a run needs no generator state, draws elsewhere in the process have no influence, and
different purposes have different streams. `noise` gives sample `i` the same numbers for any batch
size, order and number of processes.
"""

from __future__ import annotations

__all__ = ["generator", "noise", "permutation", "seeded"]

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import InputError

BLOCK = 16  # samples that share one generator in `noise`


def generator(
    seed: int,
    step: int = 0,
    rank: int = 0,
    purpose: str = "",
    device: torch.device | str = "cpu",
) -> torch.Generator:
    """A new generator for one purpose at one step.

    Arguments:
        seed: The user's seed, any integer.
        step: The step, epoch or block of the draw.
        rank: The process, if processes must differ.
        purpose: Separates the streams of one step.
        device: Device of the generator.

    Raises:
        InputError: If a number is not a whole one.

    Example:
        >>> a = torch.randn(3, generator=generator(0, 5, purpose="latent"))
        >>> b = torch.randn(3, generator=generator(0, 5, purpose="latent"))
        >>> c = torch.randn(3, generator=generator(0, 5, purpose="dropout"))
        >>> torch.equal(a, b), torch.equal(a, c)
        (True, False)
    """
    numbers = (("seed", seed), ("step", step), ("rank", rank))
    text = "/".join(str(_whole(name, number)) for name, number in numbers) + f"/{purpose}"
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise(
    start: int,
    count: int,
    shape: Sequence[int],
    *,
    seed: int,
    step: int = 0,
    purpose: str = "latent",
    uniform: bool = False,
) -> Tensor:
    """Noise of the samples `start ... start + count - 1` of an infinite sequence.

    Arguments:
        start: Index of the first sample.
        count: Number of samples.
        shape: Shape of one sample.
        seed: The user's seed.
        step: The step of the draw.
        purpose: Separates the streams of one step.
        uniform: Draw from U(0, 1) instead of N(0, 1).

    Returns:
        A float32 tensor `(count, *shape)` on the CPU. Row `i` depends on `start + i` alone.

    Example:
        >>> whole = noise(0, 40, (3,), seed=0)
        >>> torch.equal(whole[30:33], noise(30, 3, (3,), seed=0))
        True
    """
    if count <= 0:
        return torch.empty(0, *shape)
    draw = torch.rand if uniform else torch.randn
    blocks = range(start // BLOCK, (start + count - 1) // BLOCK + 1)
    rows = [draw(BLOCK, *shape, generator=generator(seed, step, b, purpose)) for b in blocks]
    offset = start - blocks.start * BLOCK
    return torch.cat(rows)[offset : offset + count]


def permutation(n: int, *, seed: int, epoch: int, purpose: str = "order") -> Tensor:
    """The order of `n` samples in epoch `epoch`, `(n,)` integers."""
    return torch.randperm(n, generator=generator(seed, epoch, purpose=purpose))


@contextmanager
def seeded(seed: int, purpose: str = "init") -> Iterator[None]:
    """In a block, what draws without a generator draws from one of `(seed, purpose)`.

    For code that takes no generator, such as the initialisation of layers. It holds for this thread
    alone. Torch's global generator is neither read nor changed by it, so that draws of other
    threads have no influence.

    Example:
        >>> with seeded(0):
        ...     a = torch.nn.Linear(2, 2)
        >>> with seeded(0):
        ...     b = torch.nn.Linear(2, 2)
        >>> torch.equal(a.weight, b.weight)
        True
    """
    with _DrawsFrom(seed, purpose):
        yield


class _DrawsFrom(TorchDispatchMode):
    """Operators that would draw from a global generator of torch draw from one of its own."""

    def __init__(self, seed: int, purpose: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.seed, self.purpose = _whole("seed", seed), purpose
        self.sources: dict[torch.device, torch.Generator] = {}

    def source(self, device: torch.device) -> torch.Generator:
        if device not in self.sources:
            self.sources[device] = generator(self.seed, purpose=self.purpose, device=device)
        return self.sources[device]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator"):
            return func(*args, **kwargs)
        given = [value.device for value in args if isinstance(value, Tensor)]
        source = self.source(torch.device([*given, kwargs.get("device") or "cpu"][0]))
        own = getattr(func.overloadpacket, WITH_GENERATOR.get(func._overloadname, ""), func)
        if any(argument.name == "generator" for argument in own._schema.arguments):
            return own(*args, **{**kwargs, "generator": source})
        with torch.random.fork_rng(devices=[]):  # a dropout takes no generator
            key = torch.randint(2**62, (), generator=source, device=source.device)
            torch.default_generator.manual_seed(int(key))
            return func(*args, **kwargs)


# overloads of torch's factories -> those that take a generator
WITH_GENERATOR = {"default": "generator", "low": "low_generator", "Tensor": "Tensor_generator"}
WITH_GENERATOR |= {"low_dtype": "low_generator_dtype"}


def _whole(name: str, number: object) -> int:
    try:
        return operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} must be a whole number, not {number!r}.") from None

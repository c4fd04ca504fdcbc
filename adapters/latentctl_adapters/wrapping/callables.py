"""Callables as modules, so that a frozen view reaches the networks inside them.

A view is a copy of a module tree. Copying follows bound methods and partials; a function is not
copied, so the modules in its closure and globals become submodules here, and are inserted at each
call. Fixed tensors and numbers of a decoder (a label, a noise map, a truncation) are part of it
like its weights: they become buffers.
"""

from __future__ import annotations

__all__ = ["CallablePair"]

import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class CallablePair(nn.Module):
    """A module with `encode` and `decode`, made of any two callables.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> pair = CallablePair(None, lambda z: net(z))
        >>> sorted(pair.state_dict())
        ['decode.held.0.bias', 'decode.held.0.weight']
    """

    def __init__(self, encode: Callable[..., Any] | None, decode: Callable[..., Any]) -> None:
        super().__init__()
        functions: dict[int, Any] = {}
        self.encode = _as_module(encode, functions)
        self.decode = _as_module(decode, functions)
        found = {id(m): m for part in (self.encode, self.decode) for m in _modules(part)}
        self.inside = nn.ModuleList(found.values())


class _Function(nn.Module):
    """A plain function whose networks are submodules, and whose constants are buffers."""

    def __init__(self, function: types.FunctionType) -> None:
        super().__init__()
        self.function = function
        values = dict(_variables(function))
        found = {n: value for n, value in values.items() if isinstance(value, nn.Module)}
        self.names = tuple(found)
        self.held = nn.ModuleList(found.values())
        self.constants = _hold(self, "constant", values)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        f = self.function
        held = dict(zip(self.names, self.held, strict=True))
        held |= {name: getattr(self, buffer) for name, buffer in self.constants.items()}
        cells = tuple(
            types.CellType(held[name]) if name in held else cell
            for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
        )
        scope = {**f.__globals__, **held}
        same = types.FunctionType(f.__code__, scope, f.__name__, f.__defaults__, cells)
        same.__kwdefaults__ = f.__kwdefaults__
        return same(*args, **kwargs)


class _Partial(nn.Module):
    """A `functools.partial` whose fixed arguments are buffers and part of the fingerprint."""

    def __init__(self, part: functools.partial[Any], functions: dict[int, Any]) -> None:
        super().__init__()
        self.func = _as_module(part.func, functions)
        given = {**{str(i): value for i, value in enumerate(part.args)}, **part.keywords}
        self.constants = _hold(self, "argument", given)
        plain = {k: None if k in self.constants else value for k, value in given.items()}
        self.arguments = [plain.pop(str(i)) for i in range(len(part.args))]
        self.options = plain
        inner = [part.func, *given.values()]
        networks = (m for value in inner for m in _networks(value))
        self.inside = nn.ModuleList({id(m): m for m in networks}.values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        fixed = {name: getattr(self, buffer) for name, buffer in self.constants.items()}
        before = [fixed.get(str(i), value) for i, value in enumerate(self.arguments)]
        options = {name: fixed.get(name, value) for name, value in self.options.items()}
        return self.func(*before, *args, **{**options, **kwargs})


def _hold(owner: nn.Module, prefix: str, values: dict[str, Any]) -> dict[str, str]:
    """Registers tensors as buffers, and numbers for the fingerprint only."""
    buffers = {}
    for name, value in values.items():
        buffer = f"{prefix}_{name}"
        if isinstance(value, Tensor):
            owner.register_buffer(buffer, value.detach())
            buffers[name] = buffer
        elif isinstance(value, bool | int | float):
            number = torch.tensor(value, dtype=torch.float64)
            owner.register_buffer(buffer, number.view(torch.int64))  # .half() must not round it
    return buffers


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values of a function's globals and closed-over variables."""
    code = function.__code__
    for line in dis.get_instructions(code):
        if line.opname == "LOAD_GLOBAL" and line.argval in function.__globals__:
            yield line.argval, function.__globals__[line.argval]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue


def _as_module(part: Any, functions: dict[int, Any]) -> Any:
    if isinstance(part, types.FunctionType):
        return functions.setdefault(id(part), _Function(part))
    if isinstance(part, functools.partial):
        return _Partial(part, functions)
    return part


def _networks(value: Any) -> Iterator[nn.Module]:
    """The networks inside an argument or a callable, itself included."""
    if isinstance(value, nn.Module):
        yield value
    elif callable(value) and not isinstance(value, types.FunctionType):
        yield from _modules(value)


def _modules(part: Any) -> Iterator[nn.Module]:
    """The networks inside a callable that is not itself a module."""
    if isinstance(part, types.MethodType):
        yield from _modules_of(part.__self__)
    elif not isinstance(part, nn.Module):
        yield from _modules_of(part)


def _modules_of(owner: Any) -> Iterator[nn.Module]:
    if isinstance(owner, nn.Module):
        yield owner
    else:
        attributes = getattr(owner, "__dict__", {})
        yield from (value for value in attributes.values() if isinstance(value, nn.Module))

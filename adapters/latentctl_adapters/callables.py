"""Callables as modules, so that a frozen view reaches the networks inside them.

A view is a copy of a module tree. Copying follows bound methods and partials by itself; a function
is not copied, so the modules that it closes over, or reads as globals, become its submodules here
and are put back into it at each call.
"""

from __future__ import annotations

__all__ = ["CallablePair"]

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


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
    """A plain function whose networks are submodules."""

    def __init__(self, function: types.FunctionType) -> None:
        super().__init__()
        self.function = function
        found = {n: value for n, value in _variables(function) if isinstance(value, nn.Module)}
        self.names = tuple(found)
        self.held = nn.ModuleList(found.values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        f = self.function
        held = dict(zip(self.names, self.held, strict=True))
        cells = tuple(
            types.CellType(held[name]) if name in held else cell
            for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
        )
        scope = {**f.__globals__, **held}
        same = types.FunctionType(f.__code__, scope, f.__name__, f.__defaults__, cells)
        same.__kwdefaults__ = f.__kwdefaults__
        return same(*args, **kwargs)


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values of a function's globals and closed-over variables."""
    code = function.__code__
    for name in code.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue


def _as_module(part: Any, functions: dict[int, Any]) -> Any:
    if isinstance(part, types.FunctionType):
        return functions.setdefault(id(part), _Function(part))
    if isinstance(part, functools.partial):
        return functools.partial(_as_module(part.func, functions), *part.args, **part.keywords)
    return part


def _modules(part: Any) -> Iterator[nn.Module]:
    """The networks inside a callable that is not itself a module."""
    if isinstance(part, functools.partial):
        for inner in (part.func, *part.args, *part.keywords.values()):
            yield from [inner] if isinstance(inner, nn.Module) else _modules(inner)
    elif isinstance(part, types.MethodType):
        yield from _modules_of(part.__self__)
    elif not isinstance(part, nn.Module):
        yield from _modules_of(part)


def _modules_of(owner: Any) -> Iterator[nn.Module]:
    if isinstance(owner, nn.Module):
        yield owner
    else:
        attributes = getattr(owner, "__dict__", {})
        yield from (value for value in attributes.values() if isinstance(value, nn.Module))

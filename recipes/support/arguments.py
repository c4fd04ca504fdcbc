"""The command line of a recipe: a list may be given by one flag or by several of the same name."""

from __future__ import annotations

__all__ = ["joined"]

import dataclasses
import typing
from collections.abc import Iterator, Sequence


def joined(words: Sequence[str], flags: type) -> list[str]:
    """The words of a command line, with the values of repeated list flags in the first of them.

    Without it the last flag would replace the others. Other flags are left to the parser.

    Arguments:
        words: The words after the command.
        flags: The dataclass of flags.

    Example:
        >>> @dataclasses.dataclass
        ... class Flags:
        ...     reward: tuple[str, ...] = ()
        >>> joined(["--reward", "a", "--seed", "0", "--reward=b"], Flags)
        ['--reward', 'a', 'b', '--seed', '0']
    """
    lists = set(_list_flags(flags))
    groups: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    for word in words:
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or name not in lists:
            if word.startswith("--"):
                groups.append([])
            groups[-1].append(word)
            continue
        if name in first:
            groups.append(first[name])  # its values follow those of the first
        else:
            groups.append([flag])
            first[name] = groups[-1]
        groups[-1] += [value] if equals else []
    seen = list({id(group): group for group in groups}.values())
    return [word for group in seen for word in group]


def _list_flags(flags: type) -> Iterator[str]:
    """Names of the flags that take any number of values, those of groups included."""
    types = typing.get_type_hints(flags)
    for field in dataclasses.fields(flags):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _list_flags(typing.cast("type", kind))
        elif typing.get_origin(kind) is tuple and Ellipsis in typing.get_args(kind):
            yield field.name

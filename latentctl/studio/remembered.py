"""A generator that keeps its last results, many of which a slider that is dragged asks for again.

A probability between 0 and 1 is a dose of the move towards 0 or 1 (`conditional.dose`), so that all
places of a slider on one side of where it began share that move, and its ends. The strengths of a
request share its move as well.
"""

from __future__ import annotations

__all__ = ["remembering"]

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..conditional import Conditional
from ..controllers import Request

KEPT = 8  # results of each part


def remembering(faces: Conditional) -> Conditional:
    """The same generator, whose parts keep their last results; these are the same bits.

    Arguments:
        faces: The generator; its networks must not change meanwhile.
    """
    editor, decoder = copy.copy(faces.editor), copy.copy(faces.decoder)
    decode = _kept(faces.decoder.decode)
    vars(editor)["search"] = _kept(faces.editor.search)
    vars(decoder)["decode"] = lambda z, *, batch_size=None: decode(z)
    evaluator = copy.copy(faces.evaluator)
    if evaluator is not None:
        score_samples = _kept(evaluator.score_samples)
        vars(evaluator)["score_samples"] = score_samples
        vars(evaluator)["score"] = lambda z: score_samples(decode(z))
    return dataclasses.replace(faces, editor=editor, decoder=decoder, evaluator=evaluator)


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    last = functools.lru_cache(KEPT)(lambda call: function(*call.values))
    return lambda *values: last(_Call(values))


class _Call:
    """Arguments of a function; they are the same where their bytes are."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values
        self.key = tuple(map(_hashable, values))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self.key == other.key


def _hashable(value: Any) -> Any:
    if isinstance(value, Request):
        fields = dataclasses.fields(value)
        return tuple(_hashable(getattr(value, field.name)) for field in fields)
    if isinstance(value, Tensor):
        raw = value.detach().cpu().reshape(-1).view(torch.uint8)
        return tuple(value.shape), value.dtype, raw.numpy().tobytes()
    return value

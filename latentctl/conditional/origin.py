"""How an outcome was made: its request, and the fingerprints of the parts that carried it out."""

from __future__ import annotations

__all__ = ["Kind", "Maker", "Origin"]

import dataclasses
import functools
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..controllers import Refined, Request
from ..errors import InputError
from ..storage import fingerprint
from .pack import pack_fingerprint

Kind: TypeAlias = Literal["sample", "edit"]


class Maker:
    """The parts of a `Conditional`, which are hashed when they are first asked for.

    Arguments:
        parts: The fields of a `Conditional`.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts, self.names = dict(parts), parts["critic"].names

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Names and fingerprints of the decoder, the pack, the evaluator and the refinement.

        The fingerprint of a pack that cannot be saved, or that has other attributes by now, is
        None.
        """
        decoder, editor = self.parts["decoder"], self.parts["editor"]
        changed = self.names != getattr(editor.attributes, "names", self.names)
        return {
            "decoder": {"name": decoder.name, "fingerprint": decoder.fingerprint()},
            "pack": {
                "fingerprint": None if changed else _pack(self.parts),
                **{key: type(self.parts[key]).__name__ for key in ("critic", "controller")},
                "editor": type(editor).__name__,
            },
            "evaluator": _network(self.parts["evaluator"]),
            "refined_with": _network(editor.attributes, json.dumps(editor.second.config))
            if isinstance(editor, Refined)
            else None,
            "versions": {
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def __getstate__(self) -> dict[str, Any]:  # an outcome is copied without the networks
        return {"facts": self.facts}


@dataclass(frozen=True, eq=False)
class Origin:
    """What an outcome of B samples was made of."""

    kind: Kind
    request: Request
    """With a row for each sample."""
    where: str | None
    """The expression of the request's `where`; None if there is none, or a critic was given."""
    maker: Maker

    def rows(self, chosen: Tensor) -> Origin:
        """The origin of some samples."""
        return dataclasses.replace(self, request=self.request.rows(chosen))


def _pack(parts: Mapping[str, Any]) -> str | None:
    try:
        return pack_fingerprint(**parts)
    except InputError:  # a critic of the user's own
        return None


def _network(critic: nn.Module | None, salt: str = "") -> dict[str, Any] | None:
    if critic is None:
        return None
    return {"name": type(critic).__name__, "fingerprint": fingerprint(critic, salt)}

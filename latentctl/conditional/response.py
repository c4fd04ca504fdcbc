"""The response of attributes to the strength of an edit, as a pack keeps it and a card shows it."""

from __future__ import annotations

__all__ = ["DoseResponse", "from_tensors", "reach_in_words", "tensors_of"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BARS = "▁▂▃▄▅▆▇█"
LISTS, NUMBERS = ("response", "others"), ("reach", "selectivity", "breaks_at")


@dataclass(frozen=True)
class DoseResponse:
    """The response of one attribute; lists have a value for each strength."""

    name: str
    strengths: tuple[float, ...]
    response: tuple[float, ...]
    """Mean probability of the value that is asked for."""
    others: tuple[float, ...]
    """Mean change of the probability of an attribute that is not asked for and not tied."""
    reach: float
    """Share of the encodings in which the value has a probability of 0.5 at strength 1."""
    selectivity: float
    """Change of the response at strength 1 over that of the others."""
    breaks_at: float | None
    """The first strength at which pictures break; None if they do not, or without an encoder."""

    @property
    def row(self) -> dict[str, Any]:
        """A row of the table on a model card, with the curve as bars."""
        at = dict(zip(self.strengths, self.response, strict=True))
        return {
            "attribute": self.name,
            "response": drawn(self.response),
            **{f"at {s:g}": round(at[s], 3) for s in self.strengths if s in (0, 0.5, 1)},
            "others at 1": round(dict(zip(self.strengths, self.others, strict=True))[1.0], 3),
            "reach": round(self.reach, 3),
            "selectivity": round(self.selectivity, 1),
            "breaks at": "no" if self.breaks_at is None else f"{self.breaks_at:g}",
        }


def tensors_of(doses: Sequence[DoseResponse]) -> dict[str, Tensor]:
    """The responses of K attributes as tensors, by field."""
    found: dict[str, Any] = {"strengths": doses[0].strengths}
    found |= {name: [getattr(one, name) for one in doses] for name in (*LISTS, *NUMBERS)}
    found["breaks_at"] = [torch.nan if at is None else at for at in found["breaks_at"]]
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in found.items()}


def from_tensors(tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[DoseResponse]:
    """The responses of `tensors_of`, for attributes of these names."""
    columns = {key: tensors[key].tolist() for key in (*LISTS, *NUMBERS)}
    found = []
    for number, name in enumerate(names):
        row = {key: column[number] for key, column in columns.items()}
        row |= {key: tuple(row[key]) for key in LISTS}
        if row["breaks_at"] != row["breaks_at"]:  # NaN
            row["breaks_at"] = None
        found.append(DoseResponse(name, tuple(tensors["strengths"].tolist()), **row))
    return found


def reach_in_words(doses: Sequence[DoseResponse]) -> str:
    """The attributes that are reached least and most often at strength 1."""
    low, high = (pick(doses, key=lambda one: one.reach) for pick in (min, max))
    if low.reach == high.reach:
        return f"{low.reach:.2f} for every attribute"
    return f"{low.reach:.2f} ({low.name}) to {high.reach:.2f} ({high.name})"


def drawn(values: Sequence[float]) -> str:
    """Probabilities as bars.

    Example:
        >>> drawn([0.0, 0.5, 1.0])
        '▁▅█'
    """
    return "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in values)

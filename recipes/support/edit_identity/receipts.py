"""Receipts of edits: as rows of a table, as sentences, and their means."""

from __future__ import annotations

__all__ = [
    "Edited",
    "file_name",
    "per_cent",
    "receipts",
    "save_edits",
    "summary",
    "words",
    "write_receipts",
]

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latentctl.conditional import Outcome

from ..faces import direction

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Edited:
    """One request, made for every face at every strength."""

    label: str
    """The request in words."""
    attribute: str | None
    """The attribute that is changed; None for an expression."""
    requested: Tensor
    """The requested value for each face, `(B,)`, 0 or 1."""
    before: Tensor
    """Its probability in each reconstruction, `(B,)`."""
    after: list[Tensor]
    """Its probability at each strength, `(B,)`."""
    outcomes: list[Outcome]
    """The edits at each strength."""
    evaluated_by: str
    """The source of these probabilities: `critic`, whose gradient edits follow, or `evaluator`."""

    def goal(self, face: int) -> str:
        """What is asked of one face, with the direction of a change."""
        if self.attribute is None:
            return self.label
        return direction(self.attribute, bool(self.requested[face]))


def receipts(
    files: Sequence[str], edited: Edited, strengths: Sequence[float], start: Outcome
) -> list[dict[str, Any]]:
    """A row for each strength and face; `start` holds the reconstructions."""
    rows = []
    for strength, after, out in zip(strengths, edited.after, edited.outcomes, strict=True):
        for index, file in enumerate(files):
            leakage = zip(out.names, out.leakage[index].tolist(), strict=True)
            held = {name: value for name, value in leakage if value == value}
            most = max(held, key=lambda name: held[name], default=None)
            then, now = (p.tolist() for p in (start.probability[index], out.probability[index]))
            rows.append(
                {
                    "face": file,
                    "index": index,
                    "request": edited.label,
                    "attribute": edited.attribute,
                    "goal": edited.goal(index),
                    "strength": strength,
                    "requested": int(edited.requested[index]),
                    "evaluated_by": edited.evaluated_by,
                    "satisfied": bool(out.satisfied[index]),
                    "unreachable": bool(out.unreachable[index]),
                    "undecided": bool(out.undecided[index]),
                    "probability_before": edited.before[index].item(),
                    "probability_after": after[index].item(),
                    "leakage_max": held[most] if most else None,
                    "leakage_mean": sum(held.values()) / len(held) if held else None,
                    "most_leaked": most,
                    "shift": out.shift[index].item(),
                    "evaluations": int(out.evaluations[index]),
                    **{f"before_{name}": p for name, p in zip(out.names, then, strict=True)},
                    **{f"after_{name}": p for name, p in zip(out.names, now, strict=True)},
                }
            )
            rows[-1]["words"] = words(rows[-1])
    return rows


def words(row: Row) -> str:
    """A receipt as a sentence."""
    ends = [f"by the {row['evaluated_by']}"]
    if row["evaluations"] == 0 and row["strength"] > 0:
        ends.append("satisfied before the edit, so nothing was moved")
    elif row["leakage_max"]:
        ends.append(f"largest leakage: {row['most_leaked']} {per_cent(row['leakage_max'])}")
    count = row["evaluations"]
    ends += [f"shift {row['shift']:.2f}", f"{count} evaluation{'s' if count != 1 else ''}"]
    before, after = (per_cent(row[f"probability_{when}"]) for when in ("before", "after"))
    return f"{row['goal']}: from {before} to {after} {'; '.join(ends)}. {verdict(row)}."


def verdict(row: Row) -> str:
    """Satisfied, not satisfied, unreachable, or undecided by the guarantee of a pack."""
    if row["satisfied"] or row["undecided"]:
        return "Satisfied" if row["satisfied"] else "Undecided"
    return "Unreachable" if row["unreachable"] else "Not satisfied"


def per_cent(probability: float) -> str:
    """A probability in whole per cent, or `<1 %` and `>99 %`."""
    if probability < 0.005:
        return "<1 %"
    return ">99 %" if probability > 0.995 else f"{100 * probability:.0f} %"


def cell(value: Any) -> Any:
    """A cell of a table; a text that a spreadsheet would run as a formula gets a quote before it.

    Names come from packs and files of others, such as `=HYPERLINK(...)`.
    """
    risky = isinstance(value, str) and value.lstrip()[:1] in set("=+-@＝＋－＠")
    return f"'{value}" if risky or (isinstance(value, str) and value[:1] in "\t\r\n") else value


def write_receipts(folder: Path, rows: Sequence[Row]) -> None:
    """The receipts as `receipts.csv` and `receipts.json`."""
    (folder / "receipts.json").write_text(json.dumps(rows, indent=2))
    with open(folder / "receipts.csv", "w", newline="", encoding="utf-8") as file:
        names, table = list(rows[0]), csv.writer(file)
        table.writerow([cell(name) for name in names])
        table.writerows([cell(row[name]) for name in names] for row in rows)


def save_edits(
    folder: Path, files: Sequence[str], edits: Sequence[Edited], strengths: Sequence[float]
) -> None:
    """Each edit of each face as a PNG with its receipt, which `latentctl verify` checks."""
    for number, edited in enumerate(edits):
        for strength, out in zip(strengths, edited.outcomes, strict=True):
            power = f"_x{strength:g}" if len(strengths) > 1 else ""
            name = f"{number:02d}_{file_name(edited.label)}{power}.png"
            for index, file in enumerate(files):
                face = f"{index:03d}_{Path(file).stem}"
                out[index].save(folder / "edited" / face / name, margin=0)


def file_name(label: str) -> str:
    """A request in words as the name of a file."""
    return re.sub(r"\W+", "_", label).strip("_")[:40]


def summary(rows: Sequence[Row]) -> dict[str, float | str | None]:
    """Shares and means over receipts, by column."""

    def mean(key: str) -> float | None:
        values = [row[key] for row in rows]
        return None if None in values or not values else sum(values) / len(values)

    def count(value: int) -> str | None:
        found = [row["satisfied"] for row in rows if row["requested"] == value]
        return f"{sum(found)} of {len(found)}" if found else None

    return {
        "edits": str(len(rows)),
        "satisfied": mean("satisfied"),
        "made true": count(1),
        "made false": count(0),
        "unreachable": mean("unreachable"),
        "mean leakage": mean("leakage_mean"),
        "largest leakage": mean("leakage_max"),
        "shift": mean("shift"),
        "evaluations": mean("evaluations"),
    }

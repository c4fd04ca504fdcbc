"""What `edit_identity.py` leaves: receipts as tables, strips and a sheet of faces, a report."""

from __future__ import annotations

__all__ = ["receipts", "write_receipts", "write_report"]

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from report import Report, face_sheet
from torch import Tensor

from latentctl import Conditional, Outcome

SHOWN = 12  # faces in the sheet; every face has its strip


def receipts(
    files: Sequence[str], name: str, requested: Tensor, before: Tensor, out: Outcome
) -> list[dict[str, Any]]:
    """What came of flipping one attribute, a row for each face.

    Arguments:
        files: What the faces are called.
        name: The attribute.
        requested: What it should become, `(B,)`, 0 or 1.
        before: Probabilities of all attributes in the reconstruction, `(B, K)`.
        out: What came of it.
    """
    column, rows = out.names.index(name), []
    for index, file in enumerate(files):
        leakage = zip(out.names, out.leakage[index].tolist(), strict=True)
        held = {other: value for other, value in leakage if other != name}
        most = max(held, key=lambda other: held[other], default=None)
        rows.append(
            {
                "face": file,
                "index": index,
                "attribute": name,
                "requested": int(requested[index]),
                "satisfied": bool(out.satisfied[index]),
                "probability_before": before[index, column].item(),
                "probability_after": out.probability[index, column].item(),
                "leakage_max": held.get(most) if most else None,
                "leakage_mean": sum(held.values()) / len(held) if held else None,
                "most_leaked": most,
                "shift": out.shift[index].item(),
                "evaluations": int(out.evaluations[index]),
            }
        )
    return rows


def write_receipts(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The receipts as `receipts.csv` and `receipts.json`."""
    (folder / "receipts.json").write_text(json.dumps(rows, indent=2))
    with open(folder / "receipts.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_report(
    folder: Path,
    settings: Mapping[str, object],
    editor: Conditional,
    x: Tensor,
    files: Sequence[str],
    start: Outcome,
    outcomes: Mapping[str, Outcome],
    rows: Sequence[Mapping[str, Any]],
) -> Path:
    """Draws `edits.png`, a strip for each face in `faces/`, and `report.html`.

    Arguments:
        folder: Where they go.
        settings: The flags of the run.
        editor: What made the edits.
        x: The faces, `(B, 3, h, w)`, in the decoder's range.
        files: What they are called.
        start: Their reconstructions.
        outcomes: The flips of each attribute.
        rows: All receipts.
    """
    low, high = editor.decoder.value_range or (0.0, 1.0)
    images = torch.stack([x.cpu(), *(out.x.cpu() for out in (start, *outcomes.values()))], 1)
    images = ((images - low) / (high - low)).clamp(0, 1)
    unmarked = torch.full((len(files), 2), torch.nan)
    satisfied = [out.satisfied.float().cpu() for out in outcomes.values()]
    marks = torch.cat([unmarked, torch.stack(satisfied, 1)], 1)
    labels = ["as it is", "reconstructed", *outcomes]
    (folder / "faces").mkdir(exist_ok=True)
    for index, file in enumerate(files):
        mine = [row for row in rows if row["index"] == index]
        odds = [f"{row['probability_before']:.2f} → {row['probability_after']:.2f}" for row in mine]
        strip = face_sheet(
            images[index : index + 1],
            column_labels=labels,
            marked=marks[index : index + 1],
            notes=[["", "", *odds]],
        )
        (folder / "faces" / f"{index:03d}_{Path(file).stem}.png").write_bytes(strip)
    shown = min(SHOWN, len(files))
    sheet = face_sheet(
        images[:shown],
        scale=1.2,
        column_labels=labels,
        row_labels=files[:shown],
        marked=marks[:shown],
    )
    (folder / "edits.png").write_bytes(sheet)

    report = Report(
        "One attribute at a time",
        f"{len(files)} faces, {editor.decoder.name}, {type(editor.controller).__name__}: each "
        f"attribute flipped, all others held",
    )
    report.section(
        "Faces",
        "The face, its reconstruction, which is the best that a frozen decoder can do, and one "
        "flip a column.",
    )
    more = f" The first {shown} of {len(files)}." if shown < len(files) else ""
    caption = f"A green frame: the critic calls the flip satisfied. A red one: it does not.{more}"
    report.picture(folder / "edits.png", caption)
    report.section(
        "Receipts",
        f"All figures are those of the pack's own critic, which the edits were made with, not of "
        f"an outside judge. Satisfied: the flip holds with a probability of at least "
        f"{editor.threshold:g}. Leakage: change of the probability of an attribute that was held. "
        f"Shift: root mean square move of a latent dimension. Receipts of single faces are in "
        f"`receipts.csv`.",
    )
    report.table(
        ["flipped", "satisfied", "mean leakage", "mean shift", "mean evaluations"],
        [[name, *summary([r for r in rows if r["attribute"] == name])] for name in outcomes]
        + [["all", *summary(rows)]],
    )
    report.section("Where it leaks", "Mean leakage of each flip (row) into each held attribute.")
    leaked = [
        [name, *(None if v != v else f"{v:.3f}" for v in out.leakage.mean(0).tolist())]
        for name, out in outcomes.items()
    ]
    report.table(["flipped", *(name.replace("_", " ") for name in start.names)], leaked)
    report.settings(settings)
    return report.save(folder / "report.html")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Means over receipts."""
    keys = ("satisfied", "leakage_mean", "shift", "evaluations")
    columns = ([row[key] for row in rows] for key in keys)
    return [None if None in values else sum(values) / len(values) for values in columns]

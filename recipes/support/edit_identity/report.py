"""The report of `edit_identity.py`: strips, a sheet of faces, and one page with every receipt.

For each edit of the first faces the page has four pictures (the face, its reconstruction, the edit,
and the difference of the last two) above its receipt as a sentence. None is selected or left out.
"""

from __future__ import annotations

__all__ = ["Sources", "write_report"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentctl import Conditional
from latentctl.conditional import Outcome
from latentctl.conditional.receipt import ai_fields
from latentctl.display import with_fields

from ..report import Report, face_sheet
from .receipts import Edited, Row, file_name, per_cent, summary

SHOWN = 12  # faces on the page; every face has its strip
CARD = 106  # pixels of the page across a face beside its receipt
STRIPS = 4  # faces in a strip of strengths
GAIN = 2  # of the difference of two pictures
GREY = 0.5  # where there is no difference
NONE = torch.nan  # an image without a frame
HEADS = ("original", "reconstruction")


@dataclass(frozen=True)
class Sources:
    """The method of the edits, and the source of their receipts."""

    how: str
    """The controller, in words."""
    refined_with: Sequence[str] = ()
    """Networks on pixels on which edits are refined."""
    evaluator: str | None = None
    """The independent network on pixels whose scores the receipts have."""
    calibrated_on: int = 0
    """Labelled faces on which it was calibrated."""
    accuracy: float | None = None
    """Its accuracy on their labels after calibration."""

    @property
    def evaluated_by(self) -> str:
        return "critic" if self.evaluator is None else "evaluator"

    def text(self, threshold: float) -> str:
        """The interpretation of the receipts, for the page."""
        count = len(self.refined_with)
        refined = f", refined on {count} network{'s' * (count > 1)} on pixels" if count else ""
        made = f"The edits were made by {self.how}{refined}."
        needed = f"A request counts as satisfied at a probability of {per_cent(threshold)} or more."
        if self.evaluator is None:
            return (
                f"**The probabilities are those of the critic itself.** {made} No independent "
                f"classifier has scored them, and edits that follow the gradient of a critic can "
                f"be adversarial to it: most edits that a critic of encodings alone accepts are "
                f"rejected by independent classifiers. A critic that was distilled from networks "
                f"on pixels (`latentctl.distill`) is more reliable. Check the pictures, or name an "
                f"independent network with `--evaluator`. {needed}"
            )
        calibrated = "It is not calibrated, since there were no labelled faces."
        if self.accuracy is not None:
            calibrated = (
                f"It was calibrated on reconstructions of {self.calibrated_on} labelled faces, "
                f"where its accuracy is {per_cent(self.accuracy)}."
            )
        return (
            f"**The probabilities are those of an independent evaluator**, a network on pixels "
            f"(`{self.evaluator}`) whose gradient no edit has followed. {made} {calibrated} "
            f"{needed}"
        )


@dataclass(frozen=True)
class Sheets:
    """Faces, their edits and the figures made of them, for B faces, S strengths and R requests."""

    files: Sequence[str]
    edits: Sequence[Edited]
    strengths: Sequence[float]
    faces: Tensor
    """Faces and reconstructions in [0, 1], `(B, 2, 3, h, w)`."""
    edited: Tensor
    """`(B, S, R, 3, h, w)`."""
    satisfied: Tensor
    """`(B, S, R)`."""

    @property
    def place(self) -> int:
        """The strength of the page: 1 if it is there, or else the largest."""
        return self.strengths.index(max(self.strengths, key=lambda s: (s == 1, s)))

    def card(self, face: int, request: int) -> bytes:
        """A face, its reconstruction, an edit and the change, side by side."""
        original, reconstruction = self.faces[face]
        edit = self.edited[face, self.place, request]
        change = (GREY + GAIN * (edit - reconstruction)).clamp(0, 1)
        satisfied = self.satisfied[face, self.place, request].item()
        return face_sheet(
            torch.stack([original, reconstruction, edit, change])[None],
            scale=CARD / original.shape[-1],
            marked=torch.tensor([[NONE, NONE, satisfied, NONE]]),
        )

    def write(self, folder: Path) -> None:
        """A strip for each face in `faces/`, a line a strength, and `edits.png` of the first."""
        several = len(self.strengths) > 1
        sides = [f"strength {strength:g}" for strength in self.strengths] if several else []
        both = self.faces[:, None].expand(-1, len(self.strengths), *self.faces.shape[1:])
        images, marks = torch.cat([both, self.edited], 2), _framed(self.satisfied)
        (folder / "faces").mkdir(exist_ok=True)
        for index, file in enumerate(self.files):
            heads = [*HEADS, *(_short(e.goal(index)) for e in self.edits)]
            notes = [
                ["", "", *(f"{e.before[index]:.2f} → {e.after[s][index]:.2f}" for e in self.edits)]
                for s in range(len(self.strengths))
            ]
            strip = face_sheet(
                images[index],
                column_labels=heads,
                row_labels=sides,
                marked=marks[index],
                notes=notes,
            )
            (folder / "faces" / f"{index:03d}_{Path(file).stem}.png").write_bytes(labelled(strip))
        sheet = face_sheet(
            images[:SHOWN, self.place],
            scale=1.2,
            column_labels=[*HEADS, *(_short(e.label) for e in self.edits)],
            row_labels=self.files[:SHOWN],
            marked=marks[:SHOWN, self.place],
            notes=[
                ["", "", *(_short(e.goal(index)) for e in self.edits)]
                for index in range(len(self.files[:SHOWN]))
            ],
        )
        (folder / "edits.png").write_bytes(labelled(sheet))

    def strength_strip(self, request: int) -> bytes:
        """One request at all strengths, for the first faces, with its probability below."""
        edit, faces = self.edits[request], self.faces[:STRIPS]
        after = torch.stack(edit.after, 1)[:STRIPS].tolist()
        return face_sheet(
            torch.cat([faces, self.edited[:STRIPS, :, request]], 1),
            scale=1.5,
            column_labels=[*HEADS, *(f"× {s:g}" for s in self.strengths)],
            marked=_framed(self.satisfied[:STRIPS, :, request]),
            notes=[
                [_short(edit.goal(face)), *(f"{p:.2f}" for p in (b, *a))]
                for face, (b, a) in enumerate(
                    zip(edit.before[:STRIPS].tolist(), after, strict=True)
                )
            ],
        )


def write_report(
    folder: Path,
    settings: Mapping[str, object],
    editor: Conditional,
    sources: Sources,
    x: Tensor,
    files: Sequence[str],
    start: Outcome,
    edits: Sequence[Edited],
    rows: Sequence[Row],
) -> Path:
    """Draws the strips, `edits.png` and `report.html`.

    The faces `x (B, 3, h, w)` are in the decoder's range, `start` are their reconstructions, and
    `rows` the receipts of all `edits`.
    """
    low, high = editor.decoder.picture_range

    def unit(images: Tensor) -> Tensor:
        return ((images.cpu() - low) / (high - low)).clamp(0, 1)

    sheets = Sheets(
        files,
        edits,
        list(dict.fromkeys(row["strength"] for row in rows)),
        torch.stack([unit(x), unit(start.x)], 1),
        torch.stack([torch.stack([unit(o.x) for o in e.outcomes], 1) for e in edits], 2),
        torch.stack([torch.stack([o.satisfied for o in e.outcomes], 1) for e in edits], 2)
        .float()
        .cpu(),
    )
    sheets.write(folder)
    place, strength = sheets.place, sheets.strengths[sheets.place]
    mine = [row for row in rows if row["strength"] == strength]
    report = Report(
        "Edits and their receipts",
        f"{len(files)} faces, {editor.decoder.name}, {sources.how}: one change at a time, "
        f"{'all other attributes' if any(row['most_leaked'] for row in rows) else 'nothing'} held",
    )
    text = sources.text(editor.threshold)
    if unknown := [e.label for e in edits if e.evaluated_by != sources.evaluated_by]:
        text += (
            f"\n\nThe evaluator has no output for **{', '.join(unknown)}**, which was learned from "
            f"examples: its probability is that of the critic whose gradient the edit followed. "
            f"The leakage into other attributes is measured by the evaluator."
        )
    report.section("Source of the probabilities", text)
    report.section("Summary", "" if strength == 1 else f"At strength {strength:g}.")
    totals = {e.label: summary([row for row in mine if row["request"] == e.label]) for e in edits}
    if len(edits) > 1:
        totals["all"] = summary(mine)
    report.table(
        ["request", *summary(mine)],
        [[name, *total.values()] for name, total in totals.items()],
        caption=f"Shares and means over the faces, by the {sources.evaluated_by}.",
    )
    report.section(
        "Terms",
        "**Satisfied**: the request holds with the required probability. **Unreachable**: after "
        "the whole move the request is still less likely than not; it may contradict itself or "
        "the held attributes, or lie outside what the decoder can draw, and more steps do not "
        "help. **Leakage**: change of the probability of a held attribute. **Shift**: root mean "
        "square move of a latent dimension, in units of the prior. **Evaluations**: of the "
        "networks that made the move, for one face.",
    )
    report.section(
        "Faces",
        "The face, its reconstruction, which is the best that a frozen decoder can do, and one "
        "request a column. Below each edit is what was asked of that face.",
    )
    more = f" The first {SHOWN} of {len(files)}." if len(files) > SHOWN else ""
    caption = f"A green frame: satisfied, by the {sources.evaluated_by}. A red frame: not.{more}"
    report.picture(folder / "edits.png", caption)
    if len(sheets.strengths) > 1:
        add_strengths(report, folder, sheets, rows)
    for index, file in enumerate(files[:SHOWN]):
        legend = (
            "The face, its reconstruction, the edit, and the change from the reconstruction to the "
            "edit, doubled; grey is no change."
        )
        report.section(f"Face {file}", "" if index else legend)
        for number, edit in enumerate(edits):
            row = next(r for r in mine if r["index"] == index and r["request"] == edit.label)
            text, _, verdict = row["words"][:-1].replace(" %", "\u00a0%").rpartition(". ")
            report.picture(sheets.card(index, number), f"{text}. **{verdict}.**")
    if leaks := [e for e in edits if not e.outcomes[place].leakage.isnan().all()]:
        report.section("Leakage", "Mean leakage of each request (row) into each held attribute.")
        columns = [name.replace("_", " ") for name in start.names]
        means = [[e.label, *e.outcomes[place].leakage.nanmean(0).tolist()] for e in leaks]
        report.table(["request", *columns], means)
    report.section("Settings")
    report.settings(settings)
    return report.save(folder / "report.html")


def add_strengths(report: Report, folder: Path, sheets: Sheets, rows: Sequence[Row]) -> None:
    """A table of the strengths, and a strip for each request in `strengths/`."""
    report.section(
        "Strength",
        "The same move, scaled: 0 is the reconstruction, 1 the whole move. Requests are called "
        "unreachable only after the whole move.",
    )
    kept = ("satisfied", "unreachable", "mean leakage", "largest leakage", "shift")
    totals = {s: summary([row for row in rows if row["strength"] == s]) for s in sheets.strengths}
    lines = [[f"{s:g}", *(total[k] for k in kept)] for s, total in totals.items()]
    report.table(["strength", *kept], lines)
    (folder / "strengths").mkdir(exist_ok=True)
    for number, edit in enumerate(sheets.edits):
        strip = sheets.strength_strip(number)
        file = folder / "strengths" / f"{number:02d}_{file_name(edit.label)}.png"
        file.write_bytes(labelled(strip))
        report.picture(strip, f"{edit.label}, with its probability below.")


def labelled(picture: bytes) -> bytes:
    """A PNG that says in its metadata that it was edited by AI."""
    return with_fields(picture, ai_fields("edit"))


def _short(text: str) -> str:
    return text if len(text) <= 24 else "the expression"


def _framed(satisfied: Tensor) -> Tensor:
    """Marks of a face and its reconstruction, which have none, and of edits `(..., R)`."""
    return torch.cat([torch.full((*satisfied.shape[:-1], 2), NONE), satisfied], -1)

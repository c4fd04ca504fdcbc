"""What `edit_identity.py` shows: strips, a sheet of faces, and a page that a person can judge from.

Every edit of the first faces stands on the page as four pictures (the face, its reconstruction, the
edit, and the difference of the last two) above its receipt in words, and nothing is picked out.
"""

from __future__ import annotations

__all__ = ["Sources", "write_report"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentctl import Conditional
from latentctl.conditional import Outcome

from ..report import Report, face_sheet
from .receipts import Edited, Row, per_cent, summary

SHOWN = 12  # faces on the page; every face has its strip
CARD = 106  # pixels of the page across a face beside its receipt
STRIPS = 4  # faces in a strip of strengths
GAIN = 2  # of the difference of two pictures
GREY = 0.5  # where there is none


@dataclass(frozen=True)
class Sources:
    """Who made the edits, and whose word the receipts are."""

    how: str
    """What moves latents, in words."""

    teachers: Sequence[str] = ()
    """Networks on pixels that edits are refined on."""

    evaluator: str | None = None
    """The network on pixels that signs."""

    calibrated_on: int = 0
    """Labelled faces that it was calibrated on."""

    agreement: float | None = None
    """Share of their labels that it then agrees with."""

    @property
    def signed_by(self) -> str:
        return "critic" if self.evaluator is None else "evaluator"

    def text(self, threshold: float) -> str:
        """What a reader has to know before believing a receipt."""
        ends = ""
        if self.teachers:
            count = len(self.teachers)
            ends = f", refined on {count} network{'s' if count > 1 else ''} on pixels"
        made = f"The edits were made by {self.how}{ends}."
        needed = f"A request counts as satisfied at {per_cent(threshold)} or more."
        if self.evaluator is None:
            return (
                f"**The receipts are the critic's own word.** {made} No outside judge has looked: "
                f"the probabilities are those of the very critic that the edits were made with, "
                f"and nothing is fooled as easily as what is climbed on. A critic that was fitted "
                f"to encodings alone calls much satisfied that nobody else would; one that was "
                f"taught by networks on pixels (`latentctl.teach`) less. Believe the pictures, or "
                f"name an evaluator with `--audit`. {needed}"
            )
        if self.agreement is None:
            sure = (
                "It was not calibrated, for there were no labelled faces to do it on: read its "
                "probabilities as scores."
            )
        else:
            sure = (
                f"It was calibrated on reconstructions of {self.calibrated_on} labelled faces, and "
                f"then agrees with {per_cent(self.agreement)} of their labels."
            )
        return (
            f"**The receipts are the word of an evaluator**, a network on pixels (`{self.evaluator}`) "
            f"that no edit has climbed. {made} {sure} {needed}"
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

    Arguments:
        folder: Where they go.
        settings: The flags of the run.
        editor: What made the edits.
        sources: Who made them and who signs.
        x: The faces, `(B, 3, h, w)`, in the decoder's range.
        files: What they are called.
        start: Their reconstructions.
        edits: What came of each request.
        rows: All receipts.
    """
    strengths = list(dict.fromkeys(row["strength"] for row in rows))
    main = max(strengths, key=lambda s: (s == 1, s))  # what the page is about
    place = strengths.index(main)
    low, high = editor.decoder.value_range or (0.0, 1.0)

    def unit(images: Tensor) -> Tensor:
        return ((images.cpu() - low) / (high - low)).clamp(0, 1)

    faces = torch.stack([unit(x), unit(start.x)], 1)
    drawn = torch.stack([torch.stack([unit(o.x) for o in e.outcomes], 1) for e in edits], 2)
    held = torch.stack([torch.stack([o.satisfied for o in e.outcomes], 1) for e in edits], 2)
    satisfied = held.float().cpu()  # (B, strengths, requests)
    draw_faces(folder, files, faces, drawn, satisfied, edits, strengths)

    mine = [row for row in rows if row["strength"] == main]
    labels = [edited.label for edited in edits]
    report = Report(
        "Edits and their receipts",
        f"{len(files)} faces, {editor.decoder.name}, {sources.how}: one change at a time, "
        f"{'all others' if any(row['most_leaked'] for row in rows) else 'nothing'} held",
    )
    text = sources.text(editor.threshold)
    unknown = [edited.label for edited in edits if edited.signed_by != sources.signed_by]
    if unknown:
        text += (
            f"\n\nThe evaluator does not know **{', '.join(unknown)}**, which was learned from "
            f"examples: whether that holds is the word of the very critic that was climbed. What "
            f"leaked into other attributes is the evaluator's word there too."
        )
    report.section("Whose word this is", text)
    report.section("In short", "" if main == 1 else f"At strength {main:g}.")
    totals = [summary([row for row in mine if row["request"] == name]) for name in labels]
    if len(labels) > 1:
        totals.append(summary(mine))
    report.table(
        ["request", *totals[0]],
        [[n, *t.values()] for n, t in zip([*labels, "all"], totals, strict=False)],
        caption=f"Shares and means over the faces, by the {sources.signed_by}.",
    )
    report.section(
        "What the words mean",
        "**Satisfied**: what was asked holds with the probability that was asked for. "
        "**Unreachable**: the whole move was made, and what was asked is still less likely than "
        "not. The request may contradict itself or what is held, or be nothing that this decoder "
        "can draw; trying harder is not what is missing. Between the two lies what came near "
        "without being certain. **Leakage**: change of the probability of an attribute that was "
        "to stay. **Shift**: root mean square move of a latent dimension, in units of the prior. "
        "**Evaluations**: of the networks that made the move, for one face.",
    )
    shown = min(SHOWN, len(files))
    report.section(
        "Faces",
        "The face, its reconstruction, which is the best that a frozen decoder can do, and one "
        "request a column.",
    )
    more = f" The first {shown} of {len(files)}." if shown < len(files) else ""
    caption = f"A green frame: satisfied, says the {sources.signed_by}. A red one: not.{more}"
    report.picture(folder / "edits.png", caption)
    if len(strengths) > 1:
        add_strengths(report, folder, faces, drawn, satisfied, edits, strengths, rows)
    for index in range(shown):
        report.section(
            f"Face {files[index]}",
            ""
            if index
            else "The face, its reconstruction, the edit, and what the edit changed in "
            "the reconstruction: grey where nothing did, twice as strong as it is.",
        )
        for number, edited in enumerate(edits):
            row = next(r for r in mine if r["index"] == index and r["request"] == edited.label)
            image = card(
                *faces[index], drawn[index, place, number], satisfied[index, place, number]
            )
            report.picture(image, _strong(row))
    leaks = [e for e in edits if not e.outcomes[place].leakage.isnan().all()]
    if leaks:
        report.section(
            "Where it leaks", "Mean leakage of each request (row) into what was held (column)."
        )
        columns = [name.replace("_", " ") for name in start.names]
        means = [[e.label, *e.outcomes[place].leakage.nanmean(0).tolist()] for e in leaks]
        report.table(["request", *columns], means)
    report.section("Settings")
    report.settings(settings)
    return report.save(folder / "report.html")


def card(face: Tensor, reconstruction: Tensor, edit: Tensor, satisfied: Tensor) -> bytes:
    """A face, its reconstruction, an edit of it and the difference of the two, side by side."""
    difference = (GREY + GAIN * (edit - reconstruction)).clamp(0, 1)
    none = torch.nan
    return face_sheet(
        torch.stack([face, reconstruction, edit, difference])[None],
        scale=CARD / face.shape[-1],
        marked=torch.tensor([[none, none, float(satisfied), none]]),
    )


def draw_faces(
    folder: Path,
    files: Sequence[str],
    faces: Tensor,
    drawn: Tensor,
    satisfied: Tensor,
    edits: Sequence[Edited],
    strengths: Sequence[float],
) -> None:
    """A strip for each face in `faces/`, a line a strength, and `edits.png` of the first faces."""
    heads = ["as it is", "reconstructed", *(_short(edited.label) for edited in edits)]
    several = len(strengths) > 1
    sides = [f"strength {strength:g}" for strength in strengths] if several else []
    unmarked = torch.full((len(files), len(strengths), 2), torch.nan)
    marks = torch.cat([unmarked, satisfied], 2)
    both = faces[:, None].expand(-1, len(strengths), *faces.shape[1:])
    images = torch.cat([both, drawn], 2)
    (folder / "faces").mkdir(exist_ok=True)
    for index, file in enumerate(files):
        notes = [
            ["", "", *(f"{e.before[index]:.2f} → {e.after[s][index]:.2f}" for e in edits)]
            for s in range(len(strengths))
        ]
        strip = face_sheet(
            images[index],
            column_labels=heads,
            row_labels=sides,
            marked=marks[index],
            notes=notes,
        )
        (folder / "faces" / f"{index:03d}_{Path(file).stem}.png").write_bytes(strip)
    shown = min(SHOWN, len(files))
    place = strengths.index(max(strengths, key=lambda s: (s == 1, s)))
    sheet = face_sheet(
        images[:shown, place],
        scale=1.2,
        column_labels=heads,
        row_labels=files[:shown],
        marked=marks[:shown, place],
    )
    (folder / "edits.png").write_bytes(sheet)


def add_strengths(
    report: Report,
    folder: Path,
    faces: Tensor,
    drawn: Tensor,
    satisfied: Tensor,
    edits: Sequence[Edited],
    strengths: Sequence[float],
    rows: Sequence[Row],
) -> None:
    """A strip for each request in `strengths/`, and a table."""
    report.section(
        "Strength",
        "The same move, taken in part: 0 is the reconstruction, 1 the whole of it. Only the whole "
        "move can find a request unreachable.",
    )
    kept = ("satisfied", "unreachable", "mean leakage", "largest leakage", "shift")
    totals = [summary([row for row in rows if row["strength"] == s]) for s in strengths]
    lines = [[f"{s:g}", *(t[k] for k in kept)] for s, t in zip(strengths, totals, strict=True)]
    report.table(["strength", *kept], lines)
    (folder / "strengths").mkdir(exist_ok=True)
    count = min(STRIPS, len(faces))
    for number, edited in enumerate(edits):
        after = torch.stack(edited.after, 1).cpu()
        notes = [
            ["", f"{edited.before[i]:.2f}", *(f"{p:.2f}" for p in after[i])] for i in range(count)
        ]
        strip = face_sheet(
            torch.cat([faces[:count], drawn[:count, :, number]], 1),
            scale=1.5,
            column_labels=["as it is", "reconstructed", *(f"× {s:g}" for s in strengths)],
            marked=torch.cat([torch.full((count, 2), torch.nan), satisfied[:count, :, number]], 1),
            notes=notes,
        )
        name = re.sub(r"\W+", "_", edited.label).strip("_")[:40]
        (folder / "strengths" / f"{number:02d}_{name}.png").write_bytes(strip)
        report.picture(strip, f"{edited.label}, with its probability below.")


def _short(label: str) -> str:
    return label if len(label) <= 24 else "the expression"


def _strong(row: Row) -> str:
    """A receipt in words with its verdict in bold."""
    text, _, verdict = row["words"][:-1].replace(" %", "\N{NO-BREAK SPACE}%").rpartition(". ")
    return f"{text}. **{verdict}.**"

"""The report of `melody_rewards`: piano rolls, players, MIDI and WAV files, and the tables."""

from __future__ import annotations

__all__ = ["write_report"]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.melody_midi import write_midi
from latentctl_adapters.melody_rewards import C_MAJOR
from latentctl_adapters.melody_sound import wave_of
from torch import Tensor

from ..report import Report
from .media import piano_rolls

RULES = 5  # requests in the picture, besides that for all rules
SHOWN = 6  # melodies of each request in the picture
PLAYED = 3  # of them with players
EVERY_NOTE = range(12)


def write_report(
    folder: Path,
    config: Mapping[str, object],
    results: Mapping[str, Any],
    melodies: Mapping[str, Tensor],
    edits: Mapping[str, tuple[Tensor, Tensor]],
) -> Path:
    """Writes `report.html`, the pictures, `midi/` and `wav/` into a folder.

    By request, `melodies (N, T)` are row by row from the same samples of the prior, and `edits`
    are real tunes before and after, both `(N, T)`. The `results` are those of `results.json`.
    """
    titles = list(melodies)
    # the prior, each rule alone, all of them
    columns = [*titles[:RULES], titles[-1]] if len(titles) > RULES else titles
    scale = C_MAJOR if "c_major" in titles else EVERY_NOTE
    report = Report(
        "Melodies by rule",
        "A frozen melody VAE; rules that are Python functions; no labels, no gradients of rules.",
    )

    def show(name: str, x: Tensor, heads: list[str], files: list[list[str]], text: str) -> None:
        """A picture of melodies `(R, C, T)`, and players of the first ones with their files."""
        rows = [str(n + 1) for n in range(len(x))]
        labels = [_words(head) for head in heads]
        sheet = piano_rolls(x, row_labels=rows, column_labels=labels, pitch_classes=scale)
        (folder / name).write_bytes(sheet)
        report.picture(sheet, text)
        sounds = [
            (f"{n + 1}: {label}", _save(x[n, c], folder, files[n][c]))
            for n in range(min(PLAYED, len(x)))
            for c, label in enumerate(labels)
        ]
        report.players(sounds, columns=len(heads))

    report.section(
        "The same samples of the prior under the rules",
        "Each row is one sample of the prior, moved by one actor."
        + (" Notes outside C major are red." if scale == C_MAJOR else ""),
    )
    rolls = torch.stack([melodies[name][:SHOWN] for name in columns], dim=1)
    files = [[f"{n + 1}-{name}" for name in columns] for n in range(SHOWN)]
    show("rolls.png", rolls, columns, files, "Piano rolls; thick lines are bars, thin ones are C.")

    report.section("Rewards and realism", _notes(results))
    report.table(
        *_transposed(results["requests"]),
        caption="Searched: by `sample_by_rule`, which calls the rules; the other requests are "
        "answered by the actor. Satisfied: the share with a reward of exactly 1. Classifier AUC: "
        "area under the ROC curve of a classifier of real encodings against these latents, 0.5 at "
        "best. Likelihood: nats per token, by an n-gram model of real tunes. Edit distance: "
        "tokens, between random pairs.",
    )
    if edits:
        name, (before, after) = next(iter(edits.items()))
        report.section(
            "Edits of real tunes",
            "Held-out tunes, changed step by step until the rule is satisfied. A tune that "
            "satisfies the rule is returned unchanged.",
        )
        pairs = torch.stack([before[:SHOWN], after[:SHOWN]], dim=1)
        files = [[f"edit-{n + 1}-{when}" for when in ("before", "after")] for n in range(SHOWN)]
        show("edits.png", pairs, ["before", "after"], files, f"Before and after: {_words(name)}.")
        report.table(
            *_transposed(results["edits"]),
            caption="Changed: notes that differ from the tune's, per tune. Share changed: median "
            "over tunes that were moved. Changed / required: median ratio of changed notes to "
            "notes outside the scale. Calls: evaluations of the rules, per tune.",
        )
    report.section("Rounds", "The actor's moves in each round, where each rule was requested.")
    names = list(results["rounds"][0]["satisfied"])
    kinds = ("satisfied", "expected")
    report.table(
        [
            *("round", "calls", *(f"{name} {kind}" for kind in kinds for name in names)),
            *("all satisfied", "realism", "distinct", "shift"),
        ],
        [
            [
                *(line["number"], line["calls"]),
                *(line[kind][name] for kind in kinds for name in names),
                *(line[key] for key in ("all_satisfied", "realism", "distinct", "shift")),
            ]
            for line in results["rounds"]
        ],
        caption="Expected: by the critic, before it was trained on these moves.",
    )
    report.settings(config)
    return report.save(folder / "report.html")


def _transposed(rows: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[Any]]]:
    """Headings and cells of a table with a line for each measure and a column for each request."""
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    cells = [[key, *(row.get(key) for row in rows.values())] for key in keys]
    return ["", *(_words(name) for name in rows)], cells


def _save(melody: Tensor, folder: Path, name: str) -> bytes:
    """Writes a melody as MIDI and as WAV, and returns the WAV."""
    for kind in ("midi", "wav"):
        (folder / kind).mkdir(exist_ok=True)
    name = name.replace(" ", "-")
    write_midi(melody, folder / "midi" / f"{name}.mid")
    sound = wave_of(melody)
    (folder / "wav" / f"{name}.wav").write_bytes(sound)
    return sound


def _notes(results: Mapping[str, Any]) -> str:
    text = f"The rules were evaluated on {results['reward_calls']} melodies in training."
    if results["failed"]:
        text += f" They failed for {results['failed']} of these, which are left out."
    if results["dense_notes"] is not None:
        text += f" `dense` requires {results['dense_notes']} notes."
    last = results["rounds"][-1]
    for name, expected in last["expected"].items():
        found = last["satisfied"][name]
        if not math.isnan(expected) and abs(expected - found) > 0.1:
            text += (
                f" **The critic disagrees with {name}**: it expects that {expected:.3f} of the "
                f"moves satisfy it, {found:.3f} do."
            )
    return text


def _words(name: str) -> str:
    return name.replace("_", " ")

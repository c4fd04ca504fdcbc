"""The report of `melody_rewards`: piano rolls, players, MIDI and WAV files, and the tables."""

from __future__ import annotations

__all__ = ["write_report"]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.melody_rewards import C_MAJOR
from torch import Tensor

from ..report import Report
from .media import piano_rolls, wave_of
from .midi import write_midi

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

    Arguments:
        folder: Where everything goes.
        config: The settings.
        results: As in `results.json`.
        melodies: By request, `(N, T)`; row by row they come from the same sample of the prior.
        edits: By request, real tunes before and after, both `(N, T)`.
    """
    titles = list(melodies)
    # as in the paper: the prior, the first rule, all of them
    columns = [titles[0], titles[1], titles[-1]] if len(titles) > 2 else titles
    rolls = torch.stack([melodies[name][:SHOWN] for name in columns], dim=1)
    scale = C_MAJOR if "c_major" in titles else EVERY_NOTE
    picture = piano_rolls(
        rolls,
        row_labels=[str(n + 1) for n in range(len(rolls))],
        column_labels=[_words(name) for name in columns],
        pitch_classes=scale,
    )
    (folder / "rolls.png").write_bytes(picture)
    report = Report(
        "Melodies by rule",
        "A frozen melody VAE, rules that are Python functions, no labels, no gradient of a rule.",
    )
    report.section(
        "The same samples of the prior under the rules",
        "Each row is one sample of the prior, moved by one actor. Notes outside C major are red."
        if scale == C_MAJOR
        else "Each row is one sample of the prior, moved by one actor.",
    )
    report.picture(picture, "Piano rolls; a thick line at each bar, a thin one at each C.")
    report.players(
        [
            (f"{n + 1}: {_words(name)}", _keep(rolls[n, c], folder, f"{n + 1}-{name}"))
            for n in range(min(PLAYED, len(rolls)))
            for c, name in enumerate(columns)
        ],
        columns=len(columns),
    )

    report.section("What the rules say, and what they do not", _notes(results))
    rows = results["requests"]
    keys = list(next(iter(rows.values())))
    report.table(
        ["", *(_words(name) for name in rows)],
        [[key, *(row[key] for row in rows.values())] for key in keys],
        caption="Kept: the share with a reward of exactly 1. Told apart: area under the ROC curve "
        "of a classifier of real encodings against these latents, 0.5 at best. Likelihood: nats a "
        "token, by an n-gram model of real tunes. Edit distance: tokens, between random pairs.",
    )
    if edits:
        name, (before, after) = next(iter(edits.items()))
        pairs = torch.stack([before[:SHOWN], after[:SHOWN]], dim=1)
        labels = ["real tune", _words(name)]
        sheet = piano_rolls(pairs, column_labels=labels, pitch_classes=scale)
        (folder / "edits.png").write_bytes(sheet)
        report.section(
            "Real tunes, edited",
            "Held-out tunes, changed step by step until the rule itself is content. A tune that "
            "keeps the rule comes back as it is.",
        )
        report.picture(sheet, f"Before and after: {_words(name)}.")
        report.players(
            [
                (f"{n + 1}: {when}", _keep(pairs[n, c], folder, f"edit-{n + 1}-{when}"))
                for n in range(min(PLAYED, len(pairs)))
                for c, when in enumerate(("before", "after"))
            ],
            columns=2,
        )
        receipts = results["edits"]
        keys = list(dict.fromkeys(key for row in receipts.values() for key in row))
        report.table(
            ["", *(_words(name) for name in receipts)],
            [[key, *(row.get(key) for row in receipts.values())] for key in keys],
            caption="Changed: notes that differ from the tune's, per tune. Share changed: median "
            "over tunes that had to change. Changed / had to: median of the ratio of notes that "
            "changed to notes outside the scale. Calls: of the rules, per tune.",
        )
    report.section("The rounds", "What the actor's moves came to where each rule was asked for.")
    names = list(results["rounds"][0]["satisfied"])
    columns = ["round", "calls", *(f"{n} kept" for n in names), *(f"{n} expected" for n in names)]
    lines = [
        [
            *(line["number"], line["calls"]),
            *(line[key][name] for key in ("satisfied", "expected") for name in names),
            *(line[key] for key in ("all_satisfied", "realism", "distinct", "shift")),
        ]
        for line in results["rounds"]
    ]
    report.table(
        [*columns, "all kept", "realism", "distinct", "shift"],
        lines,
        caption="Expected: by the critic, before it learned from them.",
    )
    report.settings(config)
    return report.save(folder / "report.html")


def _keep(melody: Tensor, folder: Path, name: str) -> bytes:
    """Writes a melody as MIDI and as WAV, and gives the WAV."""
    for kind in ("midi", "wav"):
        (folder / kind).mkdir(exist_ok=True)
    name = name.replace(" ", "-")
    write_midi(melody, folder / "midi" / f"{name}.mid")
    sound = wave_of(melody)
    (folder / "wav" / f"{name}.wav").write_bytes(sound)
    return sound


def _notes(results: Mapping[str, Any]) -> str:
    text = f"The rules were asked of {results['reward_calls']} melodies in training."
    if results["failed"]:
        text += f" They raised for {results['failed']} of these, which are left out."
    if results["dense_notes"] is not None:
        text += f" `dense` asks for {results['dense_notes']} notes."
    last = results["rounds"][-1]
    for name, expected in last["expected"].items():
        true = last["satisfied"][name]
        if not math.isnan(expected) and abs(expected - true) > 0.1:
            text += (
                f" **The critic and the rule part on {name}**: it expects {expected:.3f} of the "
                f"moves to keep it, {true:.3f} do."
            )
    return text


def _words(name: str) -> str:
    return name.replace("_", " ")

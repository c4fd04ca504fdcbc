"""Parts of `benchmarks/edits.py`: contradictory and logical requests, and strength."""

from __future__ import annotations

__all__ = ["requests", "strength"]

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
from benchmarks.edits.run import Flips, K, Setting
from benchmarks.shared.face_base import ATTRIBUTES
from latentctl.critics import Critic

CONTRADICTIONS = (
    ("Bald", "Blond_Hair"),
    ("Bald", "Black_Hair"),
    ("Bald", "Brown_Hair"),
    ("Black_Hair", "Blond_Hair"),
    ("Bald", "Wearing_Hat"),
)
POSSIBLE = (
    ("Smiling", "Eyeglasses"),
    ("Smiling", "Young"),
    ("Smiling", "Black_Hair"),
    ("Smiling", "Male"),
    ("Young", "Brown_Hair"),
)


def editor_of(setting: Setting) -> latentctl.Conditional:
    return latentctl.condition(setting.decoder, setting.taught, evaluator=setting.evaluator)


def requests(setting: Setting) -> None:
    """Rows 5 and 9."""
    editor, critic = editor_of(setting), setting.taught
    test = Flips(setting.judges, "test", setting.flags.faces)
    x = test.x
    rows: list[dict[str, Any]] = []
    for kind, pairs in (("contradictory", CONTRADICTIONS), ("possible", POSSIBLE)):
        for pair in pairs:
            out = editor.edit(x, **dict.fromkeys(pair, True))
            said, _ = setting.judges(out.z)
            columns = [ATTRIBUTES.index(name) for name in pair]
            held = (said[:, columns] > 0.5).all(1)
            row = {
                "kind": kind,
                "request": " & ".join(pair),
                "called_unreachable": out.unreachable.float().mean().item(),
                "satisfied": out.satisfied.float().mean().item(),
                "judge_sees_it": held.float().mean().item(),
                "right_verdict": (out.unreachable != held).float().mean().item(),
                "unreachable": int(out.unreachable.sum()),
                "unreachable_and_judge_agrees": int((out.unreachable & ~held).sum()),
                "judge_denies": int((~held).sum()),
            }
            rows.append(row)
            print(row, flush=True)
    setting.save({"pairs": rows, "logic": logic(setting, editor, critic, x)})


def logic(
    setting: Setting, editor: latentctl.Conditional, critic: latentctl.AttributeCritic, x: Tensor
) -> list[dict[str, Any]]:
    """Share of satisfied requests, by the evaluator, against the product of the single ones."""
    a, b, c = (critic[name] for name in ("Smiling", "Eyeglasses", "Young"))
    single = {}
    for name, where in {"a": a, "b": b, "c": c, "~a": ~a, "~b": ~b, "~c": ~c}.items():
        single[name] = editor.edit(x, where=where).satisfied.float().mean().item()
    cases: dict[str, tuple[Critic, float]] = {
        "a & b": (a & b, single["a"] * single["b"]),
        "a | b": (a | b, 1 - (1 - single["a"]) * (1 - single["b"])),
        "~a": (~a, single["~a"]),
        "a & ~c": (a & ~c, single["a"] * single["~c"]),
        "(a & b) | ~c": (
            (a & b) | ~c,
            1 - (1 - single["a"] * single["b"]) * (1 - single["~c"]),
        ),
        "~(a & b)": (~(a & b), 1 - (1 - single["~a"]) * (1 - single["~b"])),
    }
    rows = [{"request": k, "satisfied": v} for k, v in single.items()]
    for name, (where, product) in cases.items():
        out = editor.edit(x, where=where)
        satisfied = out.satisfied.float().mean().item()
        rows.append({"request": name, "satisfied": satisfied, "product": product})
    for row in rows:
        print(row, flush=True)
    return rows


def strength(setting: Setting) -> None:
    """Row 7."""
    from recipes.support.report import face_sheet

    editor = editor_of(setting)
    test = Flips(setting.judges, "test", setting.flags.faces)
    values = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    rows, pictures = [], []
    for value in values:
        out = editor.edit(test.x.repeat(K, 1, 1, 1), y=test.asked, strength=value)
        row = test.judge(f"strength {value:g}", out.z, strength=value)
        row.pop("said")
        rows.append(row)
        pictures.append(out.x.view(K, len(test.x), *out.x.shape[1:])[:, :3])
    for key, up in (("success", True), ("shift", True), ("identity", False)):
        for name in ATTRIBUTES:
            track = torch.tensor([row["attributes"][name][key] for row in rows])
            steps = track.diff() if up else -track.diff()
            if bool((steps < -0.01).any()):
                print(f"{key} of {name} is not monotone: {track.tolist()}", flush=True)
    strips = torch.stack(pictures, 2).flatten(0, 1)
    sheet = face_sheet(
        strips.clamp(0, 1),
        row_labels=[name if i == 0 else "" for name in ATTRIBUTES for i in range(3)],
        column_labels=[f"{value:g}" for value in values],
    )
    Path(setting.flags.output_dir / "strength.png").write_bytes(sheet)
    setting.save(rows)

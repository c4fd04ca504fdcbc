"""Parts of `benchmarks/edits/run.py`: contradictory and logical requests, and strength."""

from __future__ import annotations

from typing import Any

import torch

import latentctl
from benchmarks.edits.setting import K, Setting
from benchmarks.shared.face_base import ATTRIBUTES
from benchmarks.shared.run import Row, report
from latentctl.critics import Critic

PAIRS = {
    "contradictory": (
        *(("Bald", "Blond_Hair"), ("Bald", "Black_Hair"), ("Bald", "Brown_Hair")),
        *(("Black_Hair", "Blond_Hair"), ("Bald", "Wearing_Hat")),
    ),
    "possible": (
        *(("Smiling", "Eyeglasses"), ("Smiling", "Young"), ("Smiling", "Black_Hair")),
        *(("Smiling", "Male"), ("Young", "Brown_Hair")),
    ),
}
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


def requests(setting: Setting) -> Any:
    """Pairs of attributes that exclude each other or not, and logical expressions."""
    editor, test = setting.editor(), setting.test
    rows = []
    for kind, pairs in PAIRS.items():
        for pair in pairs:
            out = editor.edit(test.x, hold=True, **dict.fromkeys(pair, True))
            columns = [ATTRIBUTES.index(name) for name in pair]
            seen = (test.see(out.z)[0][:, columns] > 0.5).all(1)
            row = {
                "kind": kind,
                "request": " & ".join(pair),
                "called_unreachable": out.unreachable.float().mean().item(),
                "satisfied": out.satisfied.float().mean().item(),
                "judge_sees_it": seen.float().mean().item(),
                "right_verdict": (out.unreachable != seen).float().mean().item(),
                "unreachable": int(out.unreachable.sum()),
                "unreachable_and_judge_agrees": int((out.unreachable & ~seen).sum()),
                "judge_denies": int((~seen).sum()),
            }
            rows.append(report(row))
    return {"pairs": rows, "logic": logic(setting, editor)}


def logic(setting: Setting, editor: latentctl.Conditional) -> list[Row]:
    """Share of satisfied requests, by the evaluator, against the product of the single ones."""
    a, b, c = (setting.student[name] for name in ("Smiling", "Eyeglasses", "Young"))

    def satisfied(where: Critic) -> float:
        return editor.edit(setting.test.x, where=where, hold=True).satisfied.float().mean().item()

    parts = {"a": a, "b": b, "c": c, "~a": ~a, "~b": ~b, "~c": ~c}
    p = {name: satisfied(where) for name, where in parts.items()}
    cases: dict[str, tuple[Critic, float]] = {
        "a & b": (a & b, p["a"] * p["b"]),
        "a | b": (a | b, 1 - (1 - p["a"]) * (1 - p["b"])),
        "~a": (~a, p["~a"]),
        "a & ~c": (a & ~c, p["a"] * p["~c"]),
        "(a & b) | ~c": ((a & b) | ~c, 1 - (1 - p["a"] * p["b"]) * (1 - p["~c"])),
        "~(a & b)": (~(a & b), 1 - (1 - p["~a"]) * (1 - p["~b"])),
    }
    rows: list[Row] = [{"request": name, "satisfied": share} for name, share in p.items()]
    rows += [
        {"request": name, "satisfied": satisfied(where), "product": product}
        for name, (where, product) in cases.items()
    ]
    return [report(row) for row in rows]


def strength(setting: Setting) -> Any:
    """Success, shift and identity at each strength, with a strip of pictures."""
    editor, test = setting.editor(), setting.test
    rows, pictures = [], []
    for value in STRENGTHS:
        out = editor.edit(test.repeated, y=test.target, hold=True, strength=value)
        rows.append(test.judge(f"strength {value:g}", out.z, strength=value))
        pictures.append(out.x.view(K, len(test.x), *out.x.shape[1:])[:, :3])
    for key, up in (("success", True), ("shift", True), ("identity", False)):
        for name in ATTRIBUTES:
            track = torch.tensor([row["attributes"][name][key] for row in rows])
            steps = track.diff() if up else -track.diff()
            if bool((steps < -0.01).any()):
                print(f"{key} of {name} is not monotone: {track.tolist()}", flush=True)
    setting.sheet(
        "strength",
        torch.stack(pictures, 2).flatten(0, 1),
        [name if i == 0 else "" for name in ATTRIBUTES for i in range(3)],
        [f"{value:g}" for value in STRENGTHS],
    )
    return rows

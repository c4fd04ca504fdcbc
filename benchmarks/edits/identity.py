"""Edits beside a linear direction of equal success: is the person preserved, by attribute?

A part of `benchmarks/edits/run.py`. Identity is the cosine of MobileFaceNet embeddings to the
original photograph, beside that of the reconstruction, which bounds edits closely, and that of
another person. A line is followed at strengths so fine that its success on an attribute can be read
off where it equals ours; where it never gets there, its greatest success stands, which favours it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from benchmarks.edits.setting import K, Setting
from benchmarks.shared.face_networks import judge_images
from benchmarks.shared.run import report
from latentctl import Ascent

STRENGTHS = (0.0, *(0.25 * 1.25**i for i in range(17)))


def at_success(rows: Sequence[Mapping[str, float]], success: float) -> dict[str, Any]:
    """Identity of a line, of growing strengths from 0, where its success first reaches a value."""
    best = max(range(len(rows)), key=lambda i: rows[i]["success"])
    if rows[best]["success"] < success:
        return {"reached": False, **rows[best]}
    end = next(i for i, row in enumerate(rows) if row["success"] >= success)
    if end == 0:
        return {"reached": True, **rows[0]}
    before, after = rows[end - 1], rows[end]
    share = (success - before["success"]) / (after["success"] - before["success"])
    return {"reached": True} | {k: before[k] + share * (after[k] - before[k]) for k in before}


def compare(setting: Setting, ascent: Ascent, lines: Mapping[str, Tensor]) -> dict[str, Any]:
    """The edits of an ascent beside the lines along `(K, *latent_shape)`, at equal success."""
    test = setting.test
    _, original = judge_images(setting.judges, test.x)
    _, redrawn = test.see(test.faces)

    def measured(name: str, z: Tensor) -> dict[str, dict[str, float]]:
        """By attribute, with the identity to the original photograph."""
        seen = test.see(z)
        each = test.judge(name, z, seen)["attributes"]
        cosine = (seen[1] * original.repeat(K, 1)).sum(1).view(K, -1).mean(1).tolist()
        return {
            name: row | {"to_reconstruction": row["identity"], "identity": value}
            for (name, row), value in zip(each.items(), cosine, strict=True)
        }

    ours: dict[str, Any] = measured("ours", ascent.move(test.z, test.request).z)
    for label, line in lines.items():
        points = [
            measured(f"{label} {strength:g}", test.along(line, strength)) for strength in STRENGTHS
        ]
        for name, own in ours.items():
            track = [
                {key: point[name][key] for key in ("success", "leakage", "identity")}
                | {"strength": strength}
                for point, strength in zip(points, STRENGTHS, strict=True)
            ]
            own[label] = at_success(track, own["success"])
    for name, own in ours.items():
        report({"name": name, **own} | {k: own[k]["identity"] for k in lines})
    return {
        "faces": len(test.x),
        "reconstruction to original": (redrawn * original).sum(1).mean().item(),
        "another person to original": (original * original.roll(1, 0)).sum(1).mean().item(),
        "attributes": ours,
    }

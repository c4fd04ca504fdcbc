"""Does the person stay? Edits beside a linear direction of equal success, attribute by attribute.

A part of `benchmarks/edits.py`. Identity is the cosine of MobileFaceNet embeddings to the original
photograph, beside that of the reconstruction, which no edit can beat by much, and that of another
person. A line is walked at strengths so fine that its success on an attribute can be read off where
it equals ours; where it never gets there, its greatest success stands, which flatters it.
"""

from __future__ import annotations

__all__ = ["at_success", "compare", "identity"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.edits.baselines import mean_differences, svm_directions
from benchmarks.shared.face_base import ATTRIBUTES

if TYPE_CHECKING:
    from benchmarks.edits.run import Flips, Setting

K = len(ATTRIBUTES)
SHIFT_WEIGHT = 0.015


def at_success(rows: Sequence[Mapping[str, float]], success: float) -> dict[str, Any]:
    """Identity of a line where its success first reaches `success`.

    Arguments:
        rows: `success`, `leakage` and `identity` at growing strengths, the first at 0.
        success: What to reach.
    """
    best = max(range(len(rows)), key=lambda i: rows[i]["success"])
    if rows[best]["success"] < success:
        return {"reached": False, **rows[best]}
    end = next(i for i, row in enumerate(rows) if row["success"] >= success)
    if end == 0:
        return {"reached": True, **rows[0]}
    before, after = rows[end - 1], rows[end]
    share = (success - before["success"]) / (after["success"] - before["success"])
    return {
        "reached": True,
        **{k: before[k] + share * (after[k] - before[k]) for k in before},
    }


def to_originals(test: Flips, z: Tensor) -> list[float]:
    """Mean cosine of decoded `z` to the original photographs, for each attribute."""
    who = F.normalize(test.judges.embedder(test.x), dim=1).repeat(K, 1)
    _, found = test.judges(z)
    return (found * who).sum(1).view(K, -1).mean(1).tolist()


def compare(
    test: Flips, z: Tensor, lines: Mapping[str, Tensor], strengths: Sequence[float]
) -> dict[str, Any]:
    """Edits `z` beside the lines along `(K, *latent_shape)`, at the success of the edits."""
    x = test.x
    who = F.normalize(test.judges.embedder(x), dim=1)
    _, redrawn = test.judges(test.faces)
    row = test.judge("ours", z)
    ours = {name: row["attributes"][name] for name in ATTRIBUTES}
    originals = to_originals(test, z)
    sign = torch.nan_to_num(2 * test.asked - 1)
    result: dict[str, Any] = {
        "faces": len(x),
        "reconstruction to original": (redrawn * who).sum(1).mean().item(),
        "stranger to original": (who * who.roll(1, 0)).sum(1).mean().item(),
        "attributes": {
            name: {
                **ours[name],
                "identity": originals[i],
                "to_reconstruction": ours[name]["identity"],
            }
            for i, name in enumerate(ATTRIBUTES)
        },
    }
    for label, line in lines.items():
        step = (sign @ line.flatten(1)).view_as(test.z)
        tracks: dict[str, list[dict[str, float]]] = {name: [] for name in ATTRIBUTES}
        for strength in (0.0, *strengths):
            moved = test.z + strength * step
            here = test.judge(f"{label} {strength:g}", moved)["attributes"]
            close = to_originals(test, moved)
            for i, name in enumerate(ATTRIBUTES):
                point = {"success": here[name]["success"], "leakage": here[name]["leakage"]}
                tracks[name].append({**point, "identity": close[i], "strength": strength})
        for name in ATTRIBUTES:
            own = result["attributes"][name]
            own[label] = at_success(tracks[name], own["success"])
    for name, own in result["attributes"].items():
        text = f"{name:<12} success {own['success']:.2f} identity {own['identity']:.3f}"
        for label in lines:
            other = own[label]
            mark = "" if other["reached"] else f" (only {other['success']:.2f})"
            text += f" | {label} {other['identity']:.3f}{mark} leakage {other['leakage']:.3f}"
        print(text, flush=True)
    return result


def identity(setting: Setting) -> None:
    """The comparison on the face VAE, by the fast editor at its default."""
    from benchmarks.edits.distill import training_latents
    from benchmarks.edits.run import Flips, gentle

    latents = training_latents(setting.decoder)
    test = Flips(setting.judges, "test", setting.flags.faces)
    move = gentle(setting.taught, SHIFT_WEIGHT).move(test.z, test.targets(setting.taught))
    lines = {
        "mean difference": mean_differences(latents.mean, latents.labels),
        # of length 3 rather than 1, so that the same strengths lead as far
        "SVM": 3 * svm_directions(latents.mean, latents.labels, setting.flags.seed),
    }
    strengths = [0.25 * 1.25**i for i in range(17)]
    setting.save(compare(test, move.z, lines, strengths))

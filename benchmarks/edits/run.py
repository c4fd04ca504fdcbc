"""Edits of real faces: success, leakage, identity and the truth of receipts, judged independently.

    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks
    LATENTCTL_DATA=... python -m benchmarks.edits.distill --seed 0
    LATENTCTL_DATA=... python -m benchmarks.edits.run --seed 0 --part flips

Each part writes `PART-SEED.json` into `--output_dir`; what is measured is in
`benchmarks/edits/setting.py`.

- `flips`: the ways to edit, on `--faces` test faces, each at the strength that was best within the
  limits (leakage 0.05, identity 0.75) on validation faces; and the truth of their receipts.
- `frontier`: all methods over their strengths, on test faces.
- `refined`: the ascent on the teachers through the decoder after the fast edit.
- `requests`: contradictory requests, and logical ones.
- `strength`: success, shift and identity over `strength`, and a strip of pictures.
- `identity`: the similarity to the photograph, beside linear directions of equal success.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks.edits.baselines import baselines, for_edits, svm_directions, sweep
from benchmarks.edits.identity import compare
from benchmarks.edits.requests import requests, strength
from benchmarks.edits.setting import EditFlags, Flips, Setting, within_limits
from benchmarks.shared.base import unchanged
from benchmarks.shared.face_base import face_decoder, load_faces
from benchmarks.shared.face_networks import judge_images
from benchmarks.shared.run import Row, report, run, timed
from latentctl import Ascent
from latentctl.conditional import Outcome
from latentctl.controllers import Controller, Refined, amortise
from recipes.support.celeba_attrs.report import attribute_vectors

SATISFIED = 0.8  # probability from which a receipt by an evaluator says satisfied
WEIGHTS = (0.05, 0.025, 0.018, 0.014, 0.01, 0.006)  # of the shift
AMORTISED = 0.014


@dataclass
class Flags(EditFlags):
    part: Literal["flips", "frontier", "refined", "requests", "strength", "identity"] = "flips"
    validation_faces: int = 100  # Faces on which strengths are chosen.
    output_dir: Path = Path("outputs/edits")


def flips(setting: Setting) -> Any:
    flags, student = setting.flags, setting.student

    def ascent(weight: float) -> Ascent:
        return Ascent.for_edits(student, shift_weight=weight)

    sizes = {"width": 512, "max_train_steps": 2500, "seed": flags.seed}
    actor, learning = timed(amortise, ascent(AMORTISED), setting.latents, **sizes)
    ways: dict[str, dict[float, Controller]] = {
        "fast: Ascent.for_edits on the distilled critic": {w: ascent(w) for w in WEIGHTS},
        "one evaluation: Actor by amortise": {AMORTISED: actor},
    }
    tune = Flips(setting, load_faces("validation")[0][: flags.validation_faces])
    agreement, rows = agreement_on_real(setting), []
    for name, controllers in ways.items():
        tuned = [
            tune.judge(f"validation, {name}", c.move(tune.z, tune.request).z, shift_weight=w)
            for w, c in controllers.items()
        ]
        weight = within_limits(tuned)["shift_weight"]
        rows.append(edited(setting, name, controllers[weight], agreement, shift_weight=weight))
    return {"amortise_cpu_seconds": learning, "agreement_on_real": agreement, "rows": rows}


def edited(
    setting: Setting, name: str, controller: Controller, agreement: float, **more: Any
) -> Row:
    """Edits of the test faces, judged, with the truth of their receipts."""
    test, editor = setting.test, setting.editor(controller)
    out, seconds = timed(editor.edit, test.repeated, y=test.target, hold=True)
    seen = test.see(out.z)
    row = test.judge(name, out.z, seen, cpu_seconds=seconds, edits=len(out), **more)
    row["evaluations"] = out.evaluations.float().mean().item()
    return row | report(receipt(test, out, seen[0], agreement))


def agreement_on_real(setting: Setting) -> float:
    """How often the judge agrees with confident decisions of the evaluator on real faces."""
    found, _ = judge_images(setting.judges, setting.test.x)
    evaluated = setting.evaluator.score_samples(setting.test.x).sigmoid()
    confident = (evaluated - 0.5).abs() >= SATISFIED - 0.5
    return ((found > 0.5) == (evaluated > 0.5))[confident].float().mean().item()


def receipt(test: Flips, out: Outcome, found: Tensor, agreement: float) -> Row:
    """How true the receipts are, by the judge's probabilities."""
    done = test.of_column(found).round() == test.wanted
    agreed = done[out.satisfied].float().mean().item()
    held = ~out.leakage.isnan()
    leak = (found - test.before).abs()
    held_leak = torch.where(held, leak, torch.nan).nanmean(1)
    asked = test.of_column(out.probability), test.of_column(found)
    return {
        "satisfied": out.satisfied.float().mean().item(),
        "agreement_when_satisfied": agreed,
        "agreement_share": agreed / agreement,
        "calibration_error_all": calibration_error(out.probability.flatten(), found.flatten()),
        "calibration_error_asked": calibration_error(*asked),
        "leakage_rank_of_edits": rank_correlation(out.leakage.nanmean(1), held_leak),
        "leakage_rank_of_entries": rank_correlation(out.leakage[held], leak[held]),
        "unreachable": out.unreachable.float().mean().item(),
        "judge_agrees_unreachable": (~done)[out.unreachable].float().mean().item(),
        "failures_called_unreachable": out.unreachable[~done].float().mean().item(),
    }


def rank_correlation(a: Tensor, b: Tensor) -> float:
    ranks = [v.argsort().argsort().double() for v in (a, b)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def calibration_error(probability: Tensor, found: Tensor) -> float:
    """Expected calibration error against the judge's decisions."""
    return float(binary_calibration_error(probability, (found > 0.5).long(), n_bins=15))


def frontier(setting: Setting) -> Any:
    """Every method over its strengths, on the same test faces."""
    ours = for_edits("ours, fast", setting.student, (0.4, 0.2, 0.1, *WEIGHTS))
    return sweep(setting.test, [ours, *baselines(setting.latents, setting.flags.seed)])[0]


def refined(setting: Setting) -> Any:
    """The slow and better setting, refined on the teachers."""
    agreement, rows = agreement_on_real(setting), []
    for weight in (0.014, 0.008):
        fast = Ascent.for_edits(setting.student, shift_weight=weight)
        slow = Refined(fast, setting.teachers, shift_weight=weight)
        rows.append(edited(setting, f"fast, shift {weight:g}", fast, agreement))
        rows.append(edited(setting, f"refined, shift {weight:g}", slow, agreement))
    return rows


def identity(setting: Setting) -> Any:
    """The similarity to the photograph, by the fast editor at its default."""
    latents = setting.latents
    lines = {
        "mean difference": attribute_vectors(latents),
        # of length 3 rather than 1, so that the same strengths lead as far
        "SVM": 3 * svm_directions(latents, setting.flags.seed),
    }
    return compare(setting, Ascent.for_edits(setting.student), lines)


PARTS = {f.__name__: f for f in (flips, frontier, refined, requests, strength, identity)}


def main(flags: Flags) -> None:
    setting = Setting(flags, face_decoder(), flags.output_dir)
    with unchanged(setting.decoder):
        setting.save(flags.part, PARTS[flags.part](setting))


if __name__ == "__main__":
    run(main, Flags)

"""Edits of real faces: success, leakage, identity and the truth of receipts, judged from outside.

    LATENTCTL_DATA=... python benchmarks/judge.py
    LATENTCTL_DATA=... python benchmarks/teachers.py
    LATENTCTL_DATA=... python benchmarks/edits_teach.py --seed 0
    LATENTCTL_DATA=... python benchmarks/edits.py --seed 0 --part flips

Each part writes `PART-SEED.json` into `--output_dir`. Every attribute of every face is flipped from
what the judge sees in its reconstruction. Success: the judge sees the flip. Leakage: share of the
other nine attributes that the judge sees change. Identity: cosine of MobileFaceNet embeddings to
the reconstruction. Neither network is seen by any method.

- `flips`: the ways to edit, on `--faces` test faces, each at the strength that was best within the
  limits (leakage 0.05, identity 0.75) on validation faces; and the truth of their receipts.
- `frontier`: all methods over their strengths, on test faces.
- `refined`: the climb on the teachers through the decoder after the fast edit.
- `requests`: contradictory requests, and logical ones.
- `strength`: success, shift and identity over `strength`, and a strip of pictures.
- `identity`: the likeness to the photograph, beside linear directions of equal success.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from latentctl_adapters.pixels.face_networks import FaceEmbedder
from torch import Tensor

import latentctl
from benchmarks.edits.baselines import rivals
from benchmarks.edits.distill import load_taught, training_latents
from benchmarks.shared.face_base import ATTRIBUTES, data_folder, load_face_vae, load_faces
from benchmarks.shared.face_judge import load_judge
from benchmarks.shared.face_teachers import AUDITOR, TEACHERS, load_network
from latentctl import Ascent, AttributeCritic, PixelCritic
from latentctl.controllers import Controller, Refined, amortise

K, SURE = len(ATTRIBUTES), 1 - 1e-6
LEAKAGE, IDENTITY = 0.05, 0.75
SATISFIED = 0.8  # what an audited receipt calls satisfied
WEIGHTS = (0.05, 0.025, 0.018, 0.014, 0.01, 0.006)
AMORTISED = 0.014
Row = dict[str, Any]


@dataclass
class Flags:
    part: Literal["flips", "frontier", "refined", "requests", "strength", "identity"] = "flips"
    seed: int = 0
    faces: int = 500
    """Test faces."""
    validation_faces: int = 100
    """Faces on which strengths are chosen."""
    threads: int = 1
    output_dir: Path = Path("outputs/edits")


class Judges:
    """What two networks that no method saw say of decoded latents."""

    def __init__(self, decoder: latentctl.Decoder) -> None:
        self.decoder, self.attributes = decoder, load_judge()
        file = data_folder().parent / "weights" / "mobilefacenet" / "MobileFaceNet.onnx"
        self.embedder = FaceEmbedder(file, threads=1)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities `(B, K)`, and embeddings of length 1."""
        said, who = [], []
        for part in z.split(250):
            x = self.decoder.decode(part)
            said.append(self.attributes.probability(x))
            who.append(F.normalize(self.embedder(x), dim=1))
        return torch.cat(said), torch.cat(who)


class Flips:
    """Every attribute of some faces flipped, one at a time, `(K * faces)` in attribute order."""

    def __init__(self, judges: Judges, split: str, count: int) -> None:
        self.judges, decoder = judges, judges.decoder
        images, _, _ = load_faces(split)
        self.x = images[:count].float() / 255
        self.faces = torch.cat([decoder.encode(part).mean for part in self.x.split(250)])
        said, who = judges(self.faces)
        self.z = self.faces.repeat(K, *[1] * (self.faces.ndim - 1))
        self.who = who.repeat(K, 1)
        self.before = said.repeat(K, 1)
        self.column = torch.arange(K).repeat_interleave(count)
        self.wanted = 1 - self.of_column(self.before).round()
        self.asked = torch.full_like(self.before, torch.nan)
        self.asked.scatter_(1, self.column[:, None], self.wanted[:, None])

    def of_column(self, values: Tensor) -> Tensor:
        return values.gather(1, self.column[:, None])[:, 0]

    def targets(self, critic: AttributeCritic) -> Tensor:
        """The flips, and the critic's own probabilities to be held."""
        with torch.no_grad():
            held = critic.probability(self.z).clamp(1 - SURE, SURE)
        return torch.where(self.asked.isnan(), held, self.asked)

    def judge(self, name: str, z: Tensor, **more: Any) -> Row:
        said, who = self.judges(z)
        done = self.of_column(said).round() == self.wanted
        changed = ((said > 0.5) != (self.before > 0.5)).float()
        changed.scatter_(1, self.column[:, None], 0)
        leaked, same = changed.sum(1) / (K - 1), (who * self.who).sum(1)
        shift = (z - self.z).flatten(1).square().mean(1).sqrt()
        parts = {"success": done.float(), "leakage": leaked, "identity": same, "shift": shift}
        row: Row = {"name": name, **{k: v.mean().item() for k, v in parts.items()}, **more}
        each = {k: v.view(K, -1).mean(1).tolist() for k, v in parts.items()}
        row["attributes"] = {a: {k: each[k][i] for k in each} for i, a in enumerate(ATTRIBUTES)}
        row["worst"] = min(each["success"])
        show = " ".join(f"{k} {row[k]:.3f}" for k in (*parts, "worst"))
        print(f"{name:<48} {show}", flush=True)
        row["said"] = said
        return row


def within(rows: list[Row]) -> Row:
    """The row of greatest success within the limits; the nearest to them if there is none."""
    good = [r for r in rows if r["leakage"] <= LEAKAGE and r["identity"] >= IDENTITY]
    if good:
        return max(good, key=lambda r: r["success"])
    return min(
        rows,
        key=lambda r: max(0, r["leakage"] / LEAKAGE - 1) + max(0, 1 - r["identity"] / IDENTITY),
    )


@dataclass
class Setting:
    """What all parts share."""

    flags: Flags
    decoder: latentctl.Decoder
    judges: Judges
    taught: AttributeCritic
    teacher: PixelCritic
    evaluator: PixelCritic

    @classmethod
    def build(cls, flags: Flags) -> Setting:
        decoder = latentctl.wrap(load_face_vae())
        images, labels, _ = load_faces("validation")
        drawn = torch.cat(
            [decoder.decode(decoder.encode(x.float() / 255).mean) for x in images.split(250)]
        )
        evaluator = PixelCritic(decoder, load_network(AUDITOR)).calibrate(drawn, labels)
        teacher = PixelCritic(decoder, *(load_network(number) for number in TEACHERS))
        taught = load_taught(flags.output_dir, flags.seed)
        return cls(flags, decoder, Judges(decoder), taught, teacher, evaluator)

    def save(self, result: Any) -> None:
        file = self.flags.output_dir / f"{self.flags.part}-{self.flags.seed}.json"
        file.write_text(json.dumps(result, indent=1))


def for_edits(critic: AttributeCritic, weight: float) -> Ascent:
    return Ascent.for_edits(critic, shift_weight=weight)


def flips(setting: Setting) -> None:
    """Rows 1, 3, 4 and 6."""
    flags, taught = setting.flags, setting.taught
    latents = training_latents(setting.decoder)
    began = time.process_time()
    ascent = gentle(taught, AMORTISED)
    editor = amortise(ascent, latents, width=512, max_train_steps=2500, seed=flags.seed)
    learning = time.process_time() - began
    ways: dict[str, dict[float, Controller]] = {
        "fast: Ascent.for_edits on the taught critic": {w: gentle(taught, w) for w in WEIGHTS},
        "one evaluation: Actor by amortise": {AMORTISED: editor},
    }
    tune = Flips(setting.judges, "validation", flags.validation_faces)
    test = Flips(setting.judges, "test", flags.faces)
    agreement = agreement_on_real(setting, test)
    result: dict[str, Any] = {"amortise_cpu_seconds": learning, "agreement_on_real": agreement}
    rows = []
    for name, controllers in ways.items():
        tuned = {
            w: tune.judge(f"validation, {name} {w}", c.move(tune.z, tune.targets(taught)).z)
            for w, c in controllers.items()
        }
        chosen = within(list(tuned.values()))
        weight = next(w for w, row in tuned.items() if row is chosen)
        chosen_editor = controllers[weight]
        faces = latentctl.condition(
            setting.decoder, taught, editor=chosen_editor, evaluator=setting.evaluator
        )
        began = time.process_time()
        out = faces.edit(test.x.repeat(K, 1, 1, 1), y=test.asked)
        seconds = time.process_time() - began
        row = test.judge(name, out.z, shift_weight=weight, cpu_seconds=seconds)
        row |= receipt(test, out, row.pop("said"), agreement)
        row["evaluations"] = out.evaluations.float().mean().item()
        print({k: v for k, v in row.items() if k != "attributes"}, flush=True)
        rows.append(row)
    setting.save({**result, "rows": rows})


def agreement_on_real(setting: Setting, test: Flips) -> float:
    """How often the judge agrees with what the evaluator is sure of on the same real faces."""
    said = torch.cat([setting.judges.attributes.probability(x) for x in test.x.split(250)])
    audit = torch.cat([setting.evaluator.of_samples(x).sigmoid() for x in test.x.split(250)])
    sure = (audit - 0.5).abs() >= SATISFIED - 0.5
    return ((said > 0.5) == (audit > 0.5))[sure].float().mean().item()


def receipt(test: Flips, out: latentctl.conditional.Outcome, said: Tensor, agreement: float) -> Row:
    """How true the receipts are, by the judge."""
    done = test.of_column(said).round() == test.wanted
    agreed = done[out.satisfied].float().mean().item()
    held = ~out.leakage.isnan()
    leak = (said - test.before).abs()
    ranks = rank_correlation(out.leakage.nanmean(1), torch.where(held, leak, torch.nan).nanmean(1))
    each = rank_correlation(out.leakage[held], leak[held])
    chance = test.of_column(out.probability)
    return {
        "satisfied": out.satisfied.float().mean().item(),
        "agreement_when_satisfied": agreed,
        "agreement_share": agreed / agreement,
        "calibration_error_all": calibration_error(out.probability.flatten(), said.flatten() > 0.5),
        "calibration_error_asked": calibration_error(chance, test.of_column(said) > 0.5),
        "leakage_rank_of_edits": ranks,
        "leakage_rank_of_entries": each,
        "unreachable": out.unreachable.float().mean().item(),
        "judge_agrees_unreachable": (~done)[out.unreachable].float().mean().item(),
        "failures_called_unreachable": out.unreachable[~done].float().mean().item(),
    }


def rank_correlation(a: Tensor, b: Tensor) -> float:
    ranks = [v.argsort().argsort().double() for v in (a, b)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


def calibration_error(probability: Tensor, holds: Tensor, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width."""
    place = (probability * bins).long().clamp(max=bins - 1)
    total = 0.0
    for number in range(bins):
        here = place == number
        if bool(here.any()):
            gap = probability[here].mean() - holds[here].double().mean()
            total += here.double().mean().item() * abs(gap.item())
    return total


def frontier(setting: Setting) -> None:
    """Row 2: every method over its strengths, on the same test faces."""
    flags = setting.flags
    test = Flips(setting.judges, "test", flags.faces)
    latents = training_latents(setting.decoder)
    rows: dict[str, list[Row]] = {}

    def add(method: str, strength: float, z: Tensor) -> None:
        row = test.judge(f"{method} {strength:g}", z, strength=strength)
        row.pop("said")
        rows.setdefault(method, []).append(row)

    for weight in (0.4, 0.2, 0.1, *WEIGHTS):
        move = gentle(setting.taught, weight).move(test.z, test.targets(setting.taught))
        add("ours, fast", weight, move.z)
    sign = torch.nan_to_num(2 * test.asked - 1)
    for rival in rivals(latents, flags.seed):
        for strength in rival.strengths:
            add(rival.name, strength, rival.move(test, sign, strength))
    setting.save(rows)


def refined(setting: Setting) -> None:
    """The preset of quality, on `--faces` faces."""
    test = Flips(setting.judges, "test", setting.flags.faces)
    rows = []
    for weight in (0.014, 0.008):
        for name, controller in {
            f"fast, shift {weight:g}": gentle(setting.taught, weight),
            f"refined, shift {weight:g}": Refined(
                gentle(setting.taught, weight), setting.teacher, shift_weight=weight
            ),
        }.items():
            editor = latentctl.condition(
                setting.decoder, setting.taught, editor=controller, evaluator=setting.evaluator
            )
            began = time.process_time()
            out = editor.edit(test.x.repeat(K, 1, 1, 1), y=test.asked)
            seconds = time.process_time() - began
            row = test.judge(name, out.z, cpu_seconds=seconds, edits=len(out))
            row |= receipt(test, out, row.pop("said"), agreement_on_real(setting, test))
            row["evaluations"] = out.evaluations.float().mean().item()
            rows.append(row)
    setting.save(rows)


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    setting = Setting.build(flags)
    fingerprint = setting.decoder.fingerprint()
    parts = {"flips": flips, "frontier": frontier, "refined": refined}
    if flags.part in parts:
        parts[flags.part](setting)
    else:
        from benchmarks.edits.identity import identity
        from benchmarks.edits.requests import requests, strength

        later = {"requests": requests, "strength": strength, "identity": identity}
        later[flags.part](setting)
    if setting.decoder.fingerprint() != fingerprint:
        raise latentctl.errors.FingerprintError("The frozen decoder has changed.")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

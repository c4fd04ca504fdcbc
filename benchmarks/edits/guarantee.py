"""Does the guarantee hold? 100 random splits of drawn faces into calibration edits and later ones.

    python -m benchmarks.edits.guarantee --seed 0
    python -m benchmarks.edits.guarantee --seed 1 --settings "pack, one attribute"

Edits of test faces are made once and kept in `--output_dir`: by the pack that ships, of one
attribute and of two, and by the editor of a small critic, which reaches much less. Of each split
some edits choose the thresholds, by the judge that ships, and all others are the later edits, on
which the share of wrong verdicts is counted, by the same judge. A split holds if that share is at
most alpha; one that calls nothing holds. The evaluator's own verdicts, without calibration, stand
beside it. Prints the tables of all seeds that are there. The embedded faces alone are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from latentctl_adapters import embedded
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, ProceduralFaces
from torch import Tensor

import latentctl
from benchmarks.shared.run import Row, Seconds, SeededFlags, by_name, read, run, table, write
from latentctl import AttributeCritic, Conditional, Latents
from latentctl.conditional import Guarantee
from latentctl.conditional.calibrate import bounds
from latentctl.controllers.request import flips
from latentctl.random import permutation

BATCH = 100
LEAKAGE = 0.5
KINDS = ("satisfied", "clean", "unreachable")


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/guarantee")
    faces: int = 4800  # Each is edited once; half as many for the other settings.
    calibration: tuple[int, ...] = (300, 600, 1200)
    splits: int = 100
    alpha: float = 0.05
    settings: tuple[str, ...] = ("pack, one attribute", "pack, two attributes", "small critic")


def small_critic(seed: int) -> Conditional:
    """The evaluator and the decoder that ship, with a critic of 400 faces."""
    own = embedded.pack()
    images, labels = ProceduralFaces(400, seed=1000 + seed).tensors()
    posterior = own.decoder.encode(images.float() / 255, batch_size=BATCH)
    latents = Latents(posterior.mean, posterior.std, labels, ATTRIBUTES)
    options = {"width": 128, "max_train_steps": 150, "batch_size": 128, "seed": seed}
    critic = AttributeCritic.fit(latents, **options)
    return latentctl.condition(own.decoder, critic, evaluator=own.evaluator)


def shipped(seed: int) -> Conditional:
    return embedded.pack()


SETTINGS: dict[str, tuple[Callable[[int], Conditional], int]] = {
    "pack, one attribute": (shipped, 1),
    "pack, two attributes": (shipped, 2),
    "small critic": (small_critic, 1),
}


@torch.no_grad()
def edits(faces: Conditional, asked: int, count: int, seed: int) -> dict[str, Tensor]:
    """What was asked of each edit, and what the evaluator and the judge say of it."""
    judge = latentctl.PixelCritic(faces.decoder, embedded.judge(), names=faces.names)
    people, found = ProceduralFaces.split("test", count, seed), []
    k = len(faces.names)
    turns = permutation(count, seed=seed, epoch=0, purpose="turned over") % k
    steps = permutation(count, seed=seed, epoch=1, purpose="turned over") % (k - 1) + 1
    for rows in torch.arange(count).split(BATCH):
        z = faces.decoder.encode(people.images(int(rows[0]), len(rows)).float() / 255).mean
        columns = [turns[rows], (turns[rows] + steps[rows]) % k][:asked]
        target = flips(faces.evaluator.score(z).sigmoid(), *columns).target
        out = faces.edit(Latents(z), y=target, seed=seed)
        fields = {name: getattr(out, name) for name in ("target", "probability", "leakage")}
        seen = {"seen": judge.score_samples(out.x), "before": judge.score(z)}
        found.append(fields | {name: score.sigmoid() for name, score in seen.items()})
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def wrong(edit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whether the judge denies that an edit is satisfied, clean and unreachable, `(N,)` each."""
    errors = torch.where(edit["target"].isnan(), 0.0, (edit["seen"] - edit["target"]).abs())
    missed = errors.amax(1) > 0.5
    change = (edit["seen"] - edit["before"]).abs() * ~edit["leakage"].isnan()
    return {"satisfied": missed, "clean": change.amax(1) > LEAKAGE, "unreachable": ~missed}


def uncalibrated(edit: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """The verdicts of the evaluator alone."""
    errors = torch.where(edit["target"].isnan(), 0.0, (edit["probability"] - edit["target"]).abs())
    least = 1 - errors.amax(1)
    clean = edit["leakage"].nan_to_num(0).amax(1) <= LEAKAGE
    return {"satisfied": least >= threshold, "clean": clean, "unreachable": least < 0.5}


def split(edit: dict[str, Tensor], count: int, number: int, flags: Flags) -> dict[str, Tensor]:
    """Verdicts of a guarantee of `count` edits on all others, and whether these are wrong."""
    order = permutation(len(edit["target"]), seed=flags.seed, epoch=number, purpose="split")
    first = {name: value[order[:count]] for name, value in edit.items()}
    later = {name: value[order[count:]] for name, value in edit.items()}
    levels = {"threshold": 0.5, "limit": LEAKAGE, "alpha": flags.alpha, "delta": 0.05}
    more = {"leakage": LEAKAGE, "asked": (), "strength": 1.0, "edits": count, "networks": ""}
    guarantee = Guarantee(**bounds(**first, **levels), **more)
    called = guarantee.verdicts(later["target"], later["probability"], later["leakage"])
    return called | {f"{name} wrong": value for name, value in wrong(later).items()}


def measured(edit: dict[str, Tensor], count: int, flags: Flags) -> list[Row]:
    """A row for each verdict: over all splits, how many hold, the risk and the abstention."""
    parts = [split(edit, count, number, flags) for number in range(flags.splits)]
    plain, denied = uncalibrated(edit, 0.5), wrong(edit)
    rows = []
    for kind in KINDS:
        risks = torch.tensor([_risk(part[kind], part[f"{kind} wrong"]) for part in parts])
        called = torch.stack([part[kind].float().mean() for part in parts])
        rows.append(
            {
                "name": f"{kind}, {count}",
                "splits that hold": int((risks <= flags.alpha).sum()),
                "risk": risks.mean().item(),
                "largest": risks.max().item(),
                "not called": 1 - called.mean().item(),
                "nothing called": int((called == 0).sum()),
                "risk uncalibrated": _risk(plain[kind], denied[kind]),
            }
        )
    undecided = [1 - (p["satisfied"] | p["unreachable"]).float().mean().item() for p in parts]
    return [*rows, {"name": f"undecided, {count}", "not called": sum(undecided) / len(parts)}]


def _risk(called: Tensor, wrong: Tensor) -> float:
    return float(wrong[called].float().mean()) if bool(called.any()) else 0.0


def main(flags: Flags) -> None:
    seconds, result = Seconds(), {}
    for number, (name, (make, asked)) in enumerate(SETTINGS.items()):
        if name not in flags.settings:
            continue
        count = flags.faces if number == 0 else flags.faces // 2
        file = flags.output_dir / f"edits-{number}-{count}-{flags.seed}.pt"
        if not file.exists():
            faces = make(flags.seed)
            torch.save(seconds.measure(name, edits, faces, asked, count, flags.seed), file)
        edit = torch.load(file)
        result[name] = [row for n in flags.calibration for row in measured(edit, n, flags)]
    write(flags.output_dir / f"guarantee-{flags.seed}.json", {"rows": result, "seconds": seconds})
    runs = read(flags.output_dir, "guarantee-?.json")
    for name in SETTINGS:
        rows = [one["rows"][name] for one in runs if name in one["rows"]]
        print(f"\n{name}\n\n{table(by_name(rows)) if rows else ''}")


if __name__ == "__main__":
    run(main, Flags)

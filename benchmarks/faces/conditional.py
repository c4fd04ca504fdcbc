"""Conditional samples and edits of real faces on the frozen face VAE, judged independently.

    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks --names judge
    LATENTCTL_DATA=... python -m benchmarks.faces.conditional --seed 0
    python -m benchmarks.faces.conditional --summary

One run trains everything of one seed, measures every row in the same process, and writes
`faces-SEED.json` into `--output_dir`. `--summary` prints the tables of all seeds that are there:
the mean, with the range.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.faces.controllers import FaceBenchmark, FaceFlags
from benchmarks.shared.base import decode, unchanged
from benchmarks.shared.run import Row, by_name, cell, read, report, run, table, write
from latentctl import Actor, Conditional, FlowMatching
from latentctl.controllers import Controller
from latentctl.errors import InputError
from recipes.support.celeba_attrs.report import EDIT_COLUMNS, SAMPLE_COLUMNS, reference_rows
from recipes.support.faces import Faces


@dataclass
class Flags(FaceFlags):
    max_train_steps: int = 900  # Steps of the adversarial training of actors without a teacher.
    realism_train_steps: int = 0
    paper_train_steps: int = 22
    """Steps at the paper's sizes; it trains for 200,000, which takes days on two cores."""
    rows: tuple[str, ...] = ("",)
    """Beginnings of the names of samples; with any, only these are measured, into the same file."""
    summary: bool = False  # Only print the tables of all seeds.
    output_dir: Path = Path("outputs/faces")


def controllers(faces: FaceBenchmark, flags: Flags) -> dict[str, Callable[[], Controller]]:
    """What trains each controller, by the name of its row."""
    unlabelled, fit, steps = faces.latents.select([]), faces.fit, flags.teacher_train_steps
    flow = cache(partial(fit, "realism: flow", FlowMatching, unlabelled, max_train_steps=steps))

    def realism() -> Actor:
        sizes = {"critic_warmup_steps": 0, "max_train_steps": flags.realism_train_steps}
        return fit("realism: actor", Actor, unlabelled, teacher=flow(), **sizes, **faces.cloning)

    new: dict[str, Any] = {"max_train_steps": flags.max_train_steps, "attributes": faces.attributes}
    near = {"attribute_weight": 30.0, "distance_weight": 0.1, "critic_turns": 2}
    paper = {
        **{"width": 2048, "learning_rate": 1e-4, "critic_turns": 10, "free_share": 0.0},
        **{"ema": None, "max_train_steps": flags.paper_train_steps, "batch_size": 128},
    }
    of_paper = f"Actor, the paper's setting, {flags.paper_train_steps} of 200,000 steps"
    conditional = {
        **faces.controllers(),
        "Actor, distance 0.1": partial(fit, "actor, distance 0.1", Actor, **new, **near),
        "Actor, small (256 x 3)": partial(faces.cloned, "small actor", width=256, depth=3),
        "Actor, no teacher": partial(fit, "actor alone", Actor, attribute_weight=0.3, **new),
        of_paper: partial(fit, "the paper's setting", Actor, **paper),
    }
    return {
        "realism alone: FlowMatching, 8 steps": flow,
        "realism alone: Actor": realism,
        **{f"conditional: {name}": train for name, train in conditional.items()},
    }


def main(flags: Flags) -> None:
    if flags.summary:
        summary(flags.output_dir)
        return
    began, faces = time.monotonic(), FaceBenchmark(flags)
    z, used = faces.starts, faces.latents.posterior_std()

    def measure(name: str, controller: Controller) -> Row:
        targets = None if name.startswith("realism") else faces.test.labels
        started = time.monotonic()
        moved = controller(z, targets)
        x = decode(faces.decoder, moved)
        spent = 1000 * (time.monotonic() - started) / len(z)
        # the paper's shift: mean square in units of the posterior's standard deviation
        weighted = ((moved - z) / used).square().mean().item()
        more = {"milliseconds": spent, "weighted_shift": weighted}
        return report(faces.row(name, moved, x, targets, **more))

    found = {"seed": flags.seed, "samples": []}
    if flags.rows != ("",):
        (found,) = read(flags.output_dir, f"faces-{flags.seed}.json")
    with unchanged(faces.decoder):
        made = controllers(faces, flags).items()
        new = [measure(name, train()) for name, train in made if name.startswith(flags.rows)]
        if flags.rows == ("",):
            judged = faces.real, faces.reconstructed, faces.mean
            data = faces.decoder, faces.latents, faces.test, faces.judges
            found["samples"] = reference_rows(*data, *judged)
            found["edits"] = [report(row) for row in faces.edits()]
            same = already_satisfied(faces.conditional, faces.test)
            found["already_satisfied_identical"] = same
    found["samples"] = list({row["name"]: row for row in found["samples"] + new}.values())
    found["cpu_seconds"] = {**found.get("cpu_seconds", {}), **faces.seconds}
    found["wall_seconds"] = time.monotonic() - began
    write(flags.output_dir / f"faces-{flags.seed}.json", found)


def already_satisfied(conditional: Conditional, test: Faces) -> float:
    """Share of edits that request what holds already and return the reconstruction bit for bit."""
    x = test.pixels(slice(200))
    decoder = conditional.decoder
    probability = conditional.score(x)
    equal, count = 0, 0
    for column, name in enumerate(conditional.names):
        holds = (probability[:, column] >= conditional.threshold).nonzero().flatten()[:32]
        if len(holds):
            out = conditional.edit(x[holds], **{name: True})
            plain = decoder.decode(decoder.encode(x[holds]).mean)
            equal += int((out.x == plain).flatten(1).all(1).sum())
            count += len(holds)
    return equal / count


def summary(folder: Path) -> None:
    """Prints the tables of all seeds in a folder."""
    runs = read(folder, "faces-*.json")
    if not runs:
        raise InputError(f"There is no faces-*.json in {folder}; run the benchmark first.")
    print(f"Seeds {', '.join(str(run['seed']) for run in runs)}.\n")
    samples = {**SAMPLE_COLUMNS, "weighted_shift": "weighted shift"}
    for part, columns in (("samples", samples), ("edits", EDIT_COLUMNS)):
        print(table(by_name(run[part] for run in runs), columns), end="\n\n")
    same = cell([run["already_satisfied_identical"] for run in runs])
    print(f"Edits already satisfied that come back bit-identical: {same}\n")
    costs = [[{"name": k, "s": v} for k, v in run["cpu_seconds"].items()] for run in runs]
    print(table(by_name(costs), {"name": "", "s": "CPU seconds"}))


if __name__ == "__main__":
    run(main, Flags)

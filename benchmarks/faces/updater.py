"""The updater among the controllers: conditional faces and edits, quality against cost.

    LATENTCTL_DATA=... python -m benchmarks.faces.updater --seed 0

The frozen base, the faces and the judges are those of `benchmarks/faces/conditional.py`. One
updater is trained on demonstrations of a flow matching, another on those of gradient ascent, half
of them edits; both make five evaluations. `move` is the milliseconds of a sample without the
decoder, median of the rounds. Writes a JSON file and a plot of quality against cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.faces.controllers import FaceBenchmark, FaceFlags
from benchmarks.shared.base import decode
from benchmarks.shared.run import Row, in_turns, report, run, write
from latentctl import Updater
from latentctl.controllers import Request
from recipes.support.figures import drawing, png_of


@dataclass
class Flags(FaceFlags):
    teacher_train_steps: int = 1500
    demonstration_steps: int = 1500
    updater_train_steps: int = 2500
    requests: int = 10_000  # Demonstrations of each updater.
    rounds: int = 3  # How often each controller is timed.
    output_dir: Path = Path("outputs/updater_faces")


def main(flags: Flags) -> None:
    faces = FaceBenchmark(flags)
    controllers = {name: make() for name, make in faces.controllers().items()}
    sizes = {"requests": flags.requests, "max_train_steps": flags.updater_train_steps}
    of_flow = faces.fit("updater of the flow", Updater, teacher=faces.flow, **sizes)
    climbing = {"teacher": faces.ascent, "attributes": faces.attributes, "threshold": 0.99}
    of_ascent = faces.fit("updater of ascent", Updater, **climbing, **sizes)
    controllers |= {"Updater of the flow, 5": of_flow, "Updater of ascent, 5": of_ascent}
    request = Request(target=faces.test.labels)
    moves, seconds = in_turns(
        {name: partial(c.move, faces.starts, request) for name, c in controllers.items()},
        flags.rounds,
    )
    rows = []
    for name, move in moves.items():
        wall = median(spent[1] for spent in seconds[name])
        spent = {
            "evaluations": move.evaluations.float().mean().item(),
            "move": 1000 * wall / len(faces.starts),
        }
        x = decode(faces.decoder, move.z)
        rows.append(faces.row(name, move.z, x, faces.test.labels, **spent))
    edits = faces.edits(
        {
            "gradient ascent, others held": faces.ascent,
            "Updater of ascent, others held": of_ascent,
            "Actor, others held": faces.actor,
        }
    )
    for row in rows + edits:
        report(row)
    result = {"seed": flags.seed, "samples": rows, "edits": edits, "cpu_seconds": faces.seconds}
    file = flags.output_dir / f"updater_faces-{flags.seed}.json"
    write(file, result)
    frontier(rows, file.with_suffix(".png"))


def frontier(rows: list[Row], file: Path) -> None:
    """Draws Frechet distance and errors of the judge against milliseconds of a move."""
    with drawing(110, (9, 3.6)) as figure:
        axes = figure.subplots(1, 2)
        for axis, title in zip(axes, ("Frechet distance", "attributes wrong"), strict=True):
            for row in rows:
                ours = "Updater" in row["name"]
                value = row["fid"] if axis is axes[0] else 1 - row["accuracy"]
                axis.plot(row["move"], value, "o", color="C3" if ours else "C0")
                axis.annotate(
                    row["name"].split(",")[0],
                    (row["move"], value),
                    xytext=(5, -11 if ours else 4),
                    textcoords="offset points",
                    fontsize=8,
                )
            axis.set(xscale="log", title=f"{title}, by the judge", xlim=(0.02, 20))
            axis.set_xlabel("milliseconds of a move, without the decoder")
        file.write_bytes(png_of(figure))


if __name__ == "__main__":
    run(main, Flags)

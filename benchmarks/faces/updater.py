"""The updater among the controllers: conditional faces and edits, quality against cost.

    LATENTCTL_DATA=... python benchmarks/updater_faces.py --seed 0

The frozen base, the faces and the judges are those of `benchmarks/faces.py`. One updater learned
the moves of a flow matching, another those of gradient ascent, half of them edits; both make five
evaluations. `move` is the milliseconds of a sample without the decoder, median of the rounds.
Writes a JSON file and a plot of quality against cost.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.pixels.face_networks import FaceDetector, FaceEmbedder

import latentctl
from benchmarks.faces.conditional import Trained
from benchmarks.shared.face_base import data_folder, load_face_vae
from benchmarks.shared.face_judge import load_judge
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching, Gaussian, Updater
from latentctl.controllers import Controller, Transport
from recipes.support.celeba_attrs.report import edit_rows
from recipes.support.face_evaluation import Judges, decode, encode, sample_row
from recipes.support.faces import DataFlags, Faces, load_faces


@dataclass
class Flags:
    """Quality against cost of every controller."""

    seed: int = 0
    threads: int = 1
    teacher_train_steps: int = 1500
    lessons: int = 1500
    updater_train_steps: int = 2500
    requests: int = 10_000
    num_edits: int = 100
    rounds: int = 3
    output_dir: Path = Path("outputs/updater_faces")


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    faces = load_faces(DataFlags(train_data_dir=str(data_folder() / "celeba64")))
    test: Faces = faces["test"]
    decoder = latentctl.wrap(load_face_vae())
    cache = flags.output_dir / "cache"
    latents = latentctl.encode_dataset(
        decoder, faces["train"].mirrored(), cache, attributes=test.names, batch_size=128
    )[:]
    weights = data_folder().parent / "weights"
    judges = Judges(
        load_judge(),
        FaceEmbedder(weights / "mobilefacenet" / "MobileFaceNet.onnx"),
        FaceDetector(weights / "yunet" / "yunet_n_320_320.onnx"),
    )
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = work()
        seconds[name] = time.process_time() - started
        print(f"{name}: {seconds[name]:.0f} s of CPU", flush=True)
        return result

    common: dict[str, Any] = {"seed": flags.seed}
    attributes = timed(
        "attribute critic", lambda: AttributeCritic.fit(latents, max_train_steps=1000, **common)
    )
    flow = timed(
        "flow matching",
        lambda: FlowMatching.fit(latents, max_train_steps=flags.teacher_train_steps, **common),
    )
    actor = timed(
        "actor",
        lambda: Actor.fit(
            latents,
            teacher=flow,
            lessons=flags.lessons,
            attributes=attributes,
            attribute_weight=0.3,
            critic_turns=2,
            actor_learning_rate=3e-5,
            max_train_steps=150,
            **common,
        ),
    )
    ascent = Ascent(attributes, actor.realism)
    sizes = {
        "requests": flags.requests,
        "max_train_steps": flags.updater_train_steps,
        **common,
    }
    of_flow = timed("updater of the flow", lambda: Updater.fit(latents, flow, **sizes))
    of_ascent = timed(
        "updater of ascent",
        lambda: Updater.fit(latents, ascent, attributes=attributes, threshold=0.99, **sizes),
    )
    controllers: dict[str, Controller] = {
        "Actor": actor,
        "FlowMatching, 8 steps": flow,
        "Updater of the flow, 5": of_flow,
        "Updater of ascent, 5": of_ascent,
        "Ascent, 100 steps": ascent,
        "Transport (ODE), 25 steps": Transport(attributes),
    }
    real, reconstructed = judges(test.pixels()), judges(decode(decoder, encode(decoder, test)))
    z = Gaussian(decoder.latent_shape).sample(len(test), seed=3)
    times: dict[str, list[float]] = {name: [] for name in controllers}
    moved = {}
    for _ in range(flags.rounds):
        for name, controller in controllers.items():
            started = time.perf_counter()
            moved[name] = controller.move(z, test.labels)
            times[name].append(1000 * (time.perf_counter() - started) / len(z))
    rows = []
    for name, move in moved.items():
        spent = {
            "shift": (move.z - z).square().mean(1).sqrt().mean().item(),
            "evaluations": move.evaluations.float().mean().item(),
            "move": statistics.median(times[name]),
        }
        images = decode(decoder, move.z)
        rows.append(sample_row(name, judges(images), test.labels, real, reconstructed, **spent))
    trained = Trained(attributes, actor, latentctl.condition(decoder, attributes, actor))
    editors = {
        "gradient ascent, others held": ascent,
        "Updater of ascent, others held": of_ascent,
        "Actor, others held": actor,
    }
    edits, _ = edit_rows(trained, latents, test, judges, flags.num_edits, editors)
    for row in rows + edits:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    result = {"seed": flags.seed, "samples": rows, "edits": edits, "cpu_seconds": seconds}
    file = flags.output_dir / f"updater_faces-{flags.seed}.json"
    file.write_text(json.dumps(result, indent=1))
    frontier(rows, file.with_suffix(".png"))


def frontier(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws Frechet distance and errors of the judge against milliseconds of a move."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, key, title in zip(
        figure.subplots(1, 2),
        ("fid", "wrong"),
        ("Frechet distance", "attributes that the judge sees wrong"),
        strict=True,
    ):
        for row in rows:
            ours = "Updater" in row["name"]
            value = 1 - row["accuracy"] if key == "wrong" else row["fid"]
            axis.plot(row["move"], value, "o", color="C3" if ours else "C0")
            axis.annotate(
                row["name"].split(",")[0],
                (row["move"], value),
                xytext=(5, -11 if ours else 4),
                textcoords="offset points",
                fontsize=8,
            )
        axis.set(xscale="log", title=title, xlabel="milliseconds of a move, without the decoder")
        axis.set_xlim(0.02, 20)
        axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

"""Conditional samples and edits of real faces on the frozen face VAE, judged from outside.

    LATENTCTL_DATA=... python benchmarks/judge.py
    LATENTCTL_DATA=... python benchmarks/faces.py --seed 0

One run trains everything of one seed, measures every row in the same process, and writes
`faces-SEED.json` into `--output_dir`. `benchmarks/summary.py` makes the table of several seeds.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.pixels.face_networks import FaceDetector, FaceEmbedder
from torch import Tensor

import latentctl
from benchmarks.shared.face_base import data_folder, load_face_vae
from benchmarks.shared.face_judge import load_judge
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching
from latentctl.controllers import Controller, Transport
from recipes.support.celeba_attrs.report import edit_rows, reference_rows
from recipes.support.face_evaluation import Judges, cost, decode, encode, sample_row
from recipes.support.faces import DataFlags, Faces, load_faces


@dataclass
class Flags:
    seed: int = 0
    threads: int = 1
    output_dir: Path = Path("outputs/faces")
    teacher_train_steps: int = 2500
    lessons: int = 2000
    max_train_steps: int = 900
    """Steps of the game of actors without a teacher."""
    actor_train_steps: int = 150
    """Steps of a taught actor's game after its lessons; more raise accuracy and cost realism."""
    realism_train_steps: int = 0
    paper_train_steps: int = 22
    """Steps at the paper's sizes; it plays for 200,000, which takes days on two cores."""
    num_edits: int = 100
    update: bool = False
    """Only measure realism alone and the distance penalty again, into an existing file."""


@dataclass
class Trained:
    """What `showcase.edit_rows` measures."""

    attributes: AttributeCritic
    realism_actor: Actor
    conditional: latentctl.Conditional


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    began = time.monotonic()
    faces = load_faces(DataFlags(train_data_dir=str(data_folder() / "celeba64")))
    test: Faces = faces["test"]
    decoder = latentctl.wrap(load_face_vae())
    fingerprint = decoder.fingerprint()
    cache = flags.output_dir / "cache"
    latents = latentctl.encode_dataset(
        decoder, faces["train"].mirrored(), cache, attributes=test.names, batch_size=128
    )
    latents = latents[:]  # in memory: 14,150 x 256
    weights = data_folder().parent / "weights"
    judges = Judges(
        load_judge(),
        FaceEmbedder(weights / "mobilefacenet" / "MobileFaceNet.onnx"),
        FaceDetector(weights / "yunet" / "yunet_n_320_320.onnx"),
    )
    seconds: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        started = time.process_time()
        result = work()
        seconds[name] = time.process_time() - started
        print(f"{name}: {seconds[name]:.0f} s of CPU", flush=True)
        return result

    attributes = timed(
        "attribute critic",
        lambda: AttributeCritic.fit(latents, max_train_steps=1000, seed=flags.seed),
    )
    unlabelled = latents.select([])
    unconditional = timed(
        "flow matching of realism alone",
        lambda: FlowMatching.fit(
            unlabelled, max_train_steps=flags.teacher_train_steps, seed=flags.seed
        ),
    )
    gentle: dict[str, Any] = {
        "lessons": flags.lessons,
        "critic_turns": 2,
        "actor_learning_rate": 3e-5,
        "seed": flags.seed,
    }
    realism_actor = timed(
        "realism actor",
        lambda: Actor.fit(
            unlabelled,
            teacher=unconditional,
            max_train_steps=flags.realism_train_steps,
            **{**gentle, "critic_turns": 5, "head_start": 0},
        ),
    )
    near = timed(
        "actor, distance 0.1",
        lambda: Actor.fit(
            latents,
            attributes=attributes,
            attribute_weight=30.0,
            distance_weight=0.1,
            max_train_steps=flags.max_train_steps,
            critic_turns=2,
            seed=flags.seed,
        ),
    )
    others: dict[str, Controller] = {"conditional: Actor, distance 0.1": near}
    if not flags.update:
        teacher = timed(
            "flow matching",
            lambda: FlowMatching.fit(
                latents, max_train_steps=flags.teacher_train_steps, seed=flags.seed
            ),
        )
        conditional: dict[str, Any] = {
            **gentle,
            "teacher": teacher,
            "attributes": attributes,
            "attribute_weight": 0.3,
            "max_train_steps": flags.actor_train_steps,
        }
        actor = timed("actor", lambda: Actor.fit(latents, **conditional))
        small = timed("small actor", lambda: Actor.fit(latents, width=256, depth=3, **conditional))
        alone = timed(
            "actor, no teacher",
            lambda: Actor.fit(
                latents,
                attributes=attributes,
                attribute_weight=0.3,
                max_train_steps=flags.max_train_steps,
                seed=flags.seed,
            ),
        )
        paper = timed(
            "the paper's preset",
            lambda: Actor.fit(
                latents,
                width=2048,
                learning_rate=1e-4,
                critic_turns=10,
                free_share=0.0,
                ema=None,
                max_train_steps=flags.paper_train_steps,
                batch_size=128,
                seed=flags.seed,
            ),
        )
        steps = f"{flags.paper_train_steps} of 200,000 steps"
        others = {
            "conditional: Actor": actor,
            "conditional: FlowMatching, 8 steps": teacher,
            **others,
            "conditional: Actor, small (256 x 3)": small,
            "conditional: Actor, no teacher": alone,
            f"conditional: Actor, paper's preset, {steps}": paper,
            "conditional: Ascent, realism 0.05, 100 steps": Ascent(attributes, actor.realism),
            "conditional: Transport (ODE), 25 steps": Transport(attributes),
        }

    mean = encode(decoder, test)
    real, reconstructed = judges(test.pixels()), judges(decode(decoder, mean))
    z = decoder.prior.sample(len(test), seed=3)
    used = latents.posterior_std()
    rows = []

    def measure(name: str, controller: Controller, targets: Tensor | None) -> None:
        started = time.monotonic()
        moved = controller(z, targets)
        x = decode(decoder, moved)
        # the paper's shift: mean square in units of the posterior's spread
        weighted = ((moved - z) / used).square().mean().item()
        spent = {**cost(z, moved, started), "weighted_shift": weighted}
        rows.append(sample_row(name, judges(x), targets, real, reconstructed, **spent))

    measure("realism alone: FlowMatching, 8 steps", unconditional, None)
    measure("realism alone: Actor", realism_actor, None)
    for name, controller in others.items():
        measure(name, controller, test.labels)
    file = flags.output_dir / f"faces-{flags.seed}.json"
    if flags.update:
        update(file, rows, seconds)
        return
    rows = reference_rows(decoder, latents, test, judges, real, reconstructed, mean) + rows
    chosen = Trained(attributes, realism_actor, latentctl.condition(decoder, attributes, actor))
    edits, _ = edit_rows(chosen, latents, test, judges, flags.num_edits)
    same = already_satisfied(chosen.conditional, test)
    if decoder.fingerprint() != fingerprint:
        raise latentctl.errors.FingerprintError("The frozen decoder has changed.")

    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    for row in edits:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    result = {
        "seed": flags.seed,
        "samples": rows,
        "edits": edits,
        "already_satisfied_identical": same,
        "cpu_seconds": seconds,
        "wall_seconds": time.monotonic() - began,
    }
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2))


def update(file: Path, rows: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    """Puts new rows in the place of old ones of the same name, or of the same beginning."""
    result = json.loads(file.read_text())
    kept = [
        row
        for row in result["samples"]
        if not any(
            row["name"].split(":")[0] == "realism alone" or row["name"] == new["name"]
            for new in rows
        )
    ]
    place = next(i for i, row in enumerate(kept) if row["name"].startswith("conditional"))
    result["samples"] = kept[:place] + rows[:2] + kept[place:] + rows[2:]
    result["cpu_seconds"] |= seconds
    file.write_text(json.dumps(result, indent=2))


def already_satisfied(conditional: latentctl.Conditional, test: Faces) -> float:
    """Share of edits asking for what holds already that return the reconstruction bit for bit."""
    x = test.pixels(slice(200))
    decoder = conditional.decoder
    probability = conditional.score(x)
    equal, asked = 0, 0
    for column, name in enumerate(conditional.names):
        holds = (probability[:, column] >= conditional.threshold).nonzero().flatten()[:32]
        if len(holds) == 0:
            continue
        out = conditional.edit(x[holds], **{name: True})
        plain = decoder.decode(decoder.encode(x[holds]).mean)
        equal += int((out.x == plain).flatten(1).all(1).sum())
        asked += len(holds)
    return equal / asked


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

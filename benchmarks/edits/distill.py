"""Distil networks on pixels into a critic of latents, through the frozen face VAE.

    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks
    LATENTCTL_DATA=... python -m benchmarks.edits.distill --seed 0

Writes the folder `student-SEED` into `--output_dir`, for `benchmarks/edits/run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

import latentctl
from benchmarks.shared.base import encode
from benchmarks.shared.face_base import ATTRIBUTES, face_decoder, load_faces
from benchmarks.shared.face_networks import load_teachers
from benchmarks.shared.run import SeededFlags, report, run, timed, write
from latentctl import AttributeCritic, Decoder, Latents


@dataclass
class TeachFlags:
    samples: int = 16_000  # Latents of the first round of distillation.
    samples_per_round: int = 8_000  # Edits of each further round.
    rounds: int = 1
    width: int = 1024
    depth: int = 3
    max_train_steps: int = 2000  # In each round, the first included.
    gradient_weight: float = 1.0
    batch_size: int = 256
    learning_rate: float = 1e-3


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/edits")
    teach: TeachFlags = field(default_factory=TeachFlags)


def training_latents(decoder: Decoder) -> Latents:
    """Encodings of the training faces and of their mirror images, with labels."""
    splits = [load_faces(split) for split in ("train", "realigned")]
    images = torch.cat([x for faces, _, _ in splits for x in (faces, faces.flip(-1))])
    labels = torch.cat([labels.repeat(2, 1) for _, labels, _ in splits])
    return encode(decoder, images, labels, ATTRIBUTES)


def distill(decoder: Decoder, latents: Latents, folder: Path, seed: int, flags: TeachFlags) -> None:
    """Writes the student of the networks on pixels to a folder."""
    teachers = load_teachers(decoder)
    student, seconds = timed(latentctl.distill, teachers, latents, seed=seed, **vars(flags))
    student.save(folder / f"student-{seed}")
    write(folder / f"student-{seed}.json", report({"seed": seed, "cpu_seconds": seconds}))


def load_student(folder: Path, seed: int) -> AttributeCritic:
    """The critic that `distill` wrote."""
    return AttributeCritic.load(folder / f"student-{seed}")


def main(flags: Flags) -> None:
    decoder = face_decoder()
    latents = training_latents(decoder)
    distill(decoder, latents, flags.output_dir, flags.seed, flags.teach)


if __name__ == "__main__":
    run(main, Flags)

"""Train the networks on pixels that teach, refine and audit edits, none of which is the judge.

Four small networks of four architectures, on real training faces and their reconstructions by the
frozen base. The first three teach and refine; no edit ever climbs the last one, which signs
receipts. The judge (`benchmarks/judge.py`) is a fifth, of another size and another seed, that has
seen no reconstruction.

    LATENTCTL_DATA=... python benchmarks/teachers.py --numbers 0 1 2 3
"""

from __future__ import annotations

__all__ = ["AUDITOR", "NETWORKS", "TEACHERS", "load_network", "main"]

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.pixels.classifier import PixelClassifier

from benchmarks.shared.face_base import ATTRIBUTES, load_face_vae, load_faces, reconstruct
from benchmarks.shared.face_judge import probabilities
from latentctl.evaluation import multilabel_scores

NETWORKS: list[dict[str, Any]] = [
    {
        "model_name": "resnet18",
        "model_options": {"channels": (32, 64, 128, 256), "act_layer": "silu"},
    },
    {"model_name": "regnety_004", "model_options": {}},
    {
        "model_name": "resnet10t",
        "model_options": {"channels": (48, 96, 160, 256), "act_layer": "gelu"},
    },
    {
        "model_name": "resnet18d",
        "model_options": {"channels": (40, 80, 160, 288), "act_layer": "gelu"},
    },
]
TEACHERS, AUDITOR = (0, 1, 2), 3
FIRST_SEED = 100


def default_folder() -> Path:
    """`LATENTCTL_TEACHERS`, or a folder in the user's cache."""
    return Path(os.environ.get("LATENTCTL_TEACHERS", "~/.cache/latentctl/teachers")).expanduser()


def load_network(number: int, folder: Path | None = None) -> PixelClassifier:
    """Network `number`, as this script wrote it."""
    return PixelClassifier.load((folder or default_folder()) / f"teacher{number}")


@dataclass
class Flags:
    numbers: tuple[int, ...] = (0, 1, 2, 3)
    """Which of the networks to train."""
    output_dir: Path = field(default_factory=default_folder)
    max_train_seconds: float = 1000
    """For each network; the schedule ends there."""
    epochs: int = 8
    threads: int = 1


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    vae = load_face_vae()
    parts = [load_faces("train"), load_faces("realigned")]
    images, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    drawn = (reconstruct(vae, images) * 255).round().to(torch.uint8)
    for number in flags.numbers:
        network = PixelClassifier.fit(
            torch.cat([images, drawn]),
            torch.cat([labels, labels]),
            ATTRIBUTES,
            epochs=flags.epochs,
            max_train_seconds=flags.max_train_seconds,
            batch_size=128,
            learning_rate=2e-3,
            seed=FIRST_SEED + number,
            progress=True,
            **NETWORKS[number],
        )
        network.save(flags.output_dir / f"teacher{number}")
        real, target, _ = load_faces("validation")
        for kind, x in {"originals": real, "reconstructions": reconstruct(vae, real)}.items():
            scores = multilabel_scores(probabilities(network, x), target, names=ATTRIBUTES)
            print(f"{number} {kind:<16} {scores.accuracy:.4f} {scores.f1:.4f}", flush=True)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

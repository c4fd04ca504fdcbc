"""Train the attribute judge of the face benchmarks on real pixels, and score it.

It learns ten CelebA attributes from real training faces, blurred, coarsened and noised at random,
and never sees a latent or a reconstruction. Its scores on real test faces and on the frozen
base's *reconstructions* of them are the ceiling of every figure that it judges.

    LATENTCTL_DATA=data python benchmarks/judge.py --output_dir judge --max_train_seconds 2400
"""

from __future__ import annotations

__all__ = ["JudgeFlags", "default_folder", "load_judge", "main", "probabilities"]

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import Tensor

from benchmarks.shared.face_base import ATTRIBUTES, load_face_vae, load_faces, reconstruct
from latentctl.evaluation import multilabel_scores


def default_folder() -> Path:
    """`LATENTCTL_JUDGE`, or a folder in the user's cache."""
    return Path(os.environ.get("LATENTCTL_JUDGE", "~/.cache/latentctl/judge")).expanduser()


@dataclass
class JudgeFlags:
    output_dir: Path = field(default_factory=default_folder)
    """Where the judge is written."""
    max_train_seconds: float = 2400
    """Seconds of training at most."""
    epochs: int = 24
    """Passes over the training faces at most."""
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0
    threads: int = 1
    """CPU threads of torch."""


def load_judge(path: Path | None = None) -> PixelClassifier:
    """The judge that `benchmarks/judge.py` wrote."""
    return PixelClassifier.load(path or default_folder())


@torch.no_grad()
def probabilities(judge: PixelClassifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """The judge's probabilities `(N, K)` of uint8 images or of floats in [0, 1]."""
    scale = 255 if images.dtype == torch.uint8 else 1
    return torch.cat([judge.probability(x.float() / scale) for x in images.split(batch_size)])


def main(flags: JudgeFlags) -> PixelClassifier:
    torch.set_num_threads(flags.threads)
    parts = [load_faces("train"), load_faces("realigned")]
    images, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    print(f"{len(images)} training faces, {flags.threads} thread(s)", flush=True)
    judge = PixelClassifier.fit(
        images,
        labels,
        ATTRIBUTES,
        epochs=flags.epochs,
        max_train_seconds=flags.max_train_seconds,
        batch_size=flags.batch_size,
        learning_rate=flags.learning_rate,
        seed=flags.seed,
        progress=True,
    )
    vae = load_face_vae()
    print(f"{'faces':<28} accuracy  macro F1", flush=True)
    for split in ("validation", "test"):
        real, target, _ = load_faces(split)
        kinds = {"originals": real, "reconstructions": reconstruct(vae, real)}
        for kind, faces in kinds.items():
            scores = multilabel_scores(probabilities(judge, faces), target, names=ATTRIBUTES)
            judge.scores[f"{split}_{kind}_accuracy"] = scores.accuracy
            judge.scores[f"{split}_{kind}_f1"] = scores.f1
            print(f"{split + ' ' + kind:<28} {scores.accuracy:8.4f}  {scores.f1:8.4f}")
            if split == "test":
                for name, row in scores.per_attribute.items():
                    print(f"    {name:<24} {row.accuracy:8.4f}  {row.f1:8.4f}")
    judge.save(flags.output_dir)
    print(f"written to {flags.output_dir}")
    return judge


if __name__ == "__main__":
    import tyro

    main(tyro.cli(JudgeFlags))

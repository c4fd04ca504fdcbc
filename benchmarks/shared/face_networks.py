"""Train the networks on pixels of the face benchmarks: the judge, three teachers, an evaluator.

All are trained on ten CelebA attributes of real training faces, blurred, coarsened and noised at
random, and never on a latent. The judge evaluates every benchmark of faces; its scores on
reconstructions of test faces by the frozen base bound all figures. The teachers are distilled and
refine edits, and no edit ever ascends the evaluator, which scores receipts: these four have other
architectures, and are trained on reconstructions as well, which the judge is not.

    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks
    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks --names judge

They are written to `LATENTCTL_NETWORKS`, or a folder in the user's cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.pixels.classifier import PixelClassifier
from latentctl_adapters.pixels.face_networks import FaceDetector, FaceEmbedder
from torch import Tensor

from benchmarks.shared.base import BATCH, pixels, reconstruct, weights_file
from benchmarks.shared.face_base import ATTRIBUTES, face_decoder, load_faces
from benchmarks.shared.run import BaseFlags, run, table
from latentctl import Decoder, PixelCritic
from latentctl.evaluation import multilabel_scores
from recipes.support.face_evaluation import Judges

NETWORKS: dict[str, tuple[int, str, dict[str, Any] | None]] = {  # seed, architecture, options
    "judge": (0, "resnet18", None),
    "teacher0": (100, "resnet18", {"channels": (32, 64, 128, 256), "act_layer": "silu"}),
    "teacher1": (101, "regnety_004", {}),
    "teacher2": (102, "resnet10t", {"channels": (48, 96, 160, 256), "act_layer": "gelu"}),
    "evaluator": (103, "resnet18d", {"channels": (40, 80, 160, 288), "act_layer": "gelu"}),
}


def networks_folder() -> Path:
    return Path(os.environ.get("LATENTCTL_NETWORKS", "~/.cache/latentctl/networks")).expanduser()


@dataclass
class Flags(BaseFlags):
    output_dir: Path = field(default_factory=networks_folder)
    names: tuple[str, ...] = tuple(NETWORKS)  # Which of the networks to train.
    max_train_seconds: float | None = None
    """For each network; the schedule ends there. 2,400 for the judge and 1,000 by default."""


def load_network(name: str) -> PixelClassifier:
    return PixelClassifier.from_pretrained(networks_folder() / name)


def load_teachers(decoder: Decoder) -> PixelCritic:
    """The teachers through a decoder."""
    return PixelCritic(decoder, *(load_network(f"teacher{number}") for number in range(3)))


def load_evaluator(decoder: Decoder) -> PixelCritic:
    """The evaluator through a decoder, calibrated on reconstructions of validation faces."""
    images, labels, _ = load_faces("validation")
    critic = PixelCritic(decoder, load_network("evaluator"))
    return critic.calibrate(reconstruct(decoder, images), labels)


def load_judges() -> Judges:
    """The attribute judge, a face recognition network and a face detector."""
    return Judges(
        load_network("judge"),
        FaceEmbedder(weights_file("mobilefacenet/MobileFaceNet.onnx")),
        FaceDetector(weights_file("yunet/yunet_n_320_320.onnx")),
    )


@torch.no_grad()
def judge_images(judges: Judges, x: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities `(B, K)` and embeddings of length 1 of images in [0, 1]."""
    parts = x.split(BATCH)
    probability = torch.cat([judges.attributes.probability(part) for part in parts])
    return probability, torch.cat([judges.embedder(part) for part in parts])


def faces_found(judges: Judges, x: Tensor) -> float:
    """Share of images in which the detector finds a face."""
    return torch.cat([judges.detector.found(part) for part in x.split(64)]).float().mean().item()


@torch.no_grad()
def measure(network: PixelClassifier, decoder: Decoder) -> None:
    """Scores on held-out faces and on their reconstructions, printed and stored in the network."""
    rows = []
    for split in ("validation", "test"):
        real, target, _ = load_faces(split)
        for kind, x in {"originals": real, "reconstructions": reconstruct(decoder, real)}.items():
            found = torch.cat([network.probability(pixels(part)) for part in x.split(BATCH)])
            scores = multilabel_scores(found, target, names=ATTRIBUTES)
            network.scores[f"{split}_{kind}_accuracy"] = scores.accuracy
            network.scores[f"{split}_{kind}_f1"] = scores.f1
            for name, score in {f"{split} {kind}": scores, **scores.per_attribute}.items():
                rows.append({"name": name, "accuracy": score.accuracy, "macro F1": score.f1})
    print(table(rows), flush=True)


def main(flags: Flags) -> None:
    decoder = face_decoder()
    parts = [load_faces(split) for split in ("train", "realigned")]
    images, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    both = torch.cat([images, (255 * reconstruct(decoder, images)).round().byte()])
    for name in flags.names:
        seed, model, options = NETWORKS[name]
        epochs, seconds = (24, 2400.0) if name == "judge" else (8, 1000.0)
        data = (images, labels) if name == "judge" else (both, labels.repeat(2, 1))
        network = PixelClassifier.fit(
            *data,
            ATTRIBUTES,
            model_name=model,
            model_options=options,
            epochs=epochs,
            max_train_seconds=flags.max_train_seconds or seconds,
            seed=seed,
        )
        print(f"{name}, on {len(data[0])} images", flush=True)
        measure(network, decoder)
        network.save_pretrained(flags.output_dir / name)


if __name__ == "__main__":
    run(main, Flags)

"""Evaluation of samples and edits by independent networks on pixels: rows of the reports' tables.

The attribute judge is a timm network trained on real images; none of the judges sees a latent.
Where their files are given, a face recognition network measures identity and a detector counts
faces. The Frechet distance, precision, recall, density and coverage are computed in the penultimate
features of the attribute judge.
"""

from __future__ import annotations

__all__ = [
    "JudgeFlags",
    "Judged",
    "Judges",
    "cost",
    "decode",
    "edit_row",
    "encode",
    "load_judges",
    "sample_row",
]

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from latentctl_adapters import embedded
from latentctl_adapters.pixels.classifier import PixelClassifier
from latentctl_adapters.pixels.face_networks import FaceDetector, FaceEmbedder
from torch import Tensor

import latentctl
from latentctl.evaluation import (
    density_coverage,
    edit_scores,
    frechet_distance,
    identity,
    multilabel_scores,
    precision_recall,
)

from .faces import Faces

logger = logging.getLogger(__name__)


@dataclass
class JudgeFlags:
    """The networks that evaluate samples and edits."""

    judge: str | None = None
    """A folder of a pixel classifier; if not given the one that ships with the package for drawn
    faces, and one trained here for others."""
    judge_train_seconds: float = 45.0  # Seconds of that training.
    identity_model: str | None = None
    """An ONNX file of MobileFaceNet; identity is measured in the judge's features if not given."""
    detector_model: str | None = None  # An ONNX file of YuNet; faces are not counted if not given.


@dataclass(frozen=True)
class Judged:
    """Outputs of the judges for a batch of images."""

    features: Tensor
    probability: Tensor
    embedding: Tensor | None
    found: Tensor | None


@dataclass(frozen=True)
class Judges:
    """The judges, called on images `(B, 3, h, w)` in [0, 1]; embeddings only if `identity`."""

    attributes: PixelClassifier
    embedder: Callable[[Tensor], Tensor] | None = None
    detector: FaceDetector | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, *, identity: bool = False) -> Judged:
        parts = x.clamp(0, 1).cpu().split(128)

        def each(network: Callable[[Tensor], Tensor]) -> Tensor:
            return torch.cat([network(part) for part in parts])

        features = each(self.attributes.features)
        embedding = None
        if identity:
            embedding = features if self.embedder is None else each(self.embedder)
        found = None if self.detector is None else each(self.detector.found)
        return Judged(features, each(self.attributes.probability), embedding, found)

    @property
    def identity_name(self) -> str:
        """The vectors whose cosine is the identity."""
        return "MobileFaceNet embeddings" if self.embedder else "features of the attribute judge"


def load_judges(
    flags: JudgeFlags,
    train: Faces,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    drawn: bool = False,
) -> Judges:
    """The judges that the flags name; without a folder the attribute judge is trained.

    For `drawn` faces of 64 pixels it is the one that ships with the package.
    """
    if flags.judge is not None or (drawn and train.images.shape[-1] == 64):
        if flags.judge is None:
            attributes = embedded.judge()
        else:
            attributes = PixelClassifier.from_pretrained(flags.judge)
        if missing := [n for n in train.names if n not in attributes.names]:
            logger.warning(
                "The judge at %s lacks the attributes %s.", flags.judge, ", ".join(missing)
            )
        else:
            attributes = attributes.select(train.names)
    else:
        attributes = PixelClassifier.fit(
            train.images,
            train.labels,
            train.names,
            max_train_seconds=flags.judge_train_seconds,
            seed=seed,
            accelerator=accelerator,
        )
    small = train.images.shape[-2:] == (64, 64)
    embedder = flags.identity_model if small and flags.identity_model else None
    detector = flags.detector_model if small and flags.detector_model else None
    return Judges(
        attributes,
        FaceEmbedder(embedder, threads=2) if embedder else None,
        FaceDetector(detector, threads=2) if detector else None,
    )


def sample_row(
    name: str,
    judged: Judged,
    targets: Tensor | None,
    real: Judged,
    reconstructed: Judged,
    **more: Any,
) -> dict[str, Any]:
    """A row of the table of samples, with targets `(B, K)` or None.

    The reference of the Frechet distance are real images; that of precision, recall, density and
    coverage their reconstructions, since a frozen decoder draws nothing else.
    """
    quality = precision_recall(reconstructed.features, judged.features)
    cover = density_coverage(reconstructed.features, judged.features)
    row = {
        "name": name,
        "fid": frechet_distance(judged.features, real.features),
        "accuracy": None,
        "f1": None,
        "precision": quality.precision,
        "recall": quality.recall,
        "density": cover.density,
        "coverage": cover.coverage,
        "faces": None if judged.found is None else judged.found.float().mean().item(),
        **more,
    }
    if targets is not None:
        scores = multilabel_scores(judged.probability, targets)
        row |= {"accuracy": scores.accuracy, "f1": scores.f1}
    return row


def edit_row(
    name: str, before: Judged, after: Judged, requested: Tensor, **more: Any
) -> dict[str, Any]:
    """A row of the table of edits: `requested (B, K)` has NaN where nothing is requested."""
    scores = edit_scores(before.probability, after.probability, requested)
    kept = None
    if before.embedding is not None and after.embedding is not None:
        kept = identity(before.embedding, after.embedding).mean().item()
    return {
        "name": name,
        "success": scores.success,
        "leakage": scores.leakage,
        "identity": kept,
        "faces": None if after.found is None else after.found.float().mean().item(),
        **more,
    }


def cost(z: Tensor, moved: Tensor, started: float) -> dict[str, float]:
    """Columns of a row: the mean shift of the latents, and the time of each."""
    seconds = time.monotonic() - started
    shift = (moved - z).flatten(1).square().mean(1).sqrt().mean().item()
    return {"shift": shift, "milliseconds": 1000 * seconds / len(z)}


def encode(decoder: latentctl.Decoder, faces: Faces) -> Tensor:
    """Posterior means of faces, `(N, *latent_shape)`."""
    return decoder.encode(faces.pixels(), batch_size=128).mean


@torch.no_grad()
def decode(decoder: latentctl.Decoder, z: Tensor) -> Tensor:
    """Images in [0, 1] of latents, on the CPU."""
    return decoder.decode(z, batch_size=128).cpu().clamp(0, 1)

"""A network on pixels, trained in a minute, and its distillation into the attribute critic."""

from __future__ import annotations

__all__ = ["DistillationFlags", "distilled"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from latentctl_adapters.pixels.classifier import PixelClassifier

import latentctl
from latentctl import AttributeCritic, Latents, PixelCritic

from ..faces import Faces, as_bytes, reconstruct
from ..run import RunFlags

# another architecture than the judge's, so that adversarial edits do not transfer to the judge
TEACHER: dict[str, Any] = {
    "model_name": "resnet10t",
    "model_options": {"channels": (24, 48, 96, 160), "act_layer": "gelu"},
}


@dataclass
class DistillationFlags:
    """Distillation of the attribute critic from a network on pixels."""

    pixel_teacher_train_seconds: float = 0.0
    """Training time of that network on faces and their reconstructions; without it, the critic is
    fitted to the labels of encodings."""
    distillation_samples: int = 8000
    """Latents of the first round; the second has half as many edits made with the student."""
    distillation_train_steps: int = 1000  # Steps of the student in each of the two rounds.


def distilled(
    decoder: latentctl.Decoder,
    faces: Faces,
    latents: Latents,
    flags: DistillationFlags,
    run: RunFlags,
    accelerator: Accelerator,
) -> AttributeCritic:
    """An attribute critic, distilled through the decoder from a network on pixels."""
    folder = Path(run.output_dir) / "pixel_teacher"
    if run.resume_from_checkpoint and folder.exists():
        teacher = PixelClassifier.from_pretrained(folder)
    else:
        pixels = as_bytes(reconstruct(faces.images, decoder), decoder)
        teacher = PixelClassifier.fit(
            torch.cat([faces.images, pixels]),
            torch.cat([faces.labels, faces.labels]),
            faces.names,
            max_train_seconds=flags.pixel_teacher_train_seconds,
            seed=run.seed + 1,
            accelerator=accelerator,
            **TEACHER,
        )
        if accelerator.is_main_process:
            teacher.save_pretrained(folder)
    return latentctl.teach(
        PixelCritic(decoder, teacher),
        latents,
        prior=decoder.prior,
        samples=flags.distillation_samples,
        samples_per_round=max(1, flags.distillation_samples // 2),
        max_train_steps=flags.distillation_train_steps,
        **run.fit_options(accelerator, "distillation"),
    )

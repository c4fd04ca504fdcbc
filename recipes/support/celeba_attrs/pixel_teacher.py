"""A network on pixels, trained in a minute, that teaches the main job's attribute critic."""

from __future__ import annotations

__all__ = ["TeachFlags", "taught"]

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from latentctl_adapters.pixels.classifier import PixelClassifier
from pretrain_vae import RunFlags

import latentctl
from latentctl import AttributeCritic, Latents, PixelCritic

from ..faces import Faces, as_bytes, as_samples

if TYPE_CHECKING:
    from accelerate import Accelerator

# not the judge's architecture: what fools one network should not fool the other
TEACHER: dict[str, Any] = {
    "model_name": "resnet10t",
    "model_options": {"channels": (24, 48, 96, 160), "act_layer": "gelu"},
}


@dataclass
class TeachFlags:
    """A network on pixels that teaches the attribute critic; without one it learns from labels."""

    teacher_train_seconds: float = 0.0
    """How long to train it, on the faces and their reconstructions; 0 for none."""
    pupil_lessons: int = 8000
    """Latents that it teaches on at first; half as many of the pupil's own edits follow."""
    pupil_train_steps: int = 1000
    """Steps of the pupil in each of the two rounds."""


def taught(
    decoder: latentctl.Decoder,
    faces: Faces,
    latents: Latents,
    flags: TeachFlags,
    run: RunFlags,
    accelerator: Accelerator,
) -> AttributeCritic:
    """An attribute critic that a network on pixels has taught, through the decoder."""
    folder = Path(run.output_dir) / "pixel_teacher"
    if accelerator.is_main_process:  # it stops by the clock, so two processes would get two
        with torch.no_grad():
            parts = faces.images.split(128)
            drawn = (decoder.decode(decoder.encode(as_samples(p, decoder)).mean) for p in parts)
            pixels = torch.cat([as_bytes(part.cpu(), decoder) for part in drawn])
        teacher = PixelClassifier.fit(
            torch.cat([faces.images, pixels]),
            torch.cat([faces.labels, faces.labels]),
            faces.names,
            max_train_seconds=flags.teacher_train_seconds,
            seed=run.seed + 1,
            progress=True,
            **TEACHER,
        )
        teacher.save(folder)
    accelerator.wait_for_everyone()
    return latentctl.teach(
        PixelCritic(decoder, PixelClassifier.load(folder)),
        latents,
        prior=decoder.prior,
        lessons=flags.pupil_lessons,
        lessons_per_round=max(1, flags.pupil_lessons // 2),
        max_train_steps=flags.pupil_train_steps,
        **run.fit_options(accelerator, "taught"),
    )

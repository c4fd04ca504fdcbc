"""The critic of the main job and the evaluator of its edits, and how they are trained."""

from __future__ import annotations

__all__ = ["TeachFlags", "taught"]

from dataclasses import dataclass

from accelerate import Accelerator

import latentctl
from latentctl import AttributeCritic, Latents, PixelCritic

from ..faces import Faces
from ..run import RunFlags


@dataclass
class TeachFlags:
    """The critic, distilled from networks on pixels that are trained here (`latentctl.teach`)."""

    teachers: int = 1
    """Networks that it is distilled from; 0 fits it to the labels of encodings alone, which edits
    exploit."""
    network_passes: int | None = 8
    """Passes of each network over the reconstructions; by their number if not given."""
    network_train_seconds: float | None = None  # Most seconds of each network.
    distillation_samples: int = 4000
    """Latents of the first round; the second has half as many edits made with the critic."""
    distillation_train_steps: int = 700  # Steps of the critic in each of the two rounds.
    critic_train_steps: int = 600  # Steps of the critic without networks.


def taught(
    decoder: latentctl.Decoder,
    faces: Faces,
    latents: Latents,
    flags: TeachFlags,
    run: RunFlags,
    accelerator: Accelerator,
    evaluator: PixelCritic | None = None,
) -> tuple[AttributeCritic, PixelCritic | None]:
    """The critic, and the evaluator, which is trained if none is given and there are teachers."""
    if flags.teachers == 0:
        critic = AttributeCritic.fit(
            latents,
            max_train_steps=flags.critic_train_steps,
            **run.fit_options(accelerator, "attributes"),
        )
        return critic, evaluator
    return latentctl.teach(
        decoder,
        faces,
        faces.names,
        latents=latents,
        evaluator=evaluator,
        teachers=flags.teachers,
        passes=flags.network_passes,
        max_train_seconds=flags.network_train_seconds,
        samples=flags.distillation_samples,
        samples_per_round=max(1, flags.distillation_samples // 2),
        max_train_steps=flags.distillation_train_steps,
        **run.fit_options(accelerator, "teach"),
    )

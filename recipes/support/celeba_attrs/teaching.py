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
    """The critic, of labels and of networks on pixels that are trained here (`latentctl.teach`)."""

    teachers: int | None = None
    """Networks that it is distilled from beside the labels; 0 for labels alone, without an
    evaluator but the one that ships. By default 0 with the generator that ships, of whose faces
    many have rare combinations of attributes, and 2 otherwise."""
    critic_train_steps: int = 1000
    """Steps of the critic on labels, and of each of the two rounds of distillation."""
    network_passes: int | None = None
    """Passes of each network over the reconstructions; by their number if not given."""
    network_train_seconds: float | None = None  # Most seconds of each network.
    distillation_samples: int = 12_000
    """Latents of the first round; the second has half as many edits made with the critic."""


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
        max_train_steps=flags.critic_train_steps,
        **run.fit_options(accelerator, "teach"),
    )

"""The flags of `cgml_modes`, and the defaults of each task."""

from __future__ import annotations

__all__ = ["DEFAULTS", "IMAGE_TASKS", "TASKS", "Flags", "ModelFlags"]

import dataclasses
from dataclasses import dataclass, field

from ..images import ImageFlags
from ..run import OutputFlags
from .networks import BASELINES

MANY = ("mnist-masked", "faces-masked", "faces-colour")  # tasks without two known answers
IMAGE_TASKS = ("mnist-bar", "mnist-masked", "colour", "faces-masked", "faces-colour")
TASKS = ("toy", *IMAGE_TASKS)
DEFAULTS = {  # of the toy and of images
    "latent_size": (4, 4),
    "width": (128, 16),
    "starts": (16, 4),
    "max_train_steps": (1500, 700),
    "train_batch_size": (128, 32),
    "learning_rate": (1e-2, 2e-3),
}


@dataclass
class ModelFlags:
    """The networks and their training; defaults depend on the task, see `DEFAULTS`."""

    latent_size: int | None = None  # Dimensions of z.
    width: int | None = None  # Units of a layer of the toy; channels of the first one of images.
    starts: int | None = None  # Latents among which that of an answer is found.
    max_train_steps: int | None = None  # Training steps of cGML.
    baseline_latent_size: int = 8  # Dimensions of z of the cVAE and the cGAN.
    baseline_train_steps: int | None = None  # Steps of each baseline; as of cGML if not given.
    train_batch_size: int | None = None  # Pairs in a step.
    learning_rate: float | None = None  # Peak learning rate of all networks.

    def filled(self, task: str) -> ModelFlags:
        """These flags, with the defaults of a task where nothing is given."""
        defaults = {name: pair[task != "toy"] for name, pair in DEFAULTS.items()}
        if task in MANY:
            defaults |= {"latent_size": 8, "starts": 16}
        missing = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **missing)


@dataclass
class Flags(OutputFlags):
    """One-to-many prediction by cGML."""

    output_dir: str = "outputs/cgml"  # Folder of all results.
    task: str = "toy"  # toy, mnist-bar, mnist-masked, colour, faces-masked or faces-colour.
    test_inputs: int = 1000  # Held-out inputs of the toy; on images at most half as many.
    answers: int | None = None  # Answers to each input: 64 in the toy, 20 on images.
    target_error: float = 0.1  # On images: held-out error whose first step is recorded.
    model: ModelFlags = field(default_factory=ModelFlags)
    baselines: tuple[str, ...] = BASELINES  # On images: the baselines to train as well.
    data: ImageFlags = field(default_factory=lambda: ImageFlags(max_train_samples=8000))

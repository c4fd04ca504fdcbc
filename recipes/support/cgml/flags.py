"""The flags of `cgml_modes`, and the defaults of each task."""

from __future__ import annotations

__all__ = ["DEFAULTS", "TASKS", "Flags", "ModelFlags"]

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ..images import ImageFlags
from .images import IMAGE_TASKS
from .networks import BASELINES

TASKS = ("toy", *IMAGE_TASKS)
TOY: dict[str, Any] = {
    "latent_size": 1,
    "width": 128,
    "steps": 20,
    "walk_steps": 20,
    "final_jumps": 6,
    "descent_learning_rate": 0.35,
    "anneal": 2.0,
    "assign_starts": False,
    "lipschitz": 1e-3,
    "generator_lipschitz": 0.01,
    "max_train_steps": 3000,
    "train_batch_size": 64,
    "learning_rate": 1e-3,
}
IMAGES: dict[str, Any] = {
    "latent_size": 1,
    "width": 16,
    "steps": 6,
    "walk_steps": 20,
    "final_jumps": 3,
    "descent_learning_rate": 0.1,
    "anneal": 1.0,
    "assign_starts": True,
    "lipschitz": 1e-5,
    "generator_lipschitz": 0.02,
    "max_train_steps": 700,
    "train_batch_size": 32,
    "learning_rate": 2e-3,
}
DEFAULTS = {"toy": TOY, **dict.fromkeys(IMAGE_TASKS, IMAGES)}
MANY: dict[str, Any] = {**IMAGES, "latent_size": 8, "descent_learning_rate": 0.1}
DEFAULTS |= dict.fromkeys(("mnist-masked", "faces-masked", "faces-colour"), MANY)


@dataclass
class ModelFlags:
    """The networks and their training; what is not given depends on the task, see `DEFAULTS`."""

    latent_size: int | None = None
    """Dimensions of z."""
    domain: str = "ball"
    """Where z stays: ball or sphere."""
    width: int | None = None
    """Units of each layer of the toy; channels of the first layer of images."""
    steps: int | None = None
    """Steps M of a descent."""
    walk_steps: int | None = None
    """Evaluations of the updater in a walk."""
    final_jumps: int | None = None
    """Steps at the end of a walk that go to the prediction itself; all of them: without rho."""
    descent_learning_rate: float | None = None
    """Step size of the descent, by Adam, at its beginning."""
    anneal: float | None = None
    """How fast it falls to zero."""
    assign_starts: bool | None = None
    """Deal the starts of a batch to the pairs that they suit; without, as in the paper."""
    lipschitz: float | None = None
    """Weight of the noise term of the updater."""
    generator_lipschitz: float | None = None
    """Weight of the noise term of the generator."""
    max_train_steps: int | None = None
    """Steps of cGML."""
    baseline_latent_size: int = 8
    """Dimensions of z of the cVAE and the cGAN."""
    baseline_train_steps: int | None = None
    """Steps of each of the networks that it is compared with; as many by default."""
    train_batch_size: int | None = None
    """Pairs in a step."""
    learning_rate: float | None = None
    """Peak learning rate of all networks."""

    def filled(self, task: str) -> ModelFlags:
        """These flags, with the defaults of a task where nothing is given."""
        missing = {k: v for k, v in DEFAULTS[task].items() if getattr(self, k) is None}
        return dataclasses.replace(self, **missing)


@dataclass
class Flags:
    """One-to-many prediction by cGML."""

    task: str = "toy"
    """toy, mnist-bar, mnist-masked, colour, faces-masked or faces-colour."""
    output_dir: str = "outputs/cgml"
    """Where everything goes."""
    seed: int = 0
    """Decides every random number."""
    num_threads: int | None = None
    """CPU threads; what torch takes by default."""
    test_inputs: int = 1000
    """Held-out inputs of the toy; on images at most half as many."""
    starts: int | None = None
    """Starts of each: 64 in the toy, 20 on images."""
    target_error: float = 0.1
    """On images: the first step is noted at which the held-out error is no more than this."""
    model: ModelFlags = field(default_factory=ModelFlags)
    baselines: tuple[str, ...] = BASELINES
    """On images: which of these to train beside it."""
    data: ImageFlags = field(default_factory=lambda: ImageFlags(max_train_samples=8000))

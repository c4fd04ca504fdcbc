"""cGML's updater: a controller that walks to a request in a few evaluations of one network."""

from __future__ import annotations

__all__ = ["Updater"]

from typing import Any

import torch
from torch import Tensor

from ...critics import Critic
from ...decoder import Prior
from ...latents import Latents, require_latents
from ...random import seeded
from ..base import Controller
from ..flow_matching import FlowMatching
from ..imitation import collect_demonstrations
from ..request import THRESHOLD
from .network import UpdaterNetwork
from .training import train_dagger


class Updater(UpdaterNetwork, kind="updater"):
    """Walks latents to a request, in a few evaluations from any start.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes, for a controller of `latentctl.condition`.
        context: Number of features of `h`; two for each name by default.
        context_encoder: A network from a request and the starts of the walks to `h (B, context)`;
            targets are encoded by default.
        width: Units of each layer.
        depth: Number of layers.
        steps: Evaluations of a walk.
        final_jumps: How many of these, at the end, go to the prediction `z^` itself: more accurate
            near a mode.
        tolerance: Latents whose predicted length is below this stop.
        domain: `sphere` or `ball` of radius 1, or `space` for no bound.
        gradient_input: Whether the network sees the gradient of the cost.

    Example:
        >>> updater = Updater((8,), ["Smiling"], width=16, steps=5)
        >>> updater(torch.zeros(3, 8), torch.ones(1, 1)).shape
        torch.Size([3, 8])
    """

    @classmethod
    def fit(
        cls,
        latents: Latents,
        teacher: Controller | None = None,
        *,
        attributes: Critic | None = None,
        prior: Prior | None = None,
        steps: int = 5,
        requests: int = 8000,
        width: int = 512,
        depth: int = 4,
        threshold: float = THRESHOLD,
        max_train_steps: int = 2000,
        teacher_train_steps: int = 1500,
        seed: int = 0,
        **options: Any,
    ) -> Updater:
        """An updater that makes a teacher's moves in a few equal strides.

        The teacher moves once for each request. From any latent of a walk, the target is the
        straight line to where the teacher went.

        Arguments:
            latents: Encodings of data, with labels for a conditional updater.
            teacher: Any controller; by default a `FlowMatching` that is fitted here, from whose
                moves better samples are learned than from those of an `Ascent`.
            attributes: A critic; if given, half of the requests are edits of encodings, in which
                one attribute is flipped and the others are held.
            prior: Where the other walks start, N(0, I) by default.
            steps: Strides of a walk.
            requests: Number of demonstrations.
            width: Units of each layer.
            depth: Number of layers.
            threshold: Probability at which a teacher that climbs may stop. The updater's error is
                smaller than the margin of a high threshold.
            max_train_steps: Steps of training.
            teacher_train_steps: Steps of training of the default teacher.
            seed: Decides every random number.
            options: Further arguments of `train_dagger`.
        """
        require_latents(latents)
        names = latents.names if latents.labels is not None else ()
        with seeded(seed, "updater"):
            updater = cls(latents.latent_shape, names, width=width, depth=depth, steps=steps)
        if teacher is None:
            teacher = FlowMatching.fit(
                latents,
                prior=prior,
                width=width,
                max_train_steps=teacher_train_steps,
                seed=seed,
                progress=options.get("progress", True),
            )
        starts, asked, goals = collect_demonstrations(
            teacher,
            latents,
            requests,
            attributes=attributes,
            prior=prior,
            threshold=threshold,
            seed=seed,
            progress=options.get("progress", True),
        )

        def next_latent(z: Tensor, rows: Tensor, step: int) -> Tensor:
            return torch.lerp(z, goals[rows], 1 / (steps - step))

        options = {"max_train_steps": max_train_steps, "seed": seed, "rounds": 2, **options}
        options["derived_from"] = latents
        train_dagger(updater, next_latent, starts, asked, **options)
        return updater

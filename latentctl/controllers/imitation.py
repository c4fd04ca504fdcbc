r"""Behavioural cloning: an actor is fitted to the moves of any other controller.

.. math:: L = \mathbb{E}_{p(z)} \| G(z, y) - c(z, y) \|^2 + \lambda L_\mathrm{dist}(G(z, y), z)

The demonstrations of the controller :math:`c` are collected once. If its move is a function of
:math:`z` and :math:`y`, the least-squares solution is that function.
"""

from __future__ import annotations

__all__ = ["DEMONSTRATIONS", "clone", "collect_demonstrations"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..critics import Critic
from ..decoder import Gaussian, Prior
from ..latents import Latents
from ..progress import track
from ..training import Step, train
from .ascent import distance
from .base import Controller
from .request import THRESHOLD, Request, draw_targets, flips

DEMONSTRATIONS = 20_000
AT_ONCE = 1000  # demonstrations collected at once


def clone(
    actor: Controller,
    teacher: Controller,
    latents: Latents,
    *,
    prior: Prior | None = None,
    distance_weight: float = 0.0,
    demonstrations: int = DEMONSTRATIONS,
    learning_rate: float = 1e-3,
    free_share: float = 0.25,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> None:
    """Fits an actor to a teacher's moves by least squares.

    Arguments:
        actor: The actor, an `Actor`; it is trained in step.
        teacher: Any controller.
        latents: Data whose labels are the targets.
        prior: Distribution of the starts, N(0, I) by default.
        distance_weight: Weight of the distance penalty, which shortens the moves.
        demonstrations: Number of moves of the teacher.
        learning_rate: Peak of Adam's learning rate; it falls linearly.
        free_share: Share of rows in which some targets are freed.
        seed: Decides every random number.
        progress: Show bars on the main process.
        options: `max_train_steps`, `batch_size` and other arguments of `latentctl.training.fit`.
    """
    used = latents.posterior_std()
    data = collect_demonstrations(
        teacher,
        latents,
        demonstrations,
        prior=prior,
        free_share=free_share,
        seed=seed,
        progress=progress,
    )

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        origin, target, goal = batch
        reached = actor(origin, target if target.shape[1] else None)
        error = (reached - goal).square().mean()
        if not distance_weight:
            return error, {}
        far = distance(reached, origin, used.to(origin.device)).mean()
        return error + distance_weight * far, {"distance": far}

    options |= {"learning_rate": learning_rate, "lr_scheduler": "linear", "progress": progress}
    options["derived_from"] = latents
    train(actor, loss, TensorDataset(*data), name="actor", seed=seed, **options)


@torch.no_grad()
def collect_demonstrations(
    teacher: Controller,
    latents: Latents,
    count: int,
    *,
    attributes: Critic | None = None,
    prior: Prior | None = None,
    free_share: float = 0.25,
    threshold: float = THRESHOLD,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, targets `(count, K)` and the teacher's destinations, `count` rows each.

    Arguments:
        teacher: Any controller.
        latents: Data whose labels are the targets, and at which edits start.
        count: Number of moves.
        attributes: A critic; if given, half of the requests are edits of encodings, in which one
            attribute is flipped and the others are held.
        prior: Distribution of the other starts, N(0, I) by default.
        free_share: Share of rows in which some targets are freed.
        threshold: Probability at which a teacher that searches may stop.
        seed: Decides every random number.
        progress: Show a bar on the main process.
    """
    start = prior if prior is not None else Gaussian(latents.latent_shape)
    device = next((weight.device for weight in teacher.parameters()), torch.device("cpu"))
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in track(range(0, count, AT_ONCE), "Demonstrate", "batch", progress=progress):
        step = Step(seed, first, first, min(AT_ONCE, count - first), count)
        z = start.sample(step.count, seed=~seed, start=first).cpu()
        data = latents[step.integers(len(latents), purpose="lesson")].to("cpu")
        target = draw_targets(data.labels, step, free_share)
        request = Request(target=target, threshold=threshold)
        if target is not None and attributes is not None:
            edited = step.uniform(1, purpose="edit")[:, 0] < 0.5
            x = data.sample(step.normal(*latents.latent_shape, purpose="posterior"))
            flipped = step.integers(target.shape[1], purpose="flipped").cpu()
            edits = flips(attributes.score(x).sigmoid(), flipped)
            z[edited] = x[edited]
            request = edits.merged(request, edited)
        goal = teacher.move(z.to(device), request).z.cpu()
        y = request.values
        rows.append((z, z.new_empty(len(z), 0) if y is None else y, goal))
    starts, targets, goals = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return starts, targets, goals

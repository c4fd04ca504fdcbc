r"""Lessons for an updater: a teacher's moves, first on the teacher's path, then on its own.

A walk of `K` strides visits :math:`z_0, ..., z_{K-1}`, and from each the teacher says where to go
next. In the first round the walk follows the teacher; in the later ones it follows the updater, so
that the lessons are about the places where it really comes to. All lessons are kept, and each is
learned from many times.

References:
    | A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning
      (Ross et al., 2011)
    | https://arxiv.org/abs/1011.0686
"""

from __future__ import annotations

__all__ = ["learn", "moves"]

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ...critics import Critic
from ...decoder import Gaussian, Prior
from ...errors import NonFiniteError
from ...latents import Latents
from ...training import Player, Step, fit
from ..base import THRESHOLD, Controller
from ..imitation import TEACHING_BATCH
from ..targets import free_some

if TYPE_CHECKING:
    from .updater import Updater

Teacher: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Where latents `(B, *latent_shape)` should go, given the numbers `(B,)` of their requests and of
the step of the walk."""

SURE = 1 - 1e-6  # a value to keep is a fraction, however sure the critic is of it


def learn(
    updater: Updater,
    teacher: Teacher,
    starts: Tensor,
    asked: Tensor,
    *,
    rounds: int = 3,
    max_train_steps: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    lipschitz: float = 0.001,
    seed: int = 0,
    output_dir: str | Path | None = None,
    **options: Any,
) -> None:
    """Trains an updater to make a teacher's moves.

    Arguments:
        updater: The updater, changed in place; not an gradient_input one.
        teacher: Where latents should go next.
        starts: Where walks start, `(N, *latent_shape)`, one for each request.
        asked: The requests, `(N, ...)`, as the updater is told them.
        rounds: How often lessons are collected; after the first on its own path.
        max_train_steps: Steps of training, over all rounds.
        batch_size: Moves in a step.
        learning_rate: Peak of Adam's learning rate in each round.
        lipschitz: Weight of the Lipschitz term.
        seed: Decides every random number.
        output_dir: Gets the logs and checkpoints of each round, a folder each.
        options: Further arguments of `latentctl.training.fit`.

    Raises:
        NonFiniteError: If the teacher's moves are finite from no start. Where they are so from
            some, the others are left out and counted in `updater.dropped`.
    """
    numbers, alive = torch.arange(len(starts)), torch.ones(len(starts), dtype=torch.bool)
    lessons: list[tuple[Tensor, ...]] = []

    def told(rows: Tensor, z: Tensor) -> Tensor | None:
        rows = rows.cpu()
        return updater.told(asked[rows].to(z.device), len(z), z.device, starts[rows].to(z.device))

    @torch.no_grad()
    def own(rows: Tensor, z: Tensor) -> Tensor:
        z = z[rows]
        return updater.stride(z, *updater.predict(told(rows, z), z))

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        rows, z, goal = batch
        return updater.loss(told(rows, z), z, goal, step, lipschitz=lipschitz)

    for turn in range(rounds):
        z = starts
        for place in range(updater.steps):
            goal = teacher(z, numbers, place)
            alive &= torch.isfinite(goal).flatten(1).all(1)
            if not bool(alive.any()):
                raise NonFiniteError(
                    "The teacher's moves are finite from no start. Check that the cost is finite "
                    "there, and take a smaller learning rate."
                )
            lessons.append((numbers[alive], z[alive], goal[alive]))
            if turn:
                goal = torch.cat([own(rows, z) for rows in numbers.split(TEACHING_BATCH)])
            z = torch.where(alive.view(-1, *[1] * (z.ndim - 1)), goal, z)
        optimizer = torch.optim.Adam(updater.parameters(), lr=learning_rate)
        fit(
            Player("updater", updater, loss, optimizer),
            TensorDataset(*(torch.cat(parts) for parts in zip(*lessons, strict=True))),
            max_train_steps=math.ceil(max_train_steps / rounds),
            batch_size=batch_size,
            seed=seed + turn,
            output_dir=None if output_dir is None else Path(output_dir) / f"round-{turn}",
            **{"progress": False, "lr_scheduler": "linear", "max_grad_norm": 5.0, **options},
        )
        updater.eval()
    updater.dropped = int((~alive).sum())


@torch.no_grad()
def moves(
    teacher: Controller,
    latents: Latents,
    count: int,
    *,
    attributes: Critic | None = None,
    prior: Prior | None = None,
    free_share: float = 0.25,
    threshold: float = THRESHOLD,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, requests and the teacher's destinations, `count` rows each.

    Arguments:
        teacher: Any controller.
        latents: Where targets, and the starts of edits, come from.
        count: Number of moves.
        attributes: A critic; if given, half of the requests are edits of encodings, in which one
            attribute is flipped and the others are kept.
        prior: Where the other moves start, N(0, I) by default.
        free_share: Share of rows whose targets are partly freed.
        threshold: Probability at which a teacher that climbs may stop.
        seed: Decides every random number.
    """
    start = prior if prior is not None else Gaussian(latents.latent_shape)
    home = next((weight.device for weight in teacher.parameters()), torch.device("cpu"))
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, count, TEACHING_BATCH):
        place = Step(seed, first, first, min(TEACHING_BATCH, count - first), count)
        z = start.sample(place.count, seed=~seed, start=first)
        data = latents[place.integers(len(latents), purpose="lesson")]
        y = free_some(data.labels, place, free_share)
        if y is not None and attributes is not None:
            edited = place.uniform(1, purpose="edit")[:, 0] < 0.5
            x = data.sample(place.normal(*latents.latent_shape, purpose="posterior"))
            z[edited], y[edited] = x[edited], _edits(attributes, x, place)[edited]
        told = None if y is None else y.to(home)
        goal = teacher.move(z.to(home), told, threshold=threshold).z.cpu()
        rows.append((z, z.new_empty(len(z), 0) if y is None else y, goal))
    starts, asked, goals = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return starts, asked, goals


def _edits(attributes: Critic, x: Tensor, place: Step) -> Tensor:
    """Requests to flip one attribute of each latent and to keep the others, `(B, K)`."""
    y = attributes.probability(x.to(attributes.posterior_std.device)).cpu().clamp(1 - SURE, SURE)
    flipped = place.integers(y.shape[1], purpose="flipped").cpu()[:, None]
    return y.scatter(1, flipped, 1 - y.gather(1, flipped).round())

r"""Lessons: an actor learns any other controller's moves, to make them in one pass.

.. math:: L = \mathbb{E}_{p(z)} \| G(z, y) - c(z, y) \|^2 + \lambda L_\mathrm{dist}(G(z, y), z)

The teacher :math:`c` is asked once, for a fixed set of moves. Where its move is a function of
:math:`z` and :math:`y`, nothing is averaged away, and the actor comes as near as its size allows.
"""

from __future__ import annotations

__all__ = ["clone"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..decoder import Gaussian, Prior
from ..latents import Latents
from ..training import Player, Step, fit
from .ascent import distance
from .base import Controller
from .targets import free_some

if TYPE_CHECKING:
    from .actor import Actor

PAIRS = 20_000
TEACHING_BATCH = 1000


def clone(
    actor: Actor,
    teacher: Controller,
    latents: Latents,
    *,
    prior: Prior | None = None,
    distance_weight: float = 0.0,
    pairs: int = PAIRS,
    learning_rate: float = 1e-3,
    free_share: float = 0.25,
    seed: int = 0,
    **options: Any,
) -> None:
    """Trains the actor to make a teacher's moves in one pass, by least squares.

    Arguments:
        actor: The actor.
        teacher: Any controller; it is asked once, for `pairs` moves.
        latents: Where targets come from.
        prior: Where moves start, N(0, I) by default.
        distance_weight: Weight of the distance penalty, which shortens the moves.
        pairs: Number of moves to learn from.
        learning_rate: Peak of Adam's learning rate.
        free_share: Share of rows whose targets are partly freed.
        seed: Decides every random number.
        options: Further arguments of `latentctl.training.fit`.
    """
    start = prior if prior is not None else Gaussian(latents.latent_shape)
    used = latents.posterior_std()
    home = next((weight.device for weight in teacher.parameters()), "cpu")
    z, y, moved = [], [], []
    for first in range(0, pairs, TEACHING_BATCH):
        place = Step(seed, first, first, min(TEACHING_BATCH, pairs - first), pairs)
        z.append(start.sample(place.count, seed=~seed, start=first))
        rows = place.integers(len(latents), purpose="lesson")
        asked = free_some(latents[rows].labels, place, free_share) if actor.names else None
        y.append(z[-1].new_empty(len(rows), 0) if asked is None else asked)
        moved.append(teacher(z[-1].to(home), asked).cpu())
    lessons = TensorDataset(torch.cat(z), torch.cat(y), torch.cat(moved))

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        origin, asked, goal = batch
        reached = actor(origin, asked if actor.names else None)
        error = (reached - goal).square().mean()
        if not distance_weight:
            return error, {}
        far = distance(reached, origin, used.to(origin.device)).mean()
        return error + distance_weight * far, {"distance": far}

    optimizer = torch.optim.Adam(actor.net.parameters(), lr=learning_rate)
    options = {**options, "lr_scheduler": "linear"}
    fit(Player("pupil", actor, loss, optimizer), lessons, seed=seed, **options)

"""Carries a request out on latents, and says what came of it."""

from __future__ import annotations

__all__ = ["apply_request", "probabilities"]

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..controllers import Controller
from ..controllers.base import scaled
from ..critics import Critic
from ..errors import InputError
from .outcome import Outcome
from .request import least_likely

if TYPE_CHECKING:
    from .conditional import Conditional

BATCH = 64  # samples decoded at once
SURE = 1 - 1e-6  # a value to keep is a fraction, however sure the critic is of it


def probabilities(critic: Critic | Critic, z: Tensor) -> Tensor:
    """Of each attribute that the critic names, `(B, K)`; `(B, 0)` if it names none."""
    if isinstance(critic, Critic):
        return critic.probability(z)
    return z.new_empty(len(z), 0)


@torch.no_grad()
def apply_request(
    given: Conditional,
    controller: Controller,
    z: Tensor,
    asked: Tensor,
    held: Tensor,
    where: Critic | None,
    *,
    strength: float = 1.0,
    seed: int = 0,
    start: int = 0,
    region: Tensor | None = None,
    spare: bool = False,
) -> Outcome:
    """Latents moved by a controller, decoded, with their receipt.

    Arguments:
        given: The parts that were conditioned.
        controller: Its controller of samples, or of edits.
        z: Latents, `(B, *latent_shape)`.
        asked: Targets `(B, K)`, NaN = not asked.
        held: Which attributes are held where they are, `(B, K)` booleans.
        where: A further critic to satisfy.
        strength: Share of the move.
        seed: Seed of the controller's noise.
        start: Index of the first latent in the sequence that `seed` names.
        region: Share of the move that each cell may take, `(B, 1, h, w)`.
        spare: Whether latents stay that have what is asked already.
    """
    decoder, critic, evaluator, threshold = (
        given.decoder,
        given.critic,
        given.evaluator,
        given.threshold,
    )
    only = critic if isinstance(critic, Critic) else None
    if not 0 <= strength < math.inf:
        raise InputError(f"strength is the share of a move, it was given as {strength}.")
    # a network was trained for the critic; any other controller is told of it
    goal = where if controller.learned else where or only
    where = where or only
    before = probabilities(critic, z)
    y = torch.where(held, before.clamp(1 - SURE, SURE), asked)
    known = before if evaluator is None else evaluator.in_parts(z)
    seen_by = where if where is None or evaluator is None else where.of(evaluator)
    todo = torch.ones(len(z), dtype=torch.bool, device=z.device)
    if spare:
        todo = least_likely(z, known, asked, seen_by) < threshold
    evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
    moved = z
    if strength != 0 and bool(todo.any()):
        options: dict[str, Any] = {
            "where": goal,
            "threshold": threshold,
            "seed": seed,
            "index": start + todo.nonzero().flatten(),
        }
        if region is None:
            move = controller.move(z[todo], y[todo], **options)
        else:
            move = controller.move_within(region[todo], z[todo], y[todo], **options)
        moved = z.clone()
        moved[todo] = scaled(z[todo], move.z, strength)
        evaluations[todo] = move.evaluations
    x = torch.cat([decoder.decode(part) for part in moved.split(BATCH)])
    if evaluator is None:
        after = probabilities(critic, moved)
    else:
        after = torch.cat([evaluator.of_samples(part).sigmoid() for part in x.split(BATCH)])
    least = least_likely(moved, after, asked, seen_by)
    return Outcome(
        x=x,
        z=moved,
        start=z,
        satisfied=least >= threshold,
        unreachable=(least < 0.5) if strength >= 1 else torch.zeros_like(todo),
        probability=after,
        leakage=torch.where(held, (after - known).abs(), torch.nan),
        shift=(moved - z).flatten(1).square().mean(1).sqrt(),
        evaluations=evaluations,
        names=given.names,
        value_range=decoder.value_range,
    )

"""Carries a request out on latents, and measures what was achieved."""

from __future__ import annotations

__all__ = ["apply_request"]

import dataclasses

import torch
from torch import Tensor

from ..controllers import Controller, Request
from ..critics import Critic, PixelCritic
from ..critics.base import Scored
from ..decoder import Decoder
from .outcome import Outcome
from .request import least_likely

BATCH = 64  # samples decoded at once


@torch.no_grad()
def apply_request(
    decoder: Decoder,
    critic: Critic,
    controller: Controller,
    evaluator: PixelCritic | None,
    z: Tensor,
    request: Request,
    skip_satisfied: bool = False,
) -> Outcome:
    """Latents moved by a controller, decoded, with their receipt.

    The critic, and the evaluator if there is one, score each latent once before the move and once
    after it.

    Arguments:
        decoder: The decoder.
        critic: The critic of the attributes.
        controller: The controller of samples, or of edits.
        evaluator: The independent critic whose scores the receipt has; `critic` if None.
        z: Latents, `(B, *latent_shape)`.
        request: What is requested, with `target` and `hold`.
        skip_satisfied: Whether latents stay for which the request holds already.
    """
    request = request.for_latents(z)
    free = z.new_full((len(z), len(critic.names)), torch.nan)
    target = free if request.target is None else request.target
    hold = torch.zeros_like(target, dtype=torch.bool) if request.hold is None else request.hold
    where = request.where
    if not critic.names and where is None:
        where = critic  # a critic without names is itself what is requested
        request = request if controller.learned else dataclasses.replace(request, where=where)
    judge = critic if evaluator is None else evaluator
    seen_by = where if where is None or evaluator is None else where.of(evaluator)

    def receipt(z: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the attributes, and of the least likely part of the request."""
        scored = Scored(judge.names, logits)
        known = None if seen_by is None else seen_by.of(scored, instead_of=judge)
        named = logits.sigmoid() if judge.names else logits.new_empty(len(z), 0)
        return named, least_likely(z, named, target, known)

    logits = critic.score(z)
    if critic.names:
        request = dataclasses.replace(request, current=logits.sigmoid())
    before, least = receipt(z, logits if evaluator is None else evaluator.score(z))
    active = torch.ones(len(z), dtype=torch.bool, device=z.device)
    if skip_satisfied:
        active = least < request.threshold
    moved, evaluations = z, torch.zeros(len(z), dtype=torch.long, device=z.device)
    if request.strength != 0 and bool(active.any()):
        move = controller.move(z[active], request.rows(active))
        moved = z.clone()
        moved[active], evaluations[active] = move.z, move.evaluations
    x = decoder.decode(moved, batch_size=BATCH)
    logits = critic.score(moved) if evaluator is None else evaluator.score_samples(x)
    after, least = receipt(moved, logits)
    whole = request.strength >= 1
    return Outcome(
        x=x,
        z=moved,
        start=z,
        satisfied=least >= request.threshold,
        unreachable=least < 0.5 if whole else torch.zeros_like(active),
        probability=after,
        leakage=torch.where(hold, (after - before).abs(), torch.nan),
        shift=(moved - z).flatten(1).square().mean(1).sqrt(),
        evaluations=evaluations,
        names=critic.names,
        value_range=decoder.value_range,
    )

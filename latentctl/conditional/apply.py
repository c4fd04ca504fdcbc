"""Applies a request to latents, and measures the result."""

from __future__ import annotations

__all__ = ["apply_request", "carry_out"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..controllers import Controller, Request
from ..controllers.request import THRESHOLD
from ..critics import Critic, PixelCritic
from ..critics.base import Scored
from ..decoder import Decoder
from .dose import dosable, dosed, fractions, too_far, whole_targets
from .origin import Kind, Maker, Origin
from .outcome import CLIMBED, CRITIC, EVALUATOR, Outcome
from .request import least_likely, unheld

BATCH = 64  # samples decoded at once


def carry_out(
    kind: Kind,
    parts: Mapping[str, Any],
    z: Tensor,
    request: Request,
    *,
    where: str | None = None,
    inputs: Tensor | None = None,
) -> Outcome:
    """The outcome of a request to the parts of a `Conditional`, with its origin.

    Arguments:
        kind: "sample" moves every latent by the controller: samples of the prior may be
            off-manifold even if they satisfy the request. "edit" moves those that do not satisfy it
            by the editor.
        parts: The fields of a `Conditional`.
        z: Latents, `(B, *latent_shape)`.
        request: The request.
        where: The expression of its `where`, if it was given as text.
        inputs: The inputs that were encoded.
    """
    edits = kind == "edit"
    request = dataclasses.replace(request, prior=parts["prior"])
    outcome = apply_request(
        *(parts["decoder"], parts["critic"], parts["editor" if edits else "controller"]),
        parts["evaluator"],
        z,
        request,
        skip_satisfied=edits,
        inputs=inputs,
    )
    request, guarantee = request.for_latents(z), parts["guarantee"] if edits else None
    outcome = dataclasses.replace(outcome, origin=Origin(kind, request, where, Maker(parts)))
    if guarantee is None or not guarantee.covers(request):
        return outcome
    verdicts = guarantee.verdicts(outcome.target, outcome.probability, outcome.leakage)
    return dataclasses.replace(outcome, guarantee=guarantee, **verdicts)


@torch.no_grad()
def apply_request(
    decoder: Decoder,
    critic: Critic,
    controller: Controller,
    evaluator: PixelCritic | None,
    z: Tensor,
    request: Request,
    skip_satisfied: bool = False,
    inputs: Tensor | None = None,
) -> Outcome:
    """Latents moved by a controller and decoded, with a receipt.

    The critic, and the evaluator if there is one, score each latent once before the move and once
    after it.

    Arguments:
        decoder: The decoder.
        critic: The critic of the attributes.
        controller: The controller of samples, or of edits.
        evaluator: The independent critic whose scores the receipt has; `critic` if None.
        z: Latents, `(B, *latent_shape)`.
        request: The request, with `target` and `hold`.
        skip_satisfied: Whether latents that satisfy the request are not moved.
        inputs: The inputs that were encoded, for the outcome.
    """
    request = request.for_latents(z)
    free = z.new_full((len(z), len(critic.names)), torch.nan)
    target = free if request.target is None else request.target
    held = torch.zeros_like(free, dtype=torch.bool) if request.hold is None else request.hold
    tied, others = unheld(critic, target, request.where, held)
    if not critic.names and request.where is None and not controller.learned:
        request = dataclasses.replace(request, where=critic)  # such a critic is itself the request
    where = critic if not critic.names and request.where is None else request.where
    scorer = critic
    if evaluator is not None:
        scorer, where = evaluator, None if where is None else where.of(evaluator)

    def evaluate(z: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the attributes, and of the least likely part of the request."""
        scored = Scored(scorer.names, logits)
        known = None if where is None else where.of(scored, instead_of=scorer)
        named = logits.sigmoid() if scorer.names else free
        return named, least_likely(z, named, target, known)

    logits = critic.score(z)
    if critic.names:
        request = dataclasses.replace(request, current=logits.sigmoid())
    before, least = evaluate(z, logits if evaluator is None else evaluator.score(z))
    active = torch.ones(len(z), dtype=torch.bool, device=z.device)
    if skip_satisfied:
        active = (least < request.threshold) | too_far(before, target, request.threshold)
    moved, evaluations = z, torch.zeros(len(z), dtype=torch.long, device=z.device)
    if request.strength != 0 and bool(active.any()):
        doses = dosable(target, where) & active & (evaluator is not None)
        asked = _to_the_controller(request, target, doses, before, evaluator is not None)
        move = controller.move(z[active], asked.rows(active))
        moved = z.clone()
        moved[active], evaluations[active] = move.z, move.evaluations
        if evaluator is not None and bool(doses.any()):
            some = z[doses], moved[doses], target[doses], before[doses]
            moved[doses] = dosed(*some, evaluator, request.strength, request.threshold)
    x = decoder.decode(moved, batch_size=BATCH)
    logits = critic.score(moved) if evaluator is None else evaluator.score_samples(x)
    after, least = evaluate(moved, logits)
    change = (after - before).abs()
    whole, finite = request.strength >= 1, torch.isfinite(moved).flatten(1).all(1)
    return Outcome(
        x=x,
        z=moved,
        start=z,
        target=target,
        satisfied=(least >= request.threshold)
        & ~too_far(after, target, request.threshold)
        & finite,
        unreachable=least < 0.5 if whole else torch.zeros_like(active),
        probability=after,
        leakage=torch.where(held, change, torch.nan),
        tied=torch.where(tied, change, torch.nan) if request.hold is not None else free,
        free=torch.where(others, change, torch.nan) if request.hold is not None else free,
        shift=(moved - z).flatten(1).square().mean(1).sqrt(),
        evaluations=evaluations,
        names=critic.names,
        display=decoder.display,
        judged_by=EVALUATOR if evaluator is not None else CRITIC if controller.learned else CLIMBED,
        before=inputs,
    )


def _to_the_controller(
    request: Request, target: Tensor, doses: Tensor, before: Tensor, evaluated: bool
) -> Request:
    """The request as the controller gets it: whole targets where the dose is found afterwards.

    The threshold of an evaluator is no probability of the critic, which is climbed to 0.95.
    """
    threshold = request.threshold
    if evaluated or bool(fractions(target).any()):
        threshold = max(threshold, THRESHOLD)
    if bool(doses.any()):
        request = dataclasses.replace(request, target=whole_targets(target, doses, before))
    return dataclasses.replace(request, threshold=threshold)

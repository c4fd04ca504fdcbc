r"""Amortised edits: an actor is trained to make in one pass the edits of an ascent.

.. math:: \min_G \; \mathbb{E}_{z \sim q, \, y} \, L\big(G(z, y); z, y\big)

with the objective :math:`L` of the ascent, encodings :math:`z` of real data, and requests :math:`y`
to flip one or two attributes and to hold the others: all of them, or those that are not tied to
what is flipped, as edits do by default. No demonstrations are collected.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["amortise"]

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..critics.ties import tied_to
from ..errors import InputError, check_kind
from ..latents import Latents, require_latents
from ..random import seeded
from ..training import Step, train
from .actor import Actor
from .ascent import Ascent
from .request import flips

UNTIED_SHARE = 0.7  # of requests that hold what is untied; the others hold all
TRAINING: dict[str, Any] = {
    "max_train_steps": 3000,
    "batch_size": 256,
    "learning_rate": 5e-4,
    "lr_scheduler": "cosine",
    "max_grad_norm": 5.0,
}


def amortise(
    ascent: Ascent,
    latents: Latents,
    *,
    width: int = 1024,
    depth: int = 4,
    two_share: float = 0.3,
    seed: int = 0,
    **options: Any,
) -> Actor:
    """An actor for the edits of an ascent, one evaluation each.

    Arguments:
        ascent: An `Ascent.for_edits` on a critic of named attributes.
        latents: Encodings; their labels, if any, are not used.
        width: Units of each layer.
        depth: Number of layers.
        two_share: Share of requests that flip two attributes at once.
        seed: Decides every random number.
        options: Further arguments of `latentctl.training.train`; by default 3000 steps of 256 edits
            with a learning rate of 5e-4 that falls by a cosine, and gradients clipped to norm 5.

    Raises:
        InputError: If the ascent is another controller, or has no critic of attributes.

    Example:
        >>> from latentctl import AttributeCritic, Latents
        >>> from latentctl.random import noise
        >>> latents = Latents(noise(0, 64, (8,), seed=0))
        >>> critic = AttributeCritic((8,), ["Smiling", "Male"], width=16)
        >>> editor = amortise(Ascent.for_edits(critic), latents, width=16, max_train_steps=2)
        >>> editor(torch.zeros(3, 8), torch.tensor([[1.0, torch.nan]])).shape
        torch.Size([3, 8])
    """
    require_latents(latents)
    advice = "Of another controller, clone the moves: Actor.fit(latents, teacher=controller)."
    check_kind(ascent, Ascent, "ascent=", advice)
    critic = ascent.attributes
    if critic is None or not critic.names:
        raise InputError("The ascent has no critic of attributes. Pass Ascent.for_edits(critic).")
    with seeded(seed, "amortised editor"):
        actor = Actor(critic.latent_shape, critic.names, width=width, depth=depth)
    actor.net.trunk.standardise(*latents.moments())
    count = len(critic.names)

    def loss(batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        z = batch.sample(step.normal(*critic.latent_shape))
        with torch.no_grad():
            current = critic.probability(z)
        first = step.integers(count, purpose="first").to(z.device)
        second = step.integers(count, purpose="second").to(z.device)
        second = torch.where(step.uniform(1, purpose="two")[:, 0] < two_share, second, first)
        request = flips(current, first, second)
        if critic.ties:
            asked = torch.zeros_like(current, dtype=torch.bool)
            asked.scatter_(1, torch.stack([first, second], 1), True)
            tied = tied_to(asked, critic.ties, critic.names)
            tied &= step.uniform(1, purpose="untied").to(z.device) < UNTIED_SHARE
            request = dataclasses.replace(request, hold=~(asked | tied))
        moved = actor.move(z, request).z
        each, _ = ascent.objective(moved, z, request)
        shift = (moved - z).detach().flatten(1).square().mean(1).sqrt().mean()
        return each.mean(), {"shift": shift}

    options = {"parameters": actor.net.parameters(), "ema": 0.995, **TRAINING, **options}
    train(actor, loss, latents, name="editor", seed=seed, **options)
    return actor

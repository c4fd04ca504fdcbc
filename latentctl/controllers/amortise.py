r"""An actor that makes, in one pass, the edits that ascent searches for.

.. math:: \min_G \; \mathbb{E}_{z \sim q, \, y} \, L\big(G(z, y); z, y\big)

with the objective :math:`L` of the ascent itself, encodings :math:`z` of real data, and requests
:math:`y` to flip one or two attributes and to keep all others. Nothing is imitated: the actor
climbs what the ascent would climb, for all inputs at once.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["amortise"]

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents
from ..random import seeded
from ..training import Player, Step, fit
from .actor import Actor
from .ascent import Ascent
from .base import THRESHOLD

SURE = 1 - 1e-6  # a value to keep is a fraction, however sure the critic is of it


def amortise(
    ascent: Ascent,
    latents: Latents,
    *,
    width: int = 1024,
    depth: int = 4,
    two_share: float = 0.3,
    max_train_steps: int = 3000,
    batch_size: int = 256,
    learning_rate: float = 5e-4,
    seed: int = 0,
    **options: Any,
) -> Actor:
    """An actor for the edits of an ascent, one evaluation each.

    Arguments:
        ascent: An `Ascent.for_edits` on a critic of named attributes.
        latents: Encodings; their labels, if any, are not looked at.
        width: Units of each layer.
        depth: Number of layers.
        two_share: Share of requests that flip two attributes at once.
        max_train_steps: Steps of training.
        batch_size: Edits in a step.
        learning_rate: Peak of Adam's learning rate.
        seed: Decides every random number.
        options: Further arguments of `latentctl.training.fit`.

    Raises:
        InputError: If the ascent has no critic of attributes.

    Example:
        >>> from latentctl import AttributeCritic, Latents
        >>> critic = AttributeCritic((8,), ["Smiling", "Male"], width=16)
        >>> editor = amortise(Ascent.for_edits(critic), Latents(torch.randn(64, 8)), width=16,
        ...                   max_train_steps=2)
        >>> editor.move(torch.zeros(3, 8), torch.tensor([[1.0, 0.4]])).evaluations.tolist()
        [1, 1, 1]
    """
    critic = ascent.attributes
    if critic is None:
        raise InputError("An ascent without a critic of attributes makes no edits to learn.")
    with seeded(seed, "amortised editor"):
        actor = Actor(critic.latent_shape, critic.names, width=width, depth=depth)
    actor.net.trunk.standardise(*latents.moments())
    count = len(critic.names)

    def loss(batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        z = batch.sample(step.normal(*critic.latent_shape))
        with torch.no_grad():
            now = critic.probability(z).clamp(1 - SURE, SURE)
        first = step.integers(count, purpose="first").to(z.device)
        second = step.integers(count, purpose="second").to(z.device)
        second = torch.where(step.uniform(1, purpose="two")[:, 0] < two_share, second, first)
        flipped = torch.zeros_like(now, dtype=torch.bool)
        flipped.scatter_(1, torch.stack([first, second], 1), True)
        y = torch.where(flipped, 1 - now.round(), now)
        moved = actor(z, y)
        each, _ = ascent.objective(moved, z, y, ~flipped, None, THRESHOLD)
        shift = (moved - z).detach().flatten(1).square().mean(1).sqrt().mean()
        return each.mean(), {"shift": shift}

    optimizer = torch.optim.Adam(actor.net.parameters(), lr=learning_rate)
    history = fit(
        Player("editor", actor, loss, optimizer, ema=0.995),
        latents,
        max_train_steps=max_train_steps,
        batch_size=batch_size,
        seed=seed,
        **{"lr_scheduler": "cosine", "progress": False, "max_grad_norm": 5.0, **options},
    )
    actor.load_state_dict(history.averaged["editor"].state_dict())
    return actor.eval()

r"""An actor that makes, in one pass, the edits that ascent searches for.

.. math:: \min_G \; \mathbb{E}_{z \sim q, \, y} \, L\big(G(z, y); z, y\big)

with the objective :math:`L` of the ascent itself, encodings :math:`z` of real data, and requests
:math:`y` to flip one or two attributes and to hold all others. No demonstrations are collected: the
actor minimises the objective of the ascent itself, for all inputs at once.

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
from ..training import Step, train
from .actor import Actor
from .ascent import Ascent
from .request import flips


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
        latents: Encodings; their labels, if any, are not used.
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
        >>> editor(torch.zeros(3, 8), torch.tensor([[1.0, torch.nan]])).shape
        torch.Size([3, 8])
    """
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
        moved = actor.move(z, request).z
        each, _ = ascent.objective(moved, z, request)
        shift = (moved - z).detach().flatten(1).square().mean(1).sqrt().mean()
        return each.mean(), {"shift": shift}

    train(
        actor,
        loss,
        latents,
        name="editor",
        parameters=actor.net.parameters(),
        ema=0.995,
        learning_rate=learning_rate,
        max_train_steps=max_train_steps,
        batch_size=batch_size,
        seed=seed,
        **{"lr_scheduler": "cosine", "max_grad_norm": 5.0, **options},
    )
    return actor

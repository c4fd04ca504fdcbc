"""Training of cGML by the flags of `cgml_modes`."""

from __future__ import annotations

__all__ = ["train_cgml", "updater_of"]

from collections.abc import Callable
from typing import Any

from torch import nn

from latentctl import OneToMany, Updater


def updater_of(own: Any, context: int, width: int) -> Updater:
    """The updater of filled `ModelFlags`, over `context` features."""
    return Updater(
        (own.latent_size,),
        context=context,
        width=width,
        depth=3,
        steps=own.walk_steps,
        final_jumps=own.final_jumps,
        domain=own.domain,
    )


def train_cgml(
    own: Any,
    encoder: nn.Module,
    generator: nn.Module,
    updater: Updater,
    data: Any,
    *,
    seed: int,
    on_step: Callable[[OneToMany, int], None] | None = None,
) -> OneToMany:
    """cGML, trained on pairs `(x, y)` by filled `ModelFlags`; `on_step(model, step)` follows."""
    model = OneToMany(
        encoder,
        generator,
        updater,
        steps=own.steps,
        learning_rate=own.descent_learning_rate,
        anneal=own.anneal,
        assign_starts=own.assign_starts,
    )
    return model.fit(
        data,
        max_train_steps=own.max_train_steps,
        batch_size=own.train_batch_size,
        learning_rate=own.learning_rate,
        seed=seed,
        loss={"lipschitz": own.lipschitz, "generator_lipschitz": own.generator_lipschitz},
        on_step=None if on_step is None else lambda step: on_step(model, step),
    )

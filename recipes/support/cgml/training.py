"""Training of cGML by the flags of `cgml_modes`."""

from __future__ import annotations

__all__ = ["train_cgml"]

from collections.abc import Callable
from typing import Any

from torch import nn

from latentctl import OneToMany
from latentctl.random import seeded


def train_cgml(
    own: Any,
    encoder: nn.Module,
    generator: nn.Module,
    features: int,
    data: Any,
    *,
    seed: int,
    on_step: Callable[[OneToMany, int], None] | None = None,
) -> OneToMany:
    """cGML, trained on pairs `(x, y)` by filled `ModelFlags`; `on_step(model, step)` follows."""
    with seeded(seed, "gate"):
        model = OneToMany(
            encoder,
            generator,
            features,
            (own.latent_size,),
            starts=own.starts,
        )
    return model.fit(
        data,
        max_train_steps=own.max_train_steps,
        batch_size=own.train_batch_size,
        learning_rate=own.learning_rate,
        seed=seed,
        on_step=None if on_step is None else lambda step: on_step(model, step),
    )

r"""Practice: an updater learns on its own walks, from the gradient of the cost where they lead.

Imitation needs many steps of descent for one lesson. Here every evaluation of the cost is a lesson:
from a start the updater walks :math:`z_0, z_1, ..., z_K`, and is trained by

.. math:: L = \frac{1}{K} \sum_{k=1}^{K} c(z_k), \qquad z_k = z_{k-1}
    + \hat\rho \, \frac{\hat z - z_{k-1}}{\|\hat z - z_{k-1}\|}

where the gradient goes through the last stride only, :math:`z_{k-1}` being held. For an `gradient_input`
updater the same gradient is what it is shown at its next step, so that one forward and one
backward pass of the cost serve both.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Iterative Amortized Inference (Marino et al., 2018), for showing a network the gradient
    | https://arxiv.org/abs/1807.09356
"""

from __future__ import annotations

__all__ = ["train_unrolled"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import NonFiniteError
from ...training import Player, Step, fit
from .updater import Updater, gradient_of

Starts = Callable[[Any, Step], tuple[Tensor, Tensor | None]]
"""Of a batch and its step: where walks start `(B, *latent_shape)`, and what is asked `(B, ...)`."""

Costs = Callable[[Tensor, Tensor, Any], Tensor]
"""Of latents, their starts and what is asked, the cost of each `(B,)`."""


def train_unrolled(
    updater: Updater,
    cost: Costs,
    starts: Starts,
    data: Any,
    *,
    max_train_steps: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    **options: Any,
) -> Updater:
    """Trains an updater on its own walks.

    Starts at which the cost is not finite are left out of a step, and counted in
    `updater.dropped`.

    Arguments:
        updater: The updater, changed in place.
        cost: Of latents `(B, *latent_shape)`, their starts and what is asked.
        starts: Of a batch of `data`, the starts and what is asked.
        data: Anything that `latentctl.training.fit` takes.
        max_train_steps: Steps of training, each with a whole walk.
        batch_size: Walks in a step.
        learning_rate: Peak of Adam's learning rate; it falls to zero.
        seed: Decides every random number.
        options: Further arguments of `latentctl.training.fit`.

    Raises:
        NonFiniteError: If the cost is finite at no start of a step.
    """
    updater.dropped = 0

    def loss(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        z, asked = starts(batch, step)
        origin = z
        first, gradient = gradient_of(lambda z: cost(z, origin, asked), z)
        fine = torch.isfinite(first) & torch.isfinite(gradient).flatten(1).all(1)
        updater.dropped += int((~fine).sum())
        if not bool(fine.any()):
            raise NonFiniteError(
                "The cost is finite at no start of this step. Check the decoder and what is asked."
            )
        if not bool(fine.all()):
            z, origin, gradient, first = z[fine], origin[fine], gradient[fine], first[fine]
            asked = None if asked is None else asked[fine]
        h = updater.told(asked, len(z), z.device, origin)
        total = z.new_zeros(())
        value = first
        for _ in range(updater.steps):
            moved = updater.stride(z, *updater.predict(h, z, gradient))
            value, gradient = gradient_of(lambda z: cost(z, origin, asked), moved.detach())
            # the slope of this number in the weights is that of the cost
            total = total + (gradient * moved).sum() / len(z)
            z = moved.detach()
        return total / updater.steps, {"cost": value.mean(), "cost at the start": first.mean()}

    optimizer = torch.optim.Adam(updater.parameters(), lr=learning_rate)
    options = {
        "progress": False,
        "lr_scheduler": "linear",
        "lr_warmup_steps": min(50, max_train_steps // 10),
        "max_grad_norm": 5.0,
        **options,
    }
    player = Player("updater", updater, loss, optimizer, ema=0.99)
    history = fit(
        player, data, max_train_steps=max_train_steps, batch_size=batch_size, seed=seed, **options
    )
    updater.load_state_dict(history.averaged["updater"].state_dict())
    return updater.eval()

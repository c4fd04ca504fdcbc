r"""Training of an updater: by DAgger on a teacher's steps, or on unrolled walks of its own.

`train_dagger` collects the teacher's next latents from each of the latents :math:`z_0, ...,
z_{K-1}` of a walk. In the first round the walk follows the teacher, in the later ones the updater,
so that the demonstrations cover the latents that it visits. All of them are kept.

`train_unrolled` minimises a differentiable cost along the updater's walks,

.. math:: L = \frac{1}{K} \sum_{k=1}^{K} c(z_k), \qquad z_k = z_{k-1}
    + \hat\rho \, \frac{\hat z - z_{k-1}}{\|\hat z - z_{k-1}\|}

where the gradient flows through the last stride only, with :math:`z_{k-1}` detached. With
`gradient_input` the same gradient is the network's input at the next step, so that one forward and
one backward pass of the cost serve both.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning
      (Ross et al., 2011), DAgger
    | https://arxiv.org/abs/1011.0686
    | Iterative Amortized Inference (Marino et al., 2018), on the gradient as an input
    | https://arxiv.org/abs/1807.09356
"""

from __future__ import annotations

__all__ = ["CostFn", "StartFn", "Teacher", "train_dagger", "train_unrolled"]

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ...decoder.descent import append_dims, gradient_of
from ...errors import NonFiniteError
from ...progress import track
from ...training import Step, train
from .network import UpdaterNetwork

BATCH = 1000  # latents that move together while demonstrations are collected
DEFAULTS: dict[str, Any] = {
    "batch_size": 256,
    "learning_rate": 1e-3,
    "lr_scheduler": "linear",
    "max_grad_norm": 5.0,
}

Teacher: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""From latents `(B, *latent_shape)`, the rows `(B,)` of their requests and the number of the step
to the next latents."""

StartFn: TypeAlias = Callable[[Any, Step], tuple[Tensor, Tensor | None]]
"""From a batch and its step to starts `(B, *latent_shape)` and requests `(B, ...)`."""

CostFn: TypeAlias = Callable[[Tensor, Tensor, Any], Tensor]
"""From latents, their starts and requests to the cost of each `(B,)`."""


def train_dagger(
    updater: UpdaterNetwork,
    teacher: Teacher,
    starts: Tensor,
    asked: Tensor,
    *,
    rounds: int = 3,
    max_train_steps: int = 1500,
    lipschitz: float = 0.001,
    seed: int = 0,
    output_dir: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Trains an updater on a teacher's steps.

    Arguments:
        updater: The updater, trained in place; without `gradient_input`.
        teacher: The next latents.
        starts: Starts of walks, `(N, *latent_shape)`, one for each request.
        asked: The requests, `(N, ...)`, as `updater.encode_request` takes them.
        rounds: Number of rounds; from the second on walks follow the updater.
        max_train_steps: Steps of training, over all rounds.
        lipschitz: Weight of the Lipschitz term.
        seed: Decides every random number.
        output_dir: Gets the logs and checkpoints of each round, a folder each.
        progress: Show bars on the main process.
        options: Further arguments of `latentctl.training.train`. By default there are 256
            demonstrations in a step, and the learning rate of 1e-3 falls to zero in each round.

    Raises:
        NonFiniteError: If the teacher's steps are finite from no start. If they are from some,
            the others are left out and counted in `updater.dropped`.
    """
    numbers, finite = torch.arange(len(starts)), torch.ones(len(starts), dtype=torch.bool)
    demonstrations: list[tuple[Tensor, ...]] = []

    def context(rows: Tensor, z: Tensor) -> Tensor | None:
        rows = rows.cpu()
        return updater.encode_request(asked[rows].to(z.device), z, starts[rows].to(z.device))

    @torch.no_grad()
    def own_step(rows: Tensor, z: Tensor) -> Tensor:
        here = z.to(updater.length.weight.device)
        return updater.stride(here, *updater.predict(context(rows, here), here)).to(z.device)

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        rows, z, goal = batch
        return updater.loss(context(rows, z), z, goal, step, lipschitz=lipschitz)

    for number in range(rounds):
        z = starts
        for step in track(range(updater.steps), "Demonstrate", "step", progress=progress):
            goal = teacher(z, numbers, step)
            finite &= torch.isfinite(goal).flatten(1).all(1)
            if not bool(finite.any()):
                raise NonFiniteError(
                    "The teacher's steps are finite from no start. Check that the cost is finite "
                    "there, and take a smaller learning rate."
                )
            demonstrations.append((numbers[finite], z[finite], goal[finite]))
            if number:
                goal = torch.cat([own_step(rows, z[rows]) for rows in numbers.split(BATCH)])
            z = torch.where(append_dims(finite, z), goal, z)
        train(
            updater,
            loss,
            TensorDataset(*(torch.cat(parts) for parts in zip(*demonstrations, strict=True))),
            name="updater",
            max_train_steps=math.ceil(max_train_steps / rounds),
            seed=seed + number,
            output_dir=None if output_dir is None else Path(output_dir) / f"round-{number}",
            progress=progress,
            **{**DEFAULTS, "derived_from": starts, **options},
        )
    updater.dropped = int((~finite).sum())


def train_unrolled(
    updater: UpdaterNetwork,
    cost: CostFn,
    starts: StartFn,
    data: Any,
    *,
    max_train_steps: int = 1500,
    **options: Any,
) -> None:
    """Trains an updater on the cost along its own walks.

    Starts at which the cost is not finite are left out of a step, and counted in
    `updater.dropped`.

    Arguments:
        updater: The updater, trained in place.
        cost: Of latents `(B, *latent_shape)`, their starts and requests.
        starts: From a batch of `data` to starts and requests.
        data: As for `latentctl.training.fit`.
        max_train_steps: Steps of training, each with a whole walk.
        options: Further arguments of `latentctl.training.train`, such as `seed`. By default there
            are 256 walks in a step, and the learning rate of 1e-3 falls to zero.

    Raises:
        NonFiniteError: If the cost is finite at no start of a step.
    """
    updater.dropped = 0

    def loss(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        z, asked = starts(batch, step)
        origin = z
        first, gradient = gradient_of(lambda z: cost(z, origin, asked), z)
        finite = torch.isfinite(first) & torch.isfinite(gradient).flatten(1).all(1)
        updater.dropped += int((~finite).sum())
        if not bool(finite.any()):
            raise NonFiniteError(
                "The cost is finite at no start of this step. Check the decoder and the requests."
            )
        if not bool(finite.all()):
            z, origin, gradient, first = z[finite], origin[finite], gradient[finite], first[finite]
            asked = None if asked is None else asked[finite]
        h = updater.encode_request(asked, z, origin)
        total, value = z.new_zeros(()), first
        for _ in range(updater.steps):
            moved = updater.stride(z, *updater.predict(h, z, gradient))
            value, gradient = gradient_of(lambda z: cost(z, origin, asked), moved.detach())
            # its gradient in the weights is that of the cost
            total = total + (gradient * moved).sum() / len(z)
            z = moved.detach()
        return total / updater.steps, {"cost": value.mean(), "cost at the start": first.mean()}

    settings = {**DEFAULTS, "lr_warmup_steps": min(50, max_train_steps // 10), "ema": 0.99}
    settings |= {"max_train_steps": max_train_steps, **options}
    train(updater, loss, data, name="updater", **settings)

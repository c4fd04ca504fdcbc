r"""Projected gradient descent on a cost of each latent.

.. math:: m \leftarrow \gamma m + \beta_p \nabla_z c(z), \quad z \leftarrow \Pi(z - m), \quad
    \beta_p = \beta (1 - p / M)^a

for :math:`p = 0 ... M - 1`, with the projection :math:`\Pi` on the domain.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Adam: A Method for Stochastic Optimization (Kingma & Ba, 2014)
    | https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

__all__ = [
    "DOMAINS",
    "LatentCost",
    "append_dims",
    "descend",
    "gradient_of",
    "project",
    "rms",
    "start_points",
]

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import InputError, UnknownNameError
from ..progress import track
from ..random import noise

LatentCost: TypeAlias = Callable[[Tensor], Tensor]
"""From latents `(B, *latent_shape)` to the cost of each, `(B,)`."""

DOMAINS = ("sphere", "ball", "space")


def descend(
    cost: LatentCost,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float,
    momentum: float = 0.9,
    adam: bool = False,
    anneal: float = 0.0,
    domain: str = "space",
) -> Tensor:
    """The whole path of a descent, `(steps + 1, B, *latent_shape)`.

    Arguments:
        cost: Cost of each latent.
        z: Where to start, `(B, *latent_shape)`.
        steps: The number of steps `M`, at least 1.
        learning_rate: The step size `beta`.
        momentum: The factor `gamma`; the first decay of Adam.
        adam: Use Adam, whose step length does not depend on the scale of the cost.
        anneal: The exponent `a` of the schedule; 0 for a constant step size.
        domain: `sphere` or `ball` of radius 1, or `space` for no bound.

    Raises:
        InputError: If `steps` is below 1.

    Example:
        >>> z = torch.ones(3, 2)
        >>> path = descend(lambda z: z.square().sum(1), z, steps=4, learning_rate=0.1)
        >>> path.shape, bool((path[-1].abs() < 1).all())
        (torch.Size([5, 3, 2]), True)
    """
    if steps < 1:
        raise InputError(f"A descent needs steps >= 1, it was given {steps}.")
    here = z.detach().clone().requires_grad_()
    optimizer: torch.optim.Optimizer
    if adam:
        optimizer = torch.optim.Adam([here], lr=learning_rate, betas=(momentum, 0.99))
    else:
        optimizer = torch.optim.SGD([here], lr=learning_rate, momentum=momentum)
    path = [here.detach().clone()]
    for step in track(range(steps), "Descend", "step"):
        with torch.enable_grad():
            (here.grad,) = torch.autograd.grad(cost(here).sum(), here)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps) ** anneal
        optimizer.step()
        with torch.no_grad():
            here.copy_(project(here, domain))
        path.append(here.detach().clone())
    return torch.stack(path)


def gradient_of(cost: LatentCost, z: Tensor) -> tuple[Tensor, Tensor]:
    """The cost of each latent `(B,)` and its gradient `(B, *latent_shape)`, both detached."""
    with torch.enable_grad():
        here = z.detach().requires_grad_()
        value = cost(here)
        (gradient,) = torch.autograd.grad(value.sum(), here)
    return value.detach(), gradient.detach()


def project(z: Tensor, domain: str) -> Tensor:
    """The projection of each latent on the domain, `(B, *latent_shape)`.

    Example:
        >>> project(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), "ball")
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    if domain == "space":
        return z
    if domain not in DOMAINS:
        raise UnknownNameError("domain", domain, DOMAINS)
    length = append_dims(z.flatten(1).norm(dim=1), z)
    nearest: Tensor = z / (length.clamp_min(1.0) if domain == "ball" else length.clamp_min(1e-12))
    return nearest


def start_points(
    count: int,
    latent_shape: Sequence[int],
    domain: str,
    *,
    seed: int,
    start: int = 0,
    step: int = 0,
) -> Tensor:
    """Uniform points of the sphere or the ball, N(0, I) in space, `(count, *latent_shape)`.

    Arguments:
        count: Number of points.
        latent_shape: Shape of one.
        domain: One of `DOMAINS`.
        seed: The user's seed.
        start: Index of the first point.
        step: The training step that the draw belongs to.
    """
    z = noise(start, count, latent_shape, seed=seed, step=step, purpose="start points")
    if domain == "space":
        return z
    z = project(z, "sphere")
    if domain == "ball":
        radius = noise(start, count, (1,), seed=seed, step=step, purpose="radius", uniform=True)
        z = z * append_dims(radius.pow(1 / z[0].numel()), z)
    return z


def rms(move: Tensor) -> Tensor:
    """Root mean square of each row, `(B,)`."""
    return move.flatten(1).square().mean(1).sqrt()


def append_dims(value: Tensor, z: Tensor) -> Tensor:
    """One number a row `(B,)`, shaped to broadcast over `z (B, ...)`."""
    return value.view(-1, *[1] * (z.ndim - 1))

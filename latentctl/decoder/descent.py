r"""Gradient descent on each latent's own cost, and the set that it stays in.

.. math:: m \leftarrow \gamma m + \beta_p \nabla_z c(z), \quad z \leftarrow \Pi(z - m), \quad
    \beta_p = \beta (1 - p / M)^a

for :math:`p = 0 ... M - 1`, with the projection :math:`\Pi` on the domain. What an `Updater`
imitates, and what `complete` does without one.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Adam: A Method for Stochastic Optimization (Kingma & Ba, 2014)
    | https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

__all__ = ["DOMAINS", "Cost", "descend", "inside", "start_points"]

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import InputError, UnknownNameError
from ..random import noise

Cost: TypeAlias = Callable[[Tensor], Tensor]
"""Of latents `(B, *latent_shape)`, the cost of each, `(B,)`."""

DOMAINS = ("sphere", "ball", "space")


def descend(
    cost: Cost,
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
        adam: Use Adam, whose steps are as long where the cost is nearly flat.
        anneal: The exponent `a`; with 0 all steps are alike, with 2 the path comes to rest.
        domain: `sphere` or `ball` of radius 1, or `space` for no bound.

    Raises:
        InputError: If there is no step to make.

    Example:
        >>> z = torch.ones(3, 2)
        >>> path = descend(lambda z: z.square().sum(1), z, steps=4, learning_rate=0.1)
        >>> path.shape, bool((path[-1].abs() < 1).all())
        (torch.Size([5, 3, 2]), True)
    """
    if steps < 1:
        raise InputError(f"A descent needs at least one step, it was given {steps}.")
    here = z.detach().clone().requires_grad_()
    optimizer: torch.optim.Optimizer
    if adam:
        optimizer = torch.optim.Adam([here], lr=learning_rate, betas=(momentum, 0.99))
    else:
        optimizer = torch.optim.SGD([here], lr=learning_rate, momentum=momentum)
    path = [here.detach().clone()]
    for step in range(steps):
        with torch.enable_grad():
            (here.grad,) = torch.autograd.grad(cost(here).sum(), here)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps) ** anneal
        optimizer.step()
        with torch.no_grad():
            here.copy_(inside(here, domain))
        path.append(here.detach().clone())
    return torch.stack(path)


def inside(z: Tensor, domain: str) -> Tensor:
    """The point of the domain next to each latent, `(B, *latent_shape)`.

    Example:
        >>> inside(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), "ball")
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    if domain == "space":
        return z
    if domain not in DOMAINS:
        raise UnknownNameError("domain", domain, DOMAINS)
    length = z.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1))
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
        step: The step of a training that they belong to.
    """
    z = noise(start, count, latent_shape, seed=seed, step=step, purpose="start points")
    if domain == "space":
        return z
    z = inside(z, "sphere")
    if domain == "ball":
        radius = noise(start, count, (1,), seed=seed, step=step, purpose="radius", uniform=True)
        z = z * radius.pow(1 / z[0].numel()).view(-1, *[1] * (z.ndim - 1))
    return z

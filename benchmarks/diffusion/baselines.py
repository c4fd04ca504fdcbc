"""Methods of others over starting noise, at a budget: best of N, ReNO, DNO and HyperNoise.

Written from their papers. The reward is the log-probability of the request by the critic, for all.

References:
    | ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization
    | (Eyring et al., 2024) https://arxiv.org/abs/2406.04312
    | Tuning-Free Alignment of Diffusion Models with Direct Noise Optimization (Tang et al., 2024)
    | https://arxiv.org/abs/2405.18881
    | Noise Hypernetworks: Amortizing Test-Time Compute in Diffusion Models (Eyring et al., 2025)
    | https://arxiv.org/abs/2508.09968
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from latentctl import PixelCritic
from latentctl.controllers import Controller, Move, Rejection, Request
from latentctl.nn import encode_targets
from latentctl.nn.velocity import Velocity
from latentctl.random import generator, noise, seeded
from latentctl.training import Step, train

GRADIENT = 3  # evaluations that a gradient counts as
BLOCK, SHUFFLES = 4, 100  # of DNO's test of whiteness


class BestOf(Controller):
    """The likeliest of several prior samples."""

    def __init__(self, critic: PixelCritic, count: int) -> None:
        super().__init__()
        self.attributes = critic
        self.draw = Rejection(critic, candidates=count)

    def search(self, z: Tensor, request: Request) -> Move:
        never = Request(**{**vars(request), "threshold": 1 + 1e-9})
        return self.draw.search(z, never)


def reward(critic: PixelCritic, z: Tensor, target: Tensor) -> Tensor:
    """Log-probability `(B,)` of targets `(B, K)`, NaN = free."""
    logits = critic(z)
    each = F.logsigmoid(torch.where(target > 0.5, logits, -logits))
    return torch.where(target.isnan(), 0.0, each).sum(1)


def best_iterate(
    z: Tensor,
    steps: int,
    loss_of: Callable[[Tensor], Tensor],
    optimizer_of: Callable[[list[Tensor]], torch.optim.Optimizer],
    clip: float | None = None,
) -> Move:
    """The iterate of least loss `(B,)` of some steps of an optimizer from `z`."""
    point = z.clone().requires_grad_()
    optimizer = optimizer_of([point])
    best, least = z.clone(), torch.full((len(z),), torch.inf)
    for _ in range(steps):
        with torch.enable_grad():
            loss = loss_of(point)
            (gradient,) = torch.autograd.grad(loss.sum(), point)
        better = loss.detach() < least
        best[better], least[better] = point.detach()[better], loss.detach()[better]
        if clip is not None:
            each = gradient.flatten(1).norm(dim=1).clamp_min(1e-9)
            gradient = gradient * (clip / each).clamp(max=1).view(-1, *[1] * (z.ndim - 1))
        point.grad = gradient
        optimizer.step()
    return Move(best, torch.full((len(z),), steps, dtype=torch.long))


class Reno(Controller):
    """ReNO's loop: SGD with a clipped gradient, a price on the norm, and the best iterate."""

    def __init__(self, critic: PixelCritic, steps: int) -> None:
        super().__init__()
        self.critic, self.steps = critic, steps

    def search(self, z: Tensor, request: Request) -> Move:
        assert request.target is not None
        target = request.target

        def loss(here: Tensor) -> Tensor:
            size = here.flatten(1).norm(dim=1)
            norm = size.square() / 2 - (here[0].numel() - 1) * size.log()
            return 0.01 * norm - reward(self.critic, here, target)

        def sgd(points: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.SGD(points, lr=5.0, momentum=0.9, nesterov=True)

        return best_iterate(z, self.steps, loss, sgd, clip=0.1)


class Dno(Controller):
    """DNO's loop: AdamW, with the concentration bounds of blocks of the noise as its price.

    The sampler is deterministic, so that the starting noise is all of the noise.
    """

    def __init__(self, critic: PixelCritic, steps: int, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.critic, self.steps, self.learning_rate = critic, steps, learning_rate

    def search(self, z: Tensor, request: Request) -> Move:
        assert request.target is not None
        target, size = request.target, z[0].numel()
        source = generator(0, purpose="shuffles of DNO")
        orders = [torch.arange(size)]
        orders += [torch.randperm(size, generator=source) for _ in range(SHUFFLES)]

        def loss(here: Tensor) -> Tensor:
            bound = log_bound(here.flatten(1)[:, torch.stack(orders)]).mean(1)
            return -reward(self.critic, here, target) - bound

        def adam(points: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.AdamW(points, lr=self.learning_rate)

        return best_iterate(z, self.steps, loss, adam)


def log_bound(rows: Tensor) -> Tensor:
    """Logarithms of the bounds of two probabilities of noise `(..., D)`, summed.

    They are those of a mean and of a covariance of blocks as far from 0 and from the identity.
    """
    blocks = rows.unflatten(-1, (-1, BLOCK))
    count = blocks.shape[-2]
    mean = blocks.mean(-2).square().sum(-1)
    moment = blocks.transpose(-1, -2) @ blocks / count
    far = torch.linalg.eigvalsh(moment - torch.eye(BLOCK)).abs().amax(-1)
    beyond = ((1 + far).sqrt() - 1 - math.sqrt(BLOCK / count)).clamp_min(0)
    first = math.log(2) - count * mean / (2 * BLOCK)
    second = math.log(2) - count * beyond.square() / 2
    return first.clamp(max=0) + second.clamp(max=0)


class HyperNoise(Controller):
    """HyperNoise's objective: a network adds a residual, whose squared norm is its price.

    The residual starts at zero. It is a small U-Net of the noise and the target, since the
    generator's own network has no input for a target.

    With `apart` the result has the norm of its start, and the inner product of two results of one
    digit is kept as that of their starts: the price of a pattern that all results share, which is
    `apart` times the squared change of the inner product, over the dimensions.
    """

    def __init__(self, critic: PixelCritic, width: int = 128, apart: float = 0.0) -> None:
        super().__init__()
        self.critic, self.apart = critic, apart
        with seeded(0, "hypernoise"):
            context = 2 * len(critic.names)
            self.net = Velocity(critic.latent_shape, context=context, width=width, depth=2)

    def search(self, z: Tensor, request: Request) -> Move:
        assert request.target is not None
        return Move(self._moved(z, request.target), torch.ones(len(z), dtype=torch.long))

    def _moved(self, z: Tensor, target: Tensor) -> Tensor:
        moved = z + self.net(z, z.new_zeros(len(z), 1), encode_targets(target))
        if not self.apart:
            return moved
        size = z.flatten(1).norm(dim=1) / moved.flatten(1).norm(dim=1)
        return moved * size.view(-1, *[1] * (z.ndim - 1))

    def _price(self, z: Tensor, moved: Tensor, price: float) -> Tensor:
        """Of results, the rows 2i and 2i + 1 of one digit."""
        shift = price * (moved - z).flatten(1).square().sum(1).mean()
        pairs = (rows.flatten(1).unflatten(0, (-1, 2)).prod(1).sum(1) for rows in (moved, z))
        after, before = pairs
        return shift + self.apart * (after - before).square().mean() / z[0].numel()

    @classmethod
    def fit(
        cls,
        critic: PixelCritic,
        gradients: int,
        *,
        batch_size: int = 32,
        price: float = 0.005,
        apart: float = 0.0,
    ) -> HyperNoise:
        """The network after so many gradients of samples."""
        actor, digits = cls(critic, apart=apart), len(critic.names)

        def loss(z: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            digit = step.integers(digits, purpose="digit")[::2].repeat_interleave(2)
            target = torch.eye(digits)[digit]
            moved = actor._moved(z, target)
            found = reward(critic, moved, target).mean()
            return actor._price(z, moved, price) - found, {"reward": found}

        data = noise(0, gradients, critic.latent_shape, seed=0, purpose="hypernoise")
        settings = {"max_train_steps": gradients // batch_size, "batch_size": batch_size}
        settings |= {"learning_rate": 1e-3, "lr_scheduler": "linear", "ema": 0.98}
        train(actor.net, loss, data, name="hypernoise", **settings)
        return actor


class Then(Controller):
    """A controller, and another one from where it ends."""

    def __init__(self, first: Controller, second: Controller) -> None:
        super().__init__()
        self.first, self.second = first, second

    def search(self, z: Tensor, request: Request) -> Move:
        near = self.first.search(z, request)
        far = self.second.search(near.z, request)
        return Move(far.z, near.evaluations + far.evaluations)

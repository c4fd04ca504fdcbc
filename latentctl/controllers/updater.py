r"""cGML's updater: a network that moves a latent step by step, in the place of gradient descent.

Gradient descent on a cost :math:`c(z)` of what is asked goes from :math:`z` to :math:`z^+`; the
updater :math:`Z(h, z) = (\hat z, \hat\rho)` learns, from what is asked as :math:`h`, to predict

.. math::
    \hat z \approx z^+, \quad \hat\rho \approx \|z^+ - z\|, \qquad
    L_Z = |\hat z - z^+|_1 + |\hat\rho - \|z^+ - z\||_1
        + \lambda\, |Z(h + \epsilon', z + \epsilon) - Z(h, z)|_1

and then walks without the cost, from several starts to several answers,

.. math:: z \leftarrow z + \hat\rho \, \frac{\hat z - z}{\|\hat z - z\|}.

Where steps to two modes average to none, :math:`\hat z` alone would stand still at a ghost between
them; the length :math:`\hat\rho`, learned by itself, walks on. The last term bounds the Lipschitz
constant of :math:`Z`. Lengths are root mean squares over the dimensions here.

Three things are not in the paper. One evaluation may imitate many steps of descent; the lessons
after the first also start on the updater's own path, so that it is right where it goes; and an
`informed` updater is shown the gradient of the cost where it stands as well.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning
      (Ross et al., 2011), for lessons on its own path
    | https://arxiv.org/abs/1011.0686
"""

from __future__ import annotations

__all__ = ["Updater"]

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..critics import Critic
from ..errors import InputError, NonFiniteError, ShapeError
from ..fit import Player, Step, fit
from ..nets import Trunk, encode_targets
from .base import THRESHOLD, Controller, Move
from .descent import Cost, inside

Teacher: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Where latents `(B, *latent_shape)` should go, given the numbers `(B,)` of their requests."""

NOISE = 1e-3  # std of the Lipschitz term
NEAR = 1e-12  # a direction shorter than this is none


class Updater(Controller):
    """Walks a latent to what is asked, a few evaluations from any start.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes, for a controller of `latentctl.condition`.
        context: Number of features of `h`; two for each name by default.
        observer: A network from what is asked and where the walk starts to `h (B, context)`;
            targets are encoded by default.
        width: Units of each layer.
        depth: Number of layers.
        steps: Evaluations of a walk.
        settle: Of these, how many at the end go to the prediction itself, not by the length: more
            exact at a mode, and a ghost has been left by then.
        tolerance: A latent whose predicted length falls below this stays where it is.
        domain: Where latents stay: `sphere` or `ball` of radius 1, or `space`.
        informed: Whether it is shown the gradient of the cost.

    Example:
        >>> updater = Updater((8,), ["Smiling"], width=16, steps=5)
        >>> updater(torch.zeros(3, 8), torch.ones(1, 1)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str] = (),
        *,
        context: int | None = None,
        observer: nn.Module | None = None,
        width: int = 512,
        depth: int = 4,
        steps: int = 5,
        settle: int = 0,
        tolerance: float = 0.0,
        domain: str = "space",
        informed: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"A walk needs at least one step, it was given {steps}.")
        context = 2 * len(names) if context is None else context
        self.latent_shape, self.names, self.context = tuple(latent_shape), tuple(names), context
        self.steps, self.settle, self.tolerance = steps, settle, tolerance
        self.domain, self.informed = domain, informed
        self.config = {
            "latent_shape": list(latent_shape),
            "names": list(names),
            "context": context,
            "width": width,
            "depth": depth,
            "steps": steps,
            "settle": settle,
            "tolerance": tolerance,
            "domain": domain,
            "informed": informed,
        }
        self.observer = observer
        self.dropped = 0
        channels = latent_shape[0]
        seen = (2 * channels, *latent_shape[1:]) if informed else tuple(latent_shape)
        self.trunk = Trunk(seen, context + informed, width=width, depth=depth)
        self.away: nn.Module = nn.Linear(width, channels)
        if self.trunk.spatial:
            self.away = nn.Conv2d(width, channels, 1)
        self.length = nn.Linear(width, 1)
        nn.init.constant_(self.length.bias, -2.0)

    def predict(
        self, h: Tensor | None, z: Tensor, gradient: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next latents `(B, *latent_shape)` and the lengths of the moves `(B,)`.

        Arguments:
            h: What is asked, `(B, context)`; None if `context` is 0.
            z: Latents, `(B, *latent_shape)`.
            gradient: Of the cost at `z`, for an informed updater.

        Raises:
            ShapeError: If `h` has another width.
            InputError: If an informed updater gets no gradient.
        """
        if self.context and (h is None or h.shape != (len(z), self.context)):
            found = "nothing" if h is None else str(tuple(h.shape))
            raise ShapeError(
                f"This updater is told what is asked as h ({len(z)}, {self.context}), it was given "
                f"{found}."
            )
        told, seen = [] if h is None else [h], z
        if self.informed:
            if gradient is None:
                raise InputError("An informed updater is shown the cost: pass `cost`.")
            size = _length(gradient).clamp_min(NEAR)
            seen = torch.cat([z, gradient / _wide(size, z)], dim=1)
            told.append(size.log()[:, None])
        features = self.trunk(seen, torch.cat(told, dim=1) if told else None)
        pooled = features.flatten(2).mean(2) if self.trunk.spatial else features
        return z + self.away(features), F.softplus(self.length(pooled)[:, 0])

    @torch.no_grad()
    def walk(
        self, h: Tensor | None, z: Tensor, *, steps: int | None = None, cost: Cost | None = None
    ) -> tuple[Tensor, Tensor]:
        """All latents of a walk `(steps + 1, B, *latent_shape)`, and the evaluations `(B,)`.

        Arguments:
            h: What is asked, `(B, context)`.
            z: Where to start, `(B, *latent_shape)`.
            steps: Most evaluations; the updater's own number by default.
            cost: Cost of each of the B latents, for an informed updater.
        """
        evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
        going = torch.ones(len(z), dtype=torch.bool, device=z.device)
        path = [z]
        steps = self.steps if steps is None else steps
        for step in range(steps):
            hat, length = self.predict(h, z, gradient_of(cost, z)[1] if cost is not None else None)
            evaluations += going
            going = going & (length >= self.tolerance)
            moved = self.stride(z, hat, length)
            if step >= steps - self.settle:
                moved = inside(hat, self.domain)
            z = torch.where(_wide(going, z), moved, z)
            path.append(z)
        return torch.stack(path), evaluations

    def stride(self, z: Tensor, hat: Tensor, length: Tensor) -> Tensor:
        """One step of the walk, from what `predict` gave."""
        away = hat - z
        size = _length(away)
        # no direction, no move: 0 / 0 would lose the sample
        factor = torch.where(size > NEAR, length / size.clamp_min(NEAR), torch.zeros_like(size))
        return inside(z + _wide(factor, z) * away, self.domain)

    @torch.no_grad()
    def move(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        where: Critic | None = None,
        threshold: float = THRESHOLD,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Move:
        if where is not None:
            raise InputError(
                "An Updater knows the targets that it was trained for, not a critic given later. "
                "Use controllers.Ascent for `where`."
            )
        if self.informed:
            raise InputError("An informed updater walks by a cost: use `walk(h, z, cost=...)`.")
        path, evaluations = self.walk(self.told(y, len(z), z.device, z), z)
        return Move(path[-1], evaluations)

    def told(
        self,
        asked: Tensor | None,
        count: int,
        device: torch.device | str,
        origin: Tensor | None = None,
    ) -> Tensor | None:
        """What is asked, as `h (count, context)`; an observer may look at where the walk starts."""
        if self.observer is not None:
            h: Tensor = self.observer(asked, origin)
            return h
        if not self.context:
            return None
        if asked is None:
            asked = torch.full((1, len(self.names)), torch.nan)
        return encode_targets(asked.to(device)).expand(count, -1)

    def loss(
        self,
        h: Tensor | None,
        z: Tensor,
        goal: Tensor,
        step: Step,
        *,
        gradient: Tensor | None = None,
        lipschitz: float = 0.01,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`L_Z` of one step of descent, over `B` latents; `B` is `step.count`.

        Arguments:
            h: What is asked, `(B, context)`.
            z: Latents, `(B, *latent_shape)`.
            goal: Where descent takes them, `(B, *latent_shape)`.
            step: Hands out the noise.
            gradient: Of the cost at `z`, for an informed updater.
            lipschitz: The weight `lambda`.
        """
        hat, length = self.predict(h, z, gradient)
        far = _length(goal - z)
        imitation = F.l1_loss(hat, goal) + F.l1_loss(length, far)
        if not lipschitz:
            return imitation, {"length": far}
        rough = [NOISE * step.normal(*self.latent_shape, purpose="beside z")]
        beside = None
        if h is not None:
            rough.append(NOISE * step.normal(self.context, purpose="beside h"))
            beside = h + rough[1]
        hat2, length2 = self.predict(beside, z + rough[0], gradient)
        jump = F.l1_loss(hat2, hat) + F.l1_loss(length2, length)
        return imitation + lipschitz * jump / NOISE, {"length": far, "jump": jump / NOISE}

    def learn(
        self,
        teacher: Teacher,
        starts: Tensor,
        asked: Tensor,
        *,
        cost: Callable[[Tensor], Cost] | None = None,
        rounds: int = 3,
        max_train_steps: int = 1500,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        lipschitz: float = 0.001,
        seed: int = 0,
        **options: Any,
    ) -> Updater:
        """Imitates a teacher's moves, first on the teacher's path, then on its own.

        Arguments:
            teacher: Where latents should go next, given the numbers of their requests.
            starts: Where walks start, `(N, *latent_shape)`, one for each request.
            asked: The requests, `(N, ...)`, as the observer takes them.
            cost: Given numbers of requests, their cost; for an informed updater.
            rounds: How often lessons are collected; after the first on its own path.
            max_train_steps: Steps of training, over all rounds.
            batch_size: Moves in a step.
            learning_rate: Peak of Adam's learning rate in each round.
            lipschitz: Weight of the Lipschitz term.
            seed: Decides every random number.
            options: Further arguments of `latentctl.fit.fit`.

        Raises:
            NonFiniteError: If the teacher's moves are not finite anywhere. Where they are so on
                some starts, these are left out and counted in `dropped`.
        """
        numbers = torch.arange(len(starts))
        lessons: list[tuple[Tensor, ...]] = []
        self.dropped = 0
        for turn in range(rounds):
            z, alive = starts, torch.ones(len(starts), dtype=torch.bool)
            for _ in range(self.steps):
                goal = teacher(z, numbers)
                slope = torch.zeros(len(z), 0)
                if cost is not None:
                    slope = gradient_of(cost(numbers), z)[1]
                alive &= torch.isfinite(goal).flatten(1).all(1) & torch.isfinite(slope).all()
                lessons.append((numbers[alive], z[alive], goal[alive], slope[alive]))
                if turn:
                    own = [self._one(asked, n, z, slope) for n in numbers.split(batch_size)]
                    goal = torch.cat(own)
                z = torch.where(_wide(alive, z), goal, z)
            self.dropped = max(self.dropped, int((~alive).sum()))
            if not bool(alive.any()):
                raise NonFiniteError(
                    "The teacher's moves are finite from no start. Check that the cost is finite "
                    "there, and take a smaller learning rate."
                )
            data = TensorDataset(*(torch.cat(parts) for parts in zip(*lessons, strict=True)))
            optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
            more = {"progress": False, "lr_scheduler": "linear", "max_grad_norm": 5.0, **options}

            def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
                row, z, goal, slope = batch
                h = self.told(
                    asked[row.cpu()].to(z.device), len(z), z.device, starts[row.cpu()].to(z.device)
                )
                gradient = slope if self.informed else None
                return self.loss(h, z, goal, step, gradient=gradient, lipschitz=lipschitz)

            fit(
                Player("updater", self, loss, optimizer),
                data,
                max_train_steps=math.ceil(max_train_steps / rounds),
                batch_size=batch_size,
                seed=seed + turn,
                **more,
            )
            self.eval()
        return self

    @torch.no_grad()
    def _one(self, asked: Tensor, numbers: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        h = self.told(asked[numbers], len(numbers), z.device)
        gradient = slope[numbers] if self.informed else None
        return self.stride(z[numbers], *self.predict(h, z[numbers], gradient))


def gradient_of(cost: Cost, z: Tensor) -> tuple[Tensor, Tensor]:
    """The cost of each latent `(B,)` and its gradient `(B, *latent_shape)`."""
    with torch.enable_grad():
        here = z.detach().requires_grad_()
        value = cost(here)
        (gradient,) = torch.autograd.grad(value.sum(), here)
    return value.detach(), gradient.detach()


def _length(move: Tensor) -> Tensor:
    """Root mean square of each row, `(B,)`."""
    return move.flatten(1).square().mean(1).sqrt()


def _wide(value: Tensor, z: Tensor) -> Tensor:
    return value.view(-1, *[1] * (z.ndim - 1))

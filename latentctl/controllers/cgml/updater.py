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

Three things are not in the paper. One evaluation may clone many steps of descent; the lessons
after the first also start on the updater's own path, so that it is right where it goes; and an
`gradient_input` updater is shown the gradient of the cost where it stands as well.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning
      (Ross et al., 2011), for lessons on its own path
    | https://arxiv.org/abs/1011.0686
"""

from __future__ import annotations

__all__ = ["Updater"]

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...critics import Critic
from ...decoder import Prior
from ...decoder.descent import Cost, inside
from ...errors import InputError, ShapeError
from ...latents import Latents
from ...nn.trunk import Trunk, encode_targets
from ...random import seeded
from ...training import Step
from ..base import THRESHOLD, Controller, Move, refuse_where
from .lessons import learn, moves

NOISE = 1e-3  # std of the Lipschitz term
NEAR = 1e-12  # a direction shorter than this is none


class Updater(Controller):
    """Walks a latent to what is asked, a few evaluations from any start.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes, for a controller of `latentctl.condition`.
        context: Number of features of `h`; two for each name by default.
        context_encoder: A network from what is asked and where the walk starts to `h (B, context)`;
            targets are encoded by default.
        width: Units of each layer.
        depth: Number of layers.
        steps: Evaluations of a walk.
        final_jumps: Of these, how many at the end go to the prediction itself, not by the length: more
            exact at a mode, and a ghost has been left by then.
        tolerance: A latent whose predicted length falls below this stays where it is.
        domain: Where latents stay: `sphere` or `ball` of radius 1, or `space`.
        gradient_input: Whether it is shown the gradient of the cost.

    Example:
        >>> updater = Updater((8,), ["Smiling"], width=16, steps=5)
        >>> updater(torch.zeros(3, 8), torch.ones(1, 1)).shape
        torch.Size([3, 8])
    """

    learned = True
    dropped: int
    """Starts that its last training left out, for the cost was not finite there."""

    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str] = (),
        *,
        context: int | None = None,
        context_encoder: nn.Module | None = None,
        width: int = 512,
        depth: int = 4,
        steps: int = 5,
        final_jumps: int = 0,
        tolerance: float = 0.0,
        domain: str = "space",
        gradient_input: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"A walk needs at least one step, it was given {steps}.")
        context = 2 * len(names) if context is None else context
        self.latent_shape, self.names, self.context = tuple(latent_shape), tuple(names), context
        self.steps, self.final_jumps, self.tolerance = steps, final_jumps, tolerance
        self.domain, self.gradient_input = domain, gradient_input
        self.config = {
            "latent_shape": list(latent_shape),
            "names": list(names),
            "context": context,
            "width": width,
            "depth": depth,
            "steps": steps,
            "final_jumps": final_jumps,
            "tolerance": tolerance,
            "domain": domain,
            "gradient_input": gradient_input,
        }
        self.context_encoder = context_encoder
        self.dropped = 0
        channels = latent_shape[0]
        seen = (2 * channels, *latent_shape[1:]) if gradient_input else tuple(latent_shape)
        self.trunk = Trunk(seen, context + gradient_input, width=width, depth=depth, grid="unet")
        features, outputs = self.trunk.features, 2 * channels if gradient_input else channels
        self.away = (
            nn.Conv2d(features, outputs, 1) if self.trunk.spatial else nn.Linear(features, outputs)
        )
        if gradient_input:  # it starts as gradient descent with steps of one length
            nn.init.zeros_(self.away.get_parameter("weight"))
            nn.init.zeros_(self.away.get_parameter("bias"))
        self.length = nn.Linear(features, 1)
        nn.init.constant_(self.length.bias, -2.0)

    def predict(
        self, h: Tensor | None, z: Tensor, gradient: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next latents `(B, *latent_shape)` and the lengths of the moves `(B,)`.

        Arguments:
            h: What is asked, `(B, context)`; None if `context` is 0.
            z: Latents, `(B, *latent_shape)`.
            gradient: Of the cost at `z`, for an gradient_input updater.

        Raises:
            ShapeError: If `h` has another width.
            InputError: If an gradient_input updater gets no gradient.
        """
        if self.context and (h is None or h.shape != (len(z), self.context)):
            found = "nothing" if h is None else str(tuple(h.shape))
            raise ShapeError(
                f"This updater is told what is asked as h ({len(z)}, {self.context}), it was given "
                f"{found}."
            )
        if not self.gradient_input:
            features = self.trunk(z, h)
            return z + self.away(features), self._length(features)
        if gradient is None:
            raise InputError("An gradient_input updater is shown the cost: pass `cost`.")
        size = rms(gradient).clamp_min(NEAR)
        slope = gradient / wide(size, z)
        context = size.log()[:, None] if h is None else torch.cat([h, size.log()[:, None]], dim=1)
        features = self.trunk(torch.cat([z, slope], dim=1), context)
        away, scale = self.away(features).chunk(2, dim=1)
        return z + away - slope * scale.exp(), self._length(features)

    def _length(self, features: Tensor) -> Tensor:
        pooled = features.flatten(2).mean(2) if self.trunk.spatial else features
        return F.softplus(self.length(pooled)[:, 0])

    @torch.no_grad()
    def walk(
        self, h: Tensor | None, z: Tensor, *, steps: int | None = None, cost: Cost | None = None
    ) -> tuple[Tensor, Tensor]:
        """All latents of a walk `(steps + 1, B, *latent_shape)`, and the evaluations `(B,)`.

        Arguments:
            h: What is asked, `(B, context)`.
            z: Where to start, `(B, *latent_shape)`.
            steps: Most evaluations; the updater's own number by default.
            cost: Cost of each of the B latents, for an gradient_input updater.
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
            if step >= steps - self.final_jumps:
                moved = inside(hat, self.domain)
            z = torch.where(wide(going, z), moved, z)
            path.append(z)
        return torch.stack(path), evaluations

    def stride(self, z: Tensor, hat: Tensor, length: Tensor) -> Tensor:
        """One step of the walk, from what `predict` gave."""
        away = hat - z
        size = rms(away)
        # no direction, no move: 0 / 0 would lose the sample
        factor = torch.where(size > NEAR, length / size.clamp_min(NEAR), torch.zeros_like(size))
        return inside(z + wide(factor, z) * away, self.domain)

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
        refuse_where(self, where)
        if self.gradient_input:
            raise InputError(
                "An gradient_input updater walks by a cost: use `walk(h, z, cost=...)`."
            )
        path, evaluations = self.walk(self.told(y, len(z), z.device, z), z)
        return Move(path[-1], evaluations)

    def told(
        self,
        asked: Tensor | None,
        count: int,
        device: torch.device | str,
        origin: Tensor | None = None,
    ) -> Tensor | None:
        """What is asked, as `h (count, context)`; an context_encoder may look at where the walk starts."""
        if self.context_encoder is not None:
            h: Tensor = self.context_encoder(asked, origin)
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
            gradient: Of the cost at `z`, for an gradient_input updater.
            lipschitz: The weight `lambda`.
        """
        hat, length = self.predict(h, z, gradient)
        far = rms(goal - z)
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

    @classmethod
    def fit(
        cls,
        latents: Latents,
        teacher: Controller,
        *,
        attributes: Critic | None = None,
        prior: Prior | None = None,
        steps: int = 5,
        requests: int = 8000,
        width: int = 512,
        depth: int = 4,
        threshold: float = THRESHOLD,
        max_train_steps: int = 2000,
        seed: int = 0,
        **options: Any,
    ) -> Updater:
        """An updater that makes a teacher's moves in a few equal strides.

        The teacher is asked once for each request. A walk that has strayed is taught the way from
        where it is to where the teacher went.

        Arguments:
            latents: Encodings of data, with labels for a conditional updater.
            teacher: A `FlowMatching`, an `Ascent` with its critics, or any other controller.
            attributes: A critic; if given, half of the requests are edits of encodings, in which
                one attribute is flipped and the others are kept.
            prior: Where the other walks start, N(0, I) by default.
            steps: Strides of a walk.
            requests: Number of moves that the teacher makes.
            width: Units of each layer.
            depth: Number of layers.
            threshold: Probability at which a teacher that climbs may stop; a pupil misses by a
                little, so a sure teacher makes a better one.
            max_train_steps: Steps of training.
            seed: Decides every random number.
            options: Further arguments of `lessons.learn`.
        """
        names = latents.names if latents.labels is not None else ()
        with seeded(seed, "updater"):
            updater = cls(latents.latent_shape, names, width=width, depth=depth, steps=steps)
        starts, asked, goals = moves(
            teacher,
            latents,
            requests,
            attributes=attributes,
            prior=prior,
            threshold=threshold,
            seed=seed,
        )

        def stride(z: Tensor, numbers: Tensor, place: int) -> Tensor:
            return torch.lerp(z, goals[numbers], 1 / (steps - place))

        options = {"max_train_steps": max_train_steps, "seed": seed, "rounds": 2, **options}
        learn(updater, stride, starts, asked, **options)
        return updater


def gradient_of(cost: Cost, z: Tensor) -> tuple[Tensor, Tensor]:
    """The cost of each latent `(B,)` and its gradient `(B, *latent_shape)`."""
    with torch.enable_grad():
        here = z.detach().requires_grad_()
        value = cost(here)
        (gradient,) = torch.autograd.grad(value.sum(), here)
    return value.detach(), gradient.detach()


def rms(move: Tensor) -> Tensor:
    """Root mean square of each row, `(B,)`."""
    return move.flatten(1).square().mean(1).sqrt()


def wide(value: Tensor, z: Tensor) -> Tensor:
    return value.view(-1, *[1] * (z.ndim - 1))

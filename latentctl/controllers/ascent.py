r"""Gradient ascent on critics: the optimisation-based actor of Latent Constraints.

Each latent climbs by Adam on its own objective,

.. math::
    L(z') = -\log P(y \mid z') - w \log D(z', y) + \lambda L_\mathrm{dist}(z', z), \quad
    L_\mathrm{dist} = \frac{1}{d} \sum_i \frac{\log(1 + (z'_i - z_i)^2)}{\bar\sigma_i^2}

where :math:`\bar\sigma_i` is the mean posterior standard deviation, so that a dimension which
carries much information is dear to move. A sample stops at the first step at which its request
holds with the probability asked for, and leaves the batch; one whose request holds from the start
is not moved at all. With `noise > 0` the climb is Langevin dynamics at that temperature.

`Ascent.for_edits` has other terms, those that kept faces themselves best (`benchmarks/RESULTS.md`):

.. math::
    L(z') = -\log P(y \mid z') + h \sum_{k \text{ held}} (p_k(z') - p_k(z))^2 + \rho \|z' - z\|^2

whose optimum it settles in, instead of stopping where a critic is content first: the plain square
costs less identity than the distance above at equal success, and a critic that is content by a
hair is often wrong. What is held costs a bounded price: black hair cannot come where brown hair
must stay, and cross-entropy would fight for that to the end.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Ascent", "distance"]

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import Critic, RealismCritic
from ..critics.base import cross_entropy
from ..errors import InputError
from ..random import noise
from .base import THRESHOLD, Controller, Move, require_finite
from .targets import round_targets

BETAS, EPSILON = (0.9, 0.999), 1e-8
EDIT_DEFAULTS: dict[str, Any] = {
    "steps": 40,
    "learning_rate": 0.1,
    "realism_weight": 0.0,
    "hold_weight": 2.0,
    "squared_hold": True,
    "shift_weight": 0.015,
    "continue_after_threshold": True,
    "whitened": True,
}


class Ascent(Controller):
    """Climbs the gradient of critics, sample by sample.

    Arguments:
        attributes: The critic of the attributes, or None if only realism or `where` is asked.
        realism: The critic of realism, conditional or not.
        steps: Most steps of a sample.
        learning_rate: Step size of Adam, in latent units.
        realism_weight: Weight of the realism term.
        realism_threshold: Probability of realism at which a sample may stop; 0 asks for none.
        hold_weight: Weight of values to keep: fractional targets that held at the start.
        squared_hold: Whether a value to keep costs the square of its change of probability, rather
            than its cross-entropy.
        distance_weight: Weight of the distance term, scaled by `attributes.posterior_std`.
        shift_weight: Weight of the squared shift, in nats for a squared latent unit.
        continue_after_threshold: Whether a sample goes on to the optimum when its request holds, unless the request
            is a probability to aim at.
        whitened: Whether steps are taken, and the shift is measured, in the white coordinates of
            `attributes.covariance`, if there is one: along what data vary in.
        noise: Standard deviation of the Langevin noise in units of `sqrt(2 * learning_rate)`.
        drop_finished: Whether finished samples leave the batch; if not, they only stand still.

    Example:
        >>> from latentctl import AttributeCritic
        >>> critic = AttributeCritic((8,), ["Smiling"], width=16)
        >>> ascent = Ascent(critic, steps=5)
        >>> z, y = torch.zeros(3, 8), torch.ones(1, 1)
        >>> ascent(z, y).shape, torch.equal(ascent(z, y, strength=0), z)
        (torch.Size([3, 8]), True)
    """

    def __init__(
        self,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        *,
        steps: int = 100,
        learning_rate: float = 0.05,
        realism_weight: float = 0.05,
        realism_threshold: float = 0.0,
        hold_weight: float = 1.0,
        squared_hold: bool = False,
        distance_weight: float = 0.0,
        shift_weight: float = 0.0,
        continue_after_threshold: bool = False,
        whitened: bool = False,
        noise: float = 0.0,
        drop_finished: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= realism_threshold < 1:
            raise InputError(
                f"realism_threshold is a probability in [0, 1), it was given as "
                f"{realism_threshold:g}."
            )
        self.attributes, self.realism = attributes, realism
        self.config = {
            "steps": steps,
            "learning_rate": learning_rate,
            "realism_weight": realism_weight,
            "realism_threshold": realism_threshold,
            "hold_weight": hold_weight,
            "squared_hold": squared_hold,
            "distance_weight": distance_weight,
            "shift_weight": shift_weight,
            "continue_after_threshold": continue_after_threshold,
            "whitened": whitened,
            "noise": noise,
            "drop_finished": drop_finished,
        }
        self.steps, self.learning_rate = steps, learning_rate
        self.realism_weight, self.realism_threshold = realism_weight, realism_threshold
        self.hold_weight, self.squared_hold = hold_weight, squared_hold
        self.distance_weight = distance_weight
        self.shift_weight, self.continue_after_threshold = shift_weight, continue_after_threshold
        self.covariance = attributes.covariance if whitened and attributes is not None else None
        self.noise, self.drop_finished = noise, drop_finished

    @classmethod
    def for_edits(
        cls,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        **options: Any,
    ) -> Ascent:
        """The ascent of edits: short steps away from a real input, all others held.

        Arguments:
            attributes: The critic of the attributes, best one that was taught.
            realism: The critic of realism, used only if `realism_weight` is given.
            options: What is to be other than `EDIT_DEFAULTS`.
        """
        return cls(attributes, realism, **{**EDIT_DEFAULTS, **options})

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
        return self.climb(z, z, y, where=where, threshold=threshold, seed=seed, index=index)

    def move_within(
        self, region: Tensor, z: Tensor, y: Tensor | None = None, **options: Any
    ) -> Move:
        return self.climb(z, z, y, region=region, **options)

    def climb(
        self,
        z: Tensor,
        begin: Tensor,
        y: Tensor | None = None,
        *,
        region: Tensor | None = None,
        where: Critic | None = None,
        threshold: float = THRESHOLD,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Move:
        """The move of `z` that is searched from `begin`, both `(B, *latent_shape)`.

        Arguments:
            z: What is moved, and what the shift is measured from.
            begin: Where the search begins.
            y: As in `move`.
            region: As in `move_within`.
            where: As in `move`.
            threshold: As in `move`.
            seed: As in `move`.
            index: As in `move`.
        """
        origin = z.detach()
        result = begin.detach().clone()
        evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
        kept = None
        if y is not None:
            y = y.to(z.device).expand(len(z), -1)
            kept = (y > 0) & (y < 1)
            if self.attributes is not None and bool(kept.any()):
                with torch.no_grad():
                    start = self.attributes.probability(origin)
                kept &= (start - y).abs() <= 1 - threshold
                evaluations += 1
        continuing = torch.full((len(z),), self.continue_after_threshold, device=z.device)
        if kept is not None and y is not None:  # what is aimed at has no further to go
            continuing &= ~((y > 0) & (y < 1) & ~kept).any(1)
        active = torch.arange(len(z), device=z.device)
        index = active if index is None else index
        point = result.clone() if self.covariance is None else self.covariance.whiten(begin - z)
        share = torch.ones_like(z) if region is None else region.expand_as(z)
        first, second = torch.zeros_like(result), torch.zeros_like(result)
        for step in range(self.steps):
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                here = self._latents(point, origin[active], share[active])
                target = None if y is None else y[active]
                keep = None if kept is None else kept[active]
                way = None if self.covariance is None else point
                loss, done = self.objective(
                    here, origin[active], target, keep, where, threshold, way=way
                )
                evaluations[active] += 1
                going = ~done | continuing[active]
                if not bool(going.any()):
                    break
                (gradient,) = torch.autograd.grad(loss.sum(), point)
            point, here = point.detach(), here.detach()
            if self.covariance is None:  # white points reach latents through the share
                gradient = gradient * share[active]
            if self.drop_finished:
                result[active[~going]] = here[~going]
                active, point, gradient = active[going], point[going], gradient[going]
                first, second = first[going], second[going]
                going = going[going]
            first = torch.lerp(gradient, first, BETAS[0])
            second = torch.lerp(gradient**2, second, BETAS[1])
            scale = (second / (1 - BETAS[1] ** (step + 1))).sqrt() + EPSILON
            update = -self.learning_rate * first / (1 - BETAS[0] ** (step + 1)) / scale
            if self.noise:
                draw = self._langevin(index[active], z.shape[1:], seed, step)
                update = update + (draw if self.covariance is not None else share[active] * draw)
            point = torch.where(going.view(-1, *[1] * (z.ndim - 1)), point + update, point)
        result[active] = self._latents(point.detach(), origin[active], share[active])
        return Move(result, evaluations)

    def _latents(self, point: Tensor, origin: Tensor, share: Tensor) -> Tensor:
        """Where a point of the search is: itself, or a white move of `origin`, all `(B, ...)`."""
        if self.covariance is None:
            return point
        return origin + share * self.covariance.color(point)

    def _langevin(self, index: Tensor, shape: torch.Size, seed: int, step: int) -> Tensor:
        first = int(index.min())
        draw = noise(
            first, int(index.max()) + 1 - first, shape, seed=seed, step=step, purpose="langevin"
        )
        spread = self.noise * math.sqrt(2 * self.learning_rate)
        return spread * draw.to(index.device)[index - first]

    def objective(
        self,
        z: Tensor,
        origin: Tensor,
        y: Tensor | None,
        kept: Tensor | None,
        where: Critic | None,
        threshold: float,
        *,
        way: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of each sample, and whether its request holds, both `(B,)`.

        Arguments:
            z: Where the samples are, `(B, *latent_shape)`.
            origin: Where they came from.
            y: Targets, `(B, K)`, as in `move`.
            kept: Which of them are values to keep.
            where: A further critic to satisfy.
            threshold: Probability with which a request must hold.
            way: The white move that led from `origin` to `z`, if that is known. Where only a part
                of it may be taken, it is the whole.
        """
        loss = torch.zeros(len(z), device=z.device)
        done = torch.ones(len(z), dtype=torch.bool, device=z.device)
        if y is not None and kept is not None and self.attributes is not None:
            logits = require_finite(self.attributes(z), "The log-odds of the attribute critic")
            each = cross_entropy(logits, y)
            held = each
            if self.squared_hold:  # no NaN even where it is not chosen, or gradients are NaN
                held = (torch.sigmoid(logits) - torch.nan_to_num(y)).square()
            loss = loss + torch.where(kept, self.hold_weight * held, each).sum(1)
            near = (torch.sigmoid(logits) - y).abs() <= 1 - threshold
            done &= (near | kept | torch.isnan(y)).all(1)
        if where is not None:
            score = require_finite(where(z), "The log-odds of the critic `where`")
            loss = loss + F.softplus(-score)
            done &= torch.sigmoid(score) >= threshold
        if self.realism is not None and (self.realism_weight or self.realism_threshold):
            score = self.realism(z, None if y is None else round_targets(y))
            score = require_finite(score, "The log-odds of the realism critic")
            loss = loss + self.realism_weight * F.softplus(-score)
            done &= torch.sigmoid(score) >= self.realism_threshold
        if self.distance_weight:
            used = 1.0 if self.attributes is None else self.attributes.posterior_std
            loss = loss + self.distance_weight * distance(z, origin, used)
        if self.shift_weight:
            if way is None:
                way = z - origin if self.covariance is None else self.covariance.whiten(z - origin)
            loss = loss + self.shift_weight * way.flatten(1).square().sum(1)
        return loss, done.detach()


def distance(moved: Tensor, origin: Tensor, posterior_std: Tensor | float) -> Tensor:
    r"""The distance of Latent Constraints, `(B,)`.

    .. math:: \frac{1}{d} \sum_i \log(1 + (z'_i - z_i)^2) / \bar\sigma_i^2
    """
    cost: Tensor = torch.log1p((moved - origin) ** 2) / posterior_std**2
    return cost.flatten(1).mean(1)

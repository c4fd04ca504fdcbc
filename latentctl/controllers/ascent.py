r"""Gradient ascent on critics: the optimisation-based actor of Latent Constraints.

Each latent climbs by Adam on its own objective,

.. math::
    L(z') = -\log P(y \mid z') - w \log D(z', y) + \lambda L_\mathrm{dist}(z', z), \quad
    L_\mathrm{dist} = \frac{1}{d} \sum_i \frac{\log(1 + (z'_i - z_i)^2)}{\bar\sigma_i^2}

where :math:`\bar\sigma_i` is the mean posterior standard deviation, so that dimensions which carry
much information cost more to move. A sample stops at the first step at which its request holds
with the threshold's probability, and leaves the batch; one whose request holds at the start is not
moved. With `noise > 0` the ascent is Langevin dynamics at that temperature.

`Ascent.for_edits` minimises another objective, the one that preserved identity best on real faces
(`benchmarks/results/edits.md`):

.. math::
    L(z') = -\log P(y \mid z') + h \sum_{k \text{ held}} (p_k(z') - p_k(z))^2 + \rho \|z' - z\|^2

and continues to its optimum instead of stopping at the threshold. At equal success the squared
shift preserves identity better than the distance above. Predictions just beyond the threshold are
often wrong, hence the optimum. The price of a held attribute is bounded, since attributes may
exclude each other: with cross-entropy, holding brown hair would prevent black hair altogether.

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
from ..latents import Covariance
from ..random import noise
from .base import Controller, Move, require_finite
from .request import Request

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


class Ascent(Controller, kind="ascent"):
    """Climbs the gradient of critics, sample by sample.

    Arguments:
        attributes: The critic of the attributes, or None if only realism or `where` is asked.
        realism: The critic of realism, conditional or not.
        steps: Most steps of a sample.
        learning_rate: Step size of Adam, in latent units.
        realism_weight: Weight of the realism term.
        realism_threshold: Probability of realism at which a sample may stop; 0 asks for none.
        hold_weight: Weight of held attributes.
        squared_hold: Whether a held attribute costs the square of its change of probability, rather
            than the cross-entropy.
        distance_weight: Weight of the distance term, scaled by `attributes.posterior_std`.
        shift_weight: Weight of the squared shift, in nats for a squared latent unit.
        continue_after_threshold: Whether a sample goes on to the optimum when its request holds,
            unless a target is a probability between 0 and 1.
        whitened: Whether steps are taken, and the shift is measured, in the whitened coordinates of
            `attributes.covariance`, if there is one.
        noise: Standard deviation of the Langevin noise in units of `sqrt(2 * learning_rate)`.
        drop_finished: Whether finished samples leave the batch; if not, they are masked.

    Example:
        >>> from latentctl import AttributeCritic
        >>> critic = AttributeCritic((8,), ["Smiling"], width=16)
        >>> ascent = Ascent(critic, steps=5)
        >>> z, y = torch.zeros(3, 8), torch.ones(1, 1)
        >>> ascent(z, y).shape, torch.equal(ascent(z, y, strength=0), z)
        (torch.Size([3, 8]), True)
    """

    steps: int
    drop_finished: bool
    squared_hold: bool
    whitened: bool
    continue_after_threshold: bool
    learning_rate: float
    realism_weight: float
    realism_threshold: float
    hold_weight: float
    distance_weight: float
    shift_weight: float
    noise: float

    searches_region = True

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
        vars(self).update(self.config)

    @classmethod
    def for_edits(
        cls,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        **options: Any,
    ) -> Ascent:
        """The ascent for edits of real inputs, with `EDIT_DEFAULTS`.

        Arguments:
            attributes: The critic of the attributes, preferably one from `latentctl.teach`.
            realism: The critic of realism, used only if `realism_weight` is given.
            options: Arguments that differ from `EDIT_DEFAULTS`.
        """
        return cls(attributes, realism, **{**EDIT_DEFAULTS, **options})

    def search(self, z: Tensor, request: Request) -> Move:
        return self.climb(z, z, request)

    @property
    def covariance(self) -> Covariance | None:
        """Covariance of the latents in whose whitened coordinates steps are taken, if any."""
        return self.attributes.covariance if self.whitened and self.attributes else None

    def climb(
        self, z: Tensor, begin: Tensor, request: Request, covariance: Covariance | None = None
    ) -> Move:
        """The move of `z` that is searched from `begin`, both `(B, *latent_shape)`.

        Arguments:
            z: What is moved, and what the shift is measured from.
            begin: Where the search begins.
            request: What is asked, with a row for each latent (`Request.for_latents`).
            covariance: Of the latents, if not that of the critic.
        """
        origin, result = z.detach(), begin.detach().clone()
        evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
        if request.is_held and request.current is None and self.attributes is not None:
            request = request.with_current(self.attributes, origin)
            evaluations += 1
        continuing = torch.full((len(z),), self.continue_after_threshold, device=z.device)
        if request.target is not None:  # a probability to aim at is not exceeded
            continuing &= ~((request.target > 0) & (request.target < 1)).any(1)
        covariance = covariance or self.covariance

        def latents(point: Tensor, origin: Tensor, share: Tensor) -> Tensor:
            return point if covariance is None else origin + share * covariance.color(point)

        active = torch.arange(len(z), device=z.device)
        index = active if request.index is None else request.index
        share = torch.ones_like(z) if request.region is None else request.region.expand_as(z)
        point = result.clone() if covariance is None else covariance.whiten(begin - z)
        first, second = torch.zeros_like(result), torch.zeros_like(result)
        for step in range(self.steps):
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                here = latents(point, origin, share)
                way = None if covariance is None else point
                loss, done = self.objective(here, origin, request, way=way)
                evaluations[active] += 1
                going = ~done | continuing
                if not bool(going.any()):
                    break
                (gradient,) = torch.autograd.grad(loss.sum(), point)
            point, here = point.detach(), here.detach()
            if covariance is None:  # whitened points reach latents through the share
                gradient = gradient * share
            if self.drop_finished and not bool(going.all()):
                result[active[~going]] = here[~going]
                active, continuing, request = active[going], continuing[going], request.rows(going)
                point, gradient, origin = point[going], gradient[going], origin[going]
                first, second, share, index = (
                    first[going],
                    second[going],
                    share[going],
                    index[going],
                )
                going = going[going]
            first = torch.lerp(gradient, first, BETAS[0])
            second = torch.lerp(gradient**2, second, BETAS[1])
            scale = (second / (1 - BETAS[1] ** (step + 1))).sqrt() + EPSILON
            update = -self.learning_rate * first / (1 - BETAS[0] ** (step + 1)) / scale
            if self.noise:
                draw = self._langevin(index, z.shape[1:], request.seed, step)
                update = update + (share * draw if covariance is None else draw)
            point = torch.where(going.view(-1, *[1] * (z.ndim - 1)), point + update, point)
        result[active] = latents(point.detach(), origin, share)
        return Move(result, evaluations)

    def _langevin(self, index: Tensor, shape: torch.Size, seed: int, step: int) -> Tensor:
        first = int(index.min())
        draw = noise(
            first, int(index.max()) + 1 - first, shape, seed=seed, step=step, purpose="langevin"
        )
        spread = self.noise * math.sqrt(2 * self.learning_rate)
        return spread * draw.to(index.device)[index - first]

    def objective(
        self, z: Tensor, origin: Tensor, request: Request, *, way: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each sample, and whether its request holds, both `(B,)`.

        Arguments:
            z: Where the samples are, `(B, *latent_shape)`.
            origin: Where they came from.
            request: What is asked of each of them.
            way: The whitened move that led from `origin` to `z`, if that is known. Where only a
                part of it may be taken, it is the whole.
        """
        loss = torch.zeros(len(z), device=z.device)
        done = torch.ones(len(z), dtype=torch.bool, device=z.device)
        y, held = request.values, request.hold
        if y is not None and self.attributes is not None:
            logits = require_finite(self.attributes(z), "The log-odds of the attribute critic")
            each = cross_entropy(logits, y)
            near = (torch.sigmoid(logits) - y).abs() <= 1 - request.threshold
            if held is not None:
                kept = each
                if self.squared_hold:  # no NaN even where it is not chosen, or gradients are NaN
                    kept = (torch.sigmoid(logits) - torch.nan_to_num(y)).square()
                each, near = torch.where(held, self.hold_weight * kept, each), near | held
            loss = loss + each.sum(1)
            done &= (near | torch.isnan(y)).all(1)
        if request.where is not None:
            score = require_finite(request.where(z), "The log-odds of the critic `where`")[:, 0]
            loss = loss + F.softplus(-score)
            done &= torch.sigmoid(score) >= request.threshold
        if self.realism is not None and (self.realism_weight or self.realism_threshold):
            score = self.realism(z, None if y is None else y.round())
            score = require_finite(score, "The log-odds of the realism critic")[:, 0]
            loss = loss + self.realism_weight * F.softplus(-score)
            done &= torch.sigmoid(score) >= self.realism_threshold
        if self.distance_weight:
            used = getattr(self.attributes, "posterior_std", None)
            loss = loss + self.distance_weight * distance(z, origin, 1.0 if used is None else used)
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

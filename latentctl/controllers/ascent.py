r"""Gradient ascent on critics: the optimisation-based actor of Latent Constraints.

Each latent climbs by Adam on its own objective,

.. math::
    L(z') = -\log P(y \mid z') - w \log D(z', y) + \lambda L_\mathrm{dist}(z', z), \quad
    L_\mathrm{dist} = \frac{1}{d} \sum_i \frac{\log(1 + (z'_i - z_i)^2)}{\bar\sigma_i^2}

where :math:`\bar\sigma_i` is the mean posterior standard deviation, so that dimensions which carry
much information cost more to move. A sample stops at the first step at which its request holds
with the threshold's probability, and leaves the batch. A sample whose request holds at the start is
not moved. With `noise > 0` the ascent is Langevin dynamics at that temperature.

`Ascent.for_edits` minimises another objective, the one that preserved identity best on real faces
(`benchmarks/results/edits.md`):

.. math::
    L(z') = -\log P(y \mid z') + h \sum_{k \text{ held}} (p_k(z') - p_k(z))^2 + \rho \|z' - z\|^2

and continues to its optimum instead of stopping at the threshold, since predictions just beyond
the threshold are often wrong. At equal success the squared shift preserves identity better than the
distance above. The cost of a held attribute is bounded, since attributes may exclude each other:
with cross-entropy, holding brown hair would prevent black hair.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["Ascent", "distance"]

import math
from typing import Any

import torch
from torch import Tensor

from ..critics import Critic, RealismCritic
from ..errors import InputError
from ..latents import Covariance
from ..progress import track
from ..random import noise
from ..storage import register_to_config
from .base import Move
from .gradient import GradientController
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


class Ascent(GradientController, kind="ascent"):
    """Climbs the gradient of critics, sample by sample.

    Arguments:
        attributes: The critic of the attributes, or None for requests of realism or `where` only.
        realism: The critic of realism, conditional or not.
        steps: Most steps of a sample.
        learning_rate: Step size of Adam, in latent units.
        realism_weight: Weight of the realism term.
        realism_threshold: Probability of realism at which a sample may stop; 0 for any.
        hold_weight: Weight of held attributes.
        squared_hold: Whether a held attribute costs the square of its change of probability, rather
            than the cross-entropy.
        distance_weight: Weight of the distance term, scaled by `attributes.posterior_std`.
        shift_weight: Weight of the squared shift, in nats for a squared latent unit.
        continue_after_threshold: Whether a sample continues to the optimum when its request holds,
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
    learning_rate: float
    distance_weight: float
    shift_weight: float
    continue_after_threshold: bool
    whitened: bool
    noise: float
    drop_finished: bool

    searches_region = True

    @register_to_config
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
        vars(self).update(self.config)
        self.attributes, self.realism = attributes, realism

    @classmethod
    def for_edits(
        cls,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        **options: Any,
    ) -> Ascent:
        """The ascent for edits of real inputs, with `EDIT_DEFAULTS`.

        Arguments:
            attributes: The critic of the attributes, preferably one from `latentctl.distill`.
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
        """The move of `z` by a search that begins at `begin`, both `(B, *latent_shape)`.

        Arguments:
            z: The latents from which the shift is measured.
            begin: Start of the search.
            request: The request, with a row for each latent (`Request.for_latents`).
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
        for step in track(range(self.steps), "Ascend", "step"):
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                here = latents(point, origin, share)
                whitened = None if covariance is None else point
                loss, done = self.objective(here, origin, request, whitened_move=whitened)
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
                request = request.rows(going)
                rows = (active, continuing, index, share, origin, point, gradient, first, second)
                active, continuing, index, share, origin, point, gradient, first, second = (
                    row[going] for row in rows
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
        self, z: Tensor, origin: Tensor, request: Request, *, whitened_move: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each sample, and whether its request holds, both `(B,)`.

        Arguments:
            z: Latents, `(B, *latent_shape)`.
            origin: The latents before the move.
            request: The request, with a row for each latent.
            whitened_move: The move from `origin` to `z` in whitened coordinates, if it is known,
                without the limits of a region.
        """
        loss, done = self.request_loss(z, request)
        if self.distance_weight:
            used = getattr(self.attributes, "posterior_std", None)
            loss = loss + self.distance_weight * distance(z, origin, 1.0 if used is None else used)
        if self.shift_weight:
            move = z - origin if whitened_move is None else whitened_move
            if whitened_move is None and self.covariance is not None:
                move = self.covariance.whiten(move)
            loss = loss + self.shift_weight * move.flatten(1).square().sum(1)
        return loss, done


def distance(moved: Tensor, origin: Tensor, posterior_std: Tensor | float) -> Tensor:
    r"""The distance of Latent Constraints, `(B,)`.

    .. math:: \frac{1}{d} \sum_i \log(1 + (z'_i - z_i)^2) / \bar\sigma_i^2
    """
    cost: Tensor = torch.log1p((moved - origin) ** 2) / posterior_std**2
    return cost.flatten(1).mean(1)

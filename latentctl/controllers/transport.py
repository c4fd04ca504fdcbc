r"""The probability-flow ODE of a latent energy, for latents that are N(0, I).

With the variance-preserving schedule :math:`\beta(t) = \beta_0 + t (\beta_1 - \beta_0)` a standard
normal latent stays one at every time, so the score of the prior cancels and what is left is

.. math:: \frac{dz}{dt} = -\frac{1}{2} \beta(t) \nabla_z \log P(y \mid z), \quad t: 1 \to 0

solved here by Heun's method in a fixed number of steps, so that a sample's path does not depend on
the batch that it travels in.

References:
    | Controllable and Compositional Generation with Latent-Space Energy-Based Models
      (Nie et al., 2021)
    | https://arxiv.org/abs/2110.10873
"""

from __future__ import annotations

__all__ = ["Transport"]

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import Critic, RealismCritic
from ..critics.base import cross_entropy
from ..errors import InputError
from .base import Controller, Move, require_finite
from .request import Request


class Transport(Controller, kind="transport"):
    """Carries latents along the probability-flow ODE of a target.

    Arguments:
        attributes: The critic of the attributes.
        realism: The critic of realism, or None: the ODE trusts the prior.
        steps: Steps of Heun's method, two evaluations each.
        beta: First and last value of the schedule.
        realism_weight: Weight of the realism term.
        hold_weight: Weight of held attributes.

    Example:
        >>> from latentctl import AttributeCritic
        >>> critic = AttributeCritic((8,), ["Smiling"], width=16)
        >>> Transport(critic, steps=4)(torch.zeros(3, 8), torch.ones(1, 1)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        *,
        steps: int = 25,
        beta: tuple[float, float] = (0.1, 20.0),
        realism_weight: float = 0.0,
        hold_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"Transport takes at least one step, it was given {steps}.")
        self.attributes, self.realism = attributes, realism
        self.config = {
            "steps": steps,
            "beta": list(beta),
            "realism_weight": realism_weight,
            "hold_weight": hold_weight,
        }
        self.steps, self.beta = steps, tuple(beta)
        self.realism_weight, self.hold_weight = realism_weight, hold_weight

    def search(self, z: Tensor, request: Request) -> Move:
        z = z.detach()
        request = request.with_current(self.attributes, z)
        size = 1 / self.steps
        for step in range(self.steps):
            time = 1 - step * size
            before = self._velocity(z, time, request)
            after = self._velocity(z - size * before, time - size, request)
            z = z - size * (before + after) / 2
        evaluations = torch.full((len(z),), 2 * self.steps, device=z.device)
        return Move(z, evaluations)

    def _velocity(self, z: Tensor, time: float, request: Request) -> Tensor:
        y = request.values
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            energy = torch.zeros((), device=z.device) * z.sum()
            if y is not None and self.attributes is not None:
                logits = require_finite(self.attributes(z), "The log-odds of the attribute critic")
                each = cross_entropy(logits, y)
                if request.hold is not None:
                    each = torch.where(request.hold, self.hold_weight, 1.0) * each
                energy = energy + each.sum()
            if request.where is not None:
                score = require_finite(request.where(z), "The log-odds of the critic `where`")
                energy = energy + F.softplus(-score).sum()
            if self.realism is not None and self.realism_weight:
                score = self.realism(z, None if y is None else y.round())
                score = require_finite(score, "The log-odds of the realism critic")
                energy = energy + self.realism_weight * F.softplus(-score).sum()
            (gradient,) = torch.autograd.grad(energy, z)
        beta = self.beta[0] + time * (self.beta[1] - self.beta[0])
        return beta / 2 * gradient

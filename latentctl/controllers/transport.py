r"""The probability-flow ODE of a latent energy, for latents that are N(0, I).

With the variance-preserving schedule :math:`\beta(t) = \beta_0 + t (\beta_1 - \beta_0)` a standard
normal latent stays one at every time, so the score of the prior cancels, which leaves

.. math:: \frac{dz}{dt} = -\frac{1}{2} \beta(t) \nabla_z \log P(y \mid z), \quad t: 1 \to 0

solved here by Heun's method in a fixed number of steps, so that the path of a sample does not
depend on its batch.

References:
    | Controllable and Compositional Generation with Latent-Space Energy-Based Models
      (Nie et al., 2021)
    | https://arxiv.org/abs/2110.10873
"""

from __future__ import annotations

__all__ = ["Transport"]

import torch
from torch import Tensor

from ..critics import Critic, RealismCritic
from ..errors import InputError
from ..progress import track
from ..storage import register_to_config
from .base import Move
from .gradient import GradientController
from .request import Request


class Transport(GradientController, kind="transport"):
    """Carries latents along the probability-flow ODE of a target.

    Arguments:
        attributes: The critic of the attributes.
        realism: The critic of realism; by default none, since the ODE keeps the prior.
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

    @register_to_config
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
        self.steps, self.beta = steps, tuple(beta)
        self.realism_weight, self.hold_weight = realism_weight, hold_weight

    def search(self, z: Tensor, request: Request) -> Move:
        z = z.detach()
        request = request.with_current(self.attributes, z)
        size = 1 / self.steps
        for step in track(range(self.steps), "Transport", "step"):
            time = 1 - step * size
            before = self._velocity(z, time, request)
            after = self._velocity(z - size * before, time - size, request)
            z = z - size * (before + after) / 2
        return Move(z, torch.full((len(z),), 2 * self.steps, device=z.device))

    def _velocity(self, z: Tensor, time: float, request: Request) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            loss, _ = self.request_loss(z, request)
            # without a critic the gradient is zero
            (gradient,) = torch.autograd.grad(loss.sum() + 0 * z.sum(), z)
        beta = self.beta[0] + time * (self.beta[1] - self.beta[0])
        return beta / 2 * gradient

r"""Ascent on the sphere of the start, for latents that are noise.

Samples of N(0, I) in many dimensions lie near a sphere, and every direction is alike. Each step
goes along the mean of the recent unit gradients and returns to the norm of the start,

.. math::
    v \leftarrow \beta v + (1 - \beta) \frac{g}{\|g\|}, \quad
    z \leftarrow \|z_0\| \frac{z - \eta \sqrt{D} \, \hat v}{\|z - \eta \sqrt{D} \, \hat v\|}

until the request holds. Adam moves all dimensions by about the same amount, whatever their
gradient, which changes the spectrum of the noise. Of the noises of a flow-matching model of digits
a share of 0.14 is like noise after Adam, and of 0.947 after this ascent
(`benchmarks/results/diffusion.md`).
"""

from __future__ import annotations

__all__ = ["SphericalAscent"]

import torch
from torch import Tensor

from ..critics import Critic, RealismCritic
from ..errors import InputError
from ..progress import track
from ..storage import register_to_config
from .base import Move
from .gradient import GradientController
from .request import Request


class SphericalAscent(GradientController, kind="spherical-ascent"):
    """Climbs the gradient of critics at the norm of the start, until the request holds.

    Arguments:
        attributes: The critic of the attributes, or None for requests of realism or `where` only.
        realism: The critic of realism, conditional or not.
        steps: Most steps of a sample.
        learning_rate: Length of a step, as a share of the norm of a sample of N(0, I).
        momentum: Weight of earlier gradients.
        shift_weight: Weight of the squared shift, in nats for a squared latent unit.
        hold_weight: Weight of held attributes.
        realism_weight: Weight of the realism term.
        realism_threshold: Probability of realism at which a sample may stop; 0 for any.

    Raises:
        InputError: If there is no step.

    Example:
        >>> from latentctl import AttributeCritic
        >>> ascent = SphericalAscent(AttributeCritic((8,), ["Smiling"], width=16), steps=5)
        >>> z = torch.ones(3, 8)
        >>> moved = ascent(z, torch.ones(1, 1))
        >>> torch.allclose(moved.norm(dim=1), z.norm(dim=1))
        True
    """

    squared_hold = True

    @register_to_config
    def __init__(
        self,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        *,
        steps: int = 40,
        learning_rate: float = 0.06,
        momentum: float = 0.8,
        shift_weight: float = 0.005,
        hold_weight: float = 2.0,
        realism_weight: float = 0.05,
        realism_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"steps is at least 1, it was given as {steps}.")
        self.attributes, self.realism = attributes, realism
        self.steps, self.learning_rate, self.momentum = steps, learning_rate, momentum
        self.shift_weight, self.hold_weight = shift_weight, hold_weight
        self.realism_weight, self.realism_threshold = realism_weight, realism_threshold

    def search(self, z: Tensor, request: Request) -> Move:
        result, mean = z.clone(), torch.zeros_like(z)
        evaluations = torch.zeros(len(z), dtype=torch.long, device=z.device)
        if request.is_held and request.current is None:
            request = request.with_current(self.attributes, z)
            evaluations += 1
        active = torch.arange(len(z), device=z.device)
        for step in track(range(self.steps), "Ascend", "step"):
            gradient, done = self._gradient(result[active], z[active], request.rows(active))
            evaluations[active] += 1
            active, gradient = active[~done], gradient[~done]
            if not len(active):
                break
            unit = gradient / _norm(gradient).clamp_min(1e-12)
            mean[active] = torch.lerp(unit, mean[active], self.momentum)
            move = mean[active] / (1 - self.momentum ** (step + 1))
            size = self.learning_rate * z[0].numel() ** 0.5
            moved = result[active] - size * move
            result[active] = moved * _norm(z[active]) / _norm(moved).clamp_min(1e-12)
        return Move(result, evaluations)

    def _gradient(self, here: Tensor, origin: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        """The gradient of the loss, and whether requests hold."""
        with torch.enable_grad():
            here = here.detach().requires_grad_()
            loss, done = self.request_loss(here, request)
            shift = (here - origin).flatten(1).square().sum(1)
            (gradient,) = torch.autograd.grad((loss + self.shift_weight * shift).sum(), here)
        return gradient, done


def _norm(z: Tensor) -> Tensor:
    """Norms with the axes of `z`."""
    norms: Tensor = z.flatten(1).norm(dim=1)
    return norms.view(-1, *[1] * (z.ndim - 1))

r"""Flow matching between white noise and data, preconditioned by the data's Gaussian.

A velocity field is regressed on the straight lines between noise :math:`z_0 \sim \mathcal{N}(0, I)`
and data :math:`z_1`,

.. math::
    L = \mathbb{E}\, \| v(z_t, t, y) - (z_1 - z_0) \|^2, \quad z_t = (1 - t) z_0 + t z_1

For Gaussian data the optimal velocity is known. Along an eigenvector with variance :math:`\lambda`
(about the mean, in units of the mean variance) it is

.. math::
    \bar v = \frac{t \lambda - (1 - t)}{V_t} z_t, \quad V_t = (1 - t)^2 + t^2 \lambda

with residual variance :math:`\lambda / V_t`. The input of the network :math:`F` is :math:`u_t =
z_t / \sqrt{V_t}`, of unit variance at all times, and the velocity is :math:`\bar v +
\sqrt{\lambda / V_t} \, F(u_t, t, y)`. The untrained flow is the Gaussian with the data's moments.

:math:`F` may be scaled by a factor, as in classifier-free guidance with :math:`\bar v` as the
unconditional model.

The same change of variables shortens the path. With the angle :math:`\theta_t = \arctan(t
\sqrt\lambda / (1 - t))`, which runs from 0 to :math:`\pi / 2` in every direction,

.. math:: \mathrm{d} u = F(u, t, y) \, \mathrm{d} \theta, \quad z_1 = \mu + U \sqrt{\Lambda} \, u_1

so that the Gaussian part is integrated exactly for any :math:`\lambda`, and Heun's method
integrates the network alone. Its discrete steps define the map that is inverted and whose
determinant is taken, not the continuous flow.

References:
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), on
      preconditioning
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

__all__ = ["Matching"]

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..decoder.descent import append_dims
from ..errors import InputError, NonFiniteError
from ..nn.velocity import Velocity
from ..progress import track
from .fixed_point import fixed_point
from .whitening import Whitening

ROUNDS = 40  # of fixed-point iteration, and of Newton's method
DENSE = 1024  # dimensions up to which Jacobians are computed
CARRIED_ROUNDS = 5  # of fixed-point iteration in a step of `Matching.carried`
CLOSE = 2e-6  # relative error of the inverse by fixed-point iteration
NEWTON_CLOSE = 2e-5
LONGEST = 0.5  # step of Newton's method, in the same units
ROOM = 2**23  # units of one layer for the derivatives that are computed together


class Matching(nn.Module):
    """The map from noise to latents along a learned velocity, by a few steps of Heun's method.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.
        context: Number of context features, 0 for none.
        width: Units of each layer.
        depth: Number of residual blocks.
        steps: Steps of Heun's method, two evaluations each.
        guidance: Factor on the network's output; 1 is the trained flow.

    Example:
        >>> from latentctl.random import noise
        >>> flow = Matching((2,), width=16, steps=4)
        >>> e = noise(0, 3, (2,), seed=0)
        >>> z = flow.from_base(e)
        >>> torch.allclose(flow.to_base(z)[0], e, atol=1e-5)
        True
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        *,
        context: int = 0,
        width: int = 512,
        depth: int = 4,
        steps: int = 8,
        guidance: float = 1.0,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise InputError(f"Flow matching takes at least one step, it was given {steps}.")
        self.net = Velocity(latent_shape, context=context, width=width, depth=depth)
        self.white = Whitening(latent_shape)
        self.steps, self.guidance = steps, guidance
        cells = math.prod(latent_shape[1:])
        self.units = max(latent_shape[0], width // 4 if len(latent_shape) > 1 else width) * cells

    def loss(
        self, noise: Tensor, data: Tensor, time: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the velocity between `noise` and latents, at `time (B, 1)`."""
        origin = self.white.rotate(noise)
        goal = self.white.rotate(data - self.white.mean) / self._scale()
        t = append_dims(time, data)
        here, variance = torch.lerp(origin, goal, t), self._relative_std().square()
        spread = (1 - t).square() + t.square() * variance
        known = (t * variance - (1 - t)) / spread * here
        rest = self.net(here / spread.sqrt(), time, context)
        error: Tensor = known + (variance / spread).sqrt() * rest - (goal - origin)
        return error.square().mean()

    def from_base(
        self,
        e: Tensor,
        context: Tensor | None = None,
        *,
        free: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Latents of noise, both `(B, *latent_shape)`, for a context `(B, context)`.

        With `free`, the context of the unconditional model, `guidance` is classifier-free.
        """
        u = self.white.rotate(e)
        for step in range(self.steps):
            u = u + self._increment(u, step, context, self._guided(free, guidance))
        return self.white.rotate_back(u * self.white.std) + self.white.mean

    @torch.no_grad()
    def carried(
        self, z: Tensor, before: Tensor, after: Tensor, *, first: int = 0, guidance: float = 1.0
    ) -> Tensor:
        r"""Latents of another context: back under one, and forward under the other.

        .. math:: v = v_\mathrm{before} + w \, (v_\mathrm{after} - v_\mathrm{before})

        Latents whose contexts are equal return to where they were; the inversion has an error of
        0.1 % of the move on the drawn faces.

        Arguments:
            z: Latents, `(B, *latent_shape)`.
            before: Their context, `(B, context)`.
            after: The new context, `(B, context)`.
            first: Step at whose start they turn round, 0 for the noise.
            guidance: The factor `w` of the way forward.
        """
        u = self.white.rotate(z - self.white.mean) / self.white.std
        for step in range(first, self.steps)[::-1]:
            back = functools.partial(self._increment, step=step, context=before)
            # as many rounds for every batch, so that no latent depends on the others
            u, _ = fixed_point(back, u, rounds=CARRIED_ROUNDS, close=0.0)
        for step in range(first, self.steps):
            u = u + self._increment(u, step, after, self._guided(before, guidance))
        return self.white.rotate_back(u * self.white.std) + self.white.mean

    def _guided(self, other: Tensor | None, guidance: float) -> Callable[..., Tensor]:
        """The velocity, extrapolated from that of another context."""
        if other is None or guidance == 1:
            return self._scaled

        def field(u: Tensor, time: Tensor, context: Tensor) -> Tensor:
            twice = torch.cat([u, u]), torch.cat([time, time]), torch.cat([context, other])
            wanted, plain = self.net(*twice).chunk(2)
            return torch.lerp(plain, wanted, guidance)

        return field

    @torch.no_grad()
    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Noise of latents, without a gradient; see `log_det` for the determinant."""
        u = self.white.rotate(z - self.white.mean) / self.white.std
        for step in track(range(self.steps)[::-1], "Invert the flow", "step"):
            u = self._step_back(u, step)
        return self.white.rotate_back(u), None

    def log_det(self, e: Tensor) -> Tensor:
        """Log-determinant `(B,)` of `to_base` at the latents of noise `e (B, *latent_shape)`.

        Differentiable where `e` requires a gradient; otherwise no graph is kept.
        """
        rows = max(1, ROOM // (self.units * max(1, e[:1].numel())))
        parts = track(e.split(rows), "Density", "batch")
        with torch.set_grad_enabled(torch.is_grad_enabled() and e.requires_grad):
            total = [self._log_det(self.white.rotate(part)) for part in parts]
        return torch.cat(total) if total else e.new_zeros(0)

    def _log_det(self, u: Tensor) -> Tensor:
        total = self.white.log_det.expand(len(u))
        for step in track(range(self.steps), "Density", "step"):
            total = total - torch.linalg.slogdet(self._jacobian(u, step)).logabsdet
            u = u + self._increment(u, step)
        result: Tensor = total
        return result

    def _scaled(self, u: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        added: Tensor = self.net(u, time, context)
        return added if self.guidance == 1 else self.guidance * added

    def _scale(self) -> Tensor:
        return self.white.std.square().mean().sqrt()

    def _relative_std(self) -> Tensor:
        return self.white.std / self._scale()

    def _increment(
        self,
        u: Tensor,
        step: int,
        context: Tensor | None = None,
        field: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        field = field or self._scaled
        start, end = (u.new_full((len(u), 1), k / self.steps) for k in (step, step + 1))
        std = self._relative_std()
        turn: Tensor = torch.atan2(end[0] * std, 1 - end[0]) - torch.atan2(
            start[0] * std, 1 - start[0]
        )
        before = field(u, start, context)
        after = field(u + turn * before, end, context)
        return turn * (before + after) / 2

    def _jacobian(self, u: Tensor, step: int) -> Tensor:
        """Jacobians `(B, D, D)` of a step, by forward mode along many dimensions at once."""
        size = u[0].numel()

        def along(direction: Tensor) -> Tensor:
            moved: Tensor = torch.func.jvp(
                lambda u: u + self._increment(u, step), (u,), (direction,)
            )[1]
            return moved

        basis = torch.eye(size, device=u.device, dtype=u.dtype).view(size, 1, *u.shape[1:])
        chunk = max(1, ROOM // (self.units * len(u)))
        columns: Tensor = torch.func.vmap(along, chunk_size=chunk)(basis.expand(size, *u.shape))
        return columns.flatten(2).permute(1, 2, 0)

    def _step_back(self, goal: Tensor, step: int) -> Tensor:
        """The inverse of a step: by fixed-point iteration, then by Newton's method."""
        u, missed = fixed_point(
            lambda u: self._increment(u, step), goal, rounds=ROUNDS, close=CLOSE
        )
        far = ~(missed <= CLOSE)
        if not bool(far.any()):
            return u
        if goal[0].numel() > DENSE:
            raise self._not_inverted(step, far, missed)
        size = goal.flatten(1).abs().amax(1).clamp_min(1)
        u = torch.where(append_dims(far, u), goal, u)
        for _ in range(ROUNDS):
            rows = far.nonzero().flatten()
            here = u[rows]
            error = here + self._increment(here, step) - goal[rows]
            missed = error.flatten(1).abs().amax(1)
            far[rows] = ~(missed <= NEWTON_CLOSE * size[rows])
            if not bool(far.any()):
                return u
            # the solution of a singular system is inf
            move = torch.linalg.solve_ex(self._jacobian(here, step), error.flatten(1)).result
            length = move.abs().amax(1, keepdim=True)
            move = move * (LONGEST * size[rows, None] / length).clamp_max(1)
            u = u.index_put((rows,), here - move.view_as(here))
        raise self._not_inverted(step, far, missed)

    def _not_inverted(self, step: int, far: Tensor, missed: Tensor) -> NonFiniteError:
        return NonFiniteError(
            f"Step {step + 1} of {self.steps} of a matching flow was not inverted for "
            f"{int(far.sum())} of {len(far)} latents, with an error of {float(missed.max()):.2g}. "
            f"They may lie far from its training data; otherwise take more `steps`, or train with "
            f"a smaller learning rate."
        )

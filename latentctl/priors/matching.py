r"""Flow matching between white noise and data: the part that is known, and the part to be learned.

A velocity field is regressed on the straight lines between noise :math:`z_0 \sim \mathcal{N}(0, I)`
and data :math:`z_1`,

.. math::
    L = \mathbb{E}\, \| v(z_t, t, y) - (z_1 - z_0) \|^2, \quad z_t = (1 - t) z_0 + t z_1

If the data were a Gaussian with their own moments, the best velocity would be known. Along an
eigenvector with variance :math:`\lambda` (about the mean, in units of the mean variance) it is

.. math::
    \bar v = \frac{t \lambda - (1 - t)}{V_t} z_t, \quad V_t = (1 - t)^2 + t^2 \lambda

and what it leaves unexplained has the variance :math:`\lambda / V_t`. So the network :math:`F` sees
:math:`u_t = z_t / \sqrt{V_t}`, of unit variance at all times, and the velocity is
:math:`\bar v + \sqrt{\lambda / V_t} \, F(u_t, t, y)`. Before its first step this is the Gaussian
with the data's moments; training is only for what is not Gaussian.

What the network adds may be stretched by a factor, as in guidance: :math:`\bar v` is then the plain
model that the samples are led away from, and where training was short this makes up for much of it.

The same change of variables makes the path short. With the angle :math:`\theta_t = \arctan(t
\sqrt\lambda / (1 - t))`, which runs from 0 to :math:`\pi / 2` in every direction,

.. math:: \mathrm{d} u = F(u, t, y) \, \mathrm{d} \theta, \quad z_1 = \mu + U \sqrt{\Lambda} \, u_1

so the known part is followed exactly, however small :math:`\lambda` is, and Heun's method is left
with the network alone. Its few steps are a map of their own, and it is this map, not the flow that
it approximates, which is inverted and whose determinant is taken.

References:
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), on
      preconditioning
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

__all__ = ["Matching"]

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError, NonFiniteError
from ..nn.velocity import Velocity
from .fixed_point import fixed_point
from .whitening import Whitening

ROUNDS = 40  # of the search for an inverse, by either method
DENSE = 1024  # numbers of a latent up to which its Jacobian is taken
CLOSE = 2e-6  # error at which it ends, where no number is larger than one
FAR_CLOSE = 2e-5
LONGEST = 0.5  # step of Newton's method, in the same units
CHUNK = 2**20  # numbers in the Jacobians that are taken at once


class Matching(nn.Module):
    """From noise to latents along a learned velocity, in a few steps.

    Arguments:
        latent_shape: `(D,)` or `(C, h, w)`.
        context: Number of context features, 0 for none.
        width: Units of each layer.
        depth: Number of residual blocks.
        steps: Steps of Heun's method, two evaluations each.
        guidance: Factor on what the network adds to the Gaussian; 1 is what was learned.

    Example:
        >>> flow = Matching((2,), width=16, steps=4)
        >>> e = torch.randn(3, 2)
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

    def loss(
        self, noise: Tensor, data: Tensor, time: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the velocity between `noise` and latents, at `time (B, 1)`."""
        origin = self.white.rotate(noise)
        goal = self.white.rotate(data - self.white.mean) / self._scale()
        t = time.view(-1, *[1] * (data.ndim - 1))
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
        """Latents of noise, both `(B, *latent_shape)`.

        Arguments:
            e: Noise, `(B, *latent_shape)`.
            context: What the network is told.
            free: What it is told where nothing is asked, for `guidance`.
            guidance: Factor on the difference that the context makes, if `free` is given.
        """
        field: Callable[..., Tensor] = self._guided
        if free is not None and guidance != 1:

            def field(u: Tensor, time: Tensor, told: Tensor) -> Tensor:
                twice = torch.cat([u, u]), torch.cat([time, time]), torch.cat([told, free])
                asked, plain = self.net(*twice).chunk(2)
                return torch.lerp(plain, asked, guidance)

        u = self.white.rotate(e)
        for step in range(self.steps):
            u = u + self._increment(u, step, context, field)
        return self.white.rotate_back(u * self.white.std) + self.white.mean

    @torch.no_grad()
    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Noise of latents, without a gradient, and without the determinant, which costs more."""
        u = self.white.rotate(z - self.white.mean) / self.white.std
        for step in reversed(range(self.steps)):
            u = self._step_back(u, step)
        return self.white.rotate_back(u), None

    def log_det(self, e: Tensor) -> Tensor:
        """Log-determinant `(B,)` of `to_base` at the latents of noise `e (B, *latent_shape)`."""
        rows = max(1, CHUNK // max(1, e[:1].numel()) ** 2)
        total = [self._log_det(self.white.rotate(part)) for part in e.split(rows)]
        return torch.cat(total) if total else e.new_zeros(0)

    def _log_det(self, u: Tensor) -> Tensor:
        total, size = self.white.log_det.expand(len(u)), u[0].numel()
        for step in range(self.steps):
            jacobian = torch.func.vmap(torch.func.jacfwd(self._row_step(step)))(u)
            total = total - torch.linalg.slogdet(jacobian.reshape(-1, size, size)).logabsdet
            u = u + self._increment(u, step)
        result: Tensor = total
        return result

    def _guided(self, u: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
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
        field = self._guided if field is None else field
        start, end = (u.new_full((len(u), 1), k / self.steps) for k in (step, step + 1))
        std = self._relative_std()
        turn: Tensor = torch.atan2(end[0] * std, 1 - end[0]) - torch.atan2(
            start[0] * std, 1 - start[0]
        )
        before = field(u, start, context)
        after = field(u + turn * before, end, context)
        return turn * (before + after) / 2

    def _row_step(self, step: int) -> Callable[[Tensor], Tensor]:
        return lambda row: row + self._increment(row[None], step)[0]

    def _step_back(self, goal: Tensor, step: int) -> Tensor:
        """The points that a step takes to `goal`: by a fixed point, and where none is found by
        Newton's method, or not at all.
        """
        u, missed = fixed_point(
            lambda u: self._increment(u, step), goal, rounds=ROUNDS, close=CLOSE
        )
        far = ~(missed <= CLOSE)
        if not bool(far.any()):
            return u
        if goal[0].numel() > DENSE:  # too many for a Jacobian of every latent
            raise self._not_inverted(step, far, missed)
        size = goal.flatten(1).abs().amax(1).clamp_min(1)
        u = torch.where(far.view(-1, *[1] * (u.ndim - 1)), goal, u)
        for _ in range(ROUNDS):
            rows = far.nonzero().flatten()
            here, asked = u[rows], goal[rows]
            error = here + self._increment(here, step) - asked
            missed = error.flatten(1).abs().amax(1)
            far[rows] = ~(missed <= FAR_CLOSE * size[rows])
            if not bool(far.any()):
                return u
            jacobian = torch.func.vmap(torch.func.jacfwd(self._row_step(step)))(here)
            count = error[0].numel()
            matrix = jacobian.reshape(-1, count, count)
            move = torch.linalg.solve_ex(matrix, error.flatten(1)).result  # a singular one: inf
            length = move.abs().amax(1, keepdim=True)
            move = move * (LONGEST * size[rows, None] / length).clamp_max(1)
            u = u.index_put((rows,), here - move.view_as(here))
        raise self._not_inverted(step, far, missed)

    def _not_inverted(self, step: int, far: Tensor, missed: Tensor) -> NonFiniteError:
        return NonFiniteError(
            f"Step {step + 1} of {self.steps} of a matching flow was not inverted for "
            f"{int(far.sum())} of {len(far)} latents; an error of {float(missed.max()):.2g} is "
            f"left. They may lie far from the data that it was trained on; otherwise take more "
            f"`steps`, or train with a smaller learning rate."
        )

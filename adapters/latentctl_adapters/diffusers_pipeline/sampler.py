r"""Sampling with gradients, and the inverse of the steps that were taken.

A step, or a block of steps, is :math:`x' = a x + \sum_j b_j m_j(x)`. Its inverse solves

.. math:: u + \sum_j \frac{b_j}{a} m_j(u) = \frac{x'}{a}

by Anderson's acceleration (`latentctl.priors.fixed_point`). A map of few, long steps need not be
injective, nor need the iteration converge, so the result is decoded again and its error reported.
"""

from __future__ import annotations

__all__ = ["Sampler"]

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentctl.decoder import Decoder
from latentctl.priors.fixed_point import fixed_point

from .networks import Denoiser
from .schedule import Schedule, mix

ROUNDS = 40  # of Anderson's acceleration, in each block
CLOSE = 1e-4  # relative error at which it ends


class Sampler(nn.Module):
    """A network, its schedule and the autoencoder whose latents it generates, if there is one.

    Arguments:
        denoiser: The network with its conditions.
        schedule: The steps.
        base: The autoencoder, None where samples are generated themselves.
        limits: Lowest and highest value of a sample.
        checkpointing: Compute activations again for gradients, call by call.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        base: Decoder | None,
        limits: tuple[float, float] | None,
        *,
        checkpointing: bool = True,
    ) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.limits = denoiser, schedule, limits
        self.base, self.checkpointing = base, checkpointing
        table = torch.cat([schedule.states.flatten(), schedule.timesteps])
        # hashed with the weights; as integers they keep their bits when the weights are cast
        self.register_buffer("table", table.view(torch.int64))

    def with_schedule(self, schedule: Schedule) -> Sampler:
        """The same network with other steps."""
        settings = {"checkpointing": self.checkpointing}
        return Sampler(self.denoiser, schedule, self.base, self.limits, **settings)

    def forward(self, z: Tensor) -> Tensor:
        """Samples of noise `z (B, C, h, w)`."""
        parts = [z]
        for row, t in zip(self.schedule.inputs, self.schedule.timesteps.tolist(), strict=True):
            parts.append(self._call(mix(row, parts), t))
        x = mix(self.schedule.states[-1], parts)
        if self.base is None:
            return x if self.limits is None else x.clamp(*self.limits)
        out: Tensor = self.base.decode_fn(self.base.model, x)
        return out

    @property
    def place(self) -> Tensor:
        """A weight of the network, whose device and dtype noise has."""
        return next(self.denoiser.network.parameters())

    @property
    def can_invert(self) -> bool:
        """Whether there is an inverse of the steps, and an encoder of samples."""
        return self.schedule.is_invertible and (self.base is None or self.base.can_encode)

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the autoencoder makes of samples; themselves where there is none."""
        if self.base is None:
            return x
        out: Tensor = self.base.decode_fn(self.base.model, self.base.encode(x).mean)
        return out

    def invert(self, x: Tensor) -> Tensor:
        """The noise of samples `x`, approximately."""
        if self.base is not None:
            x = self.base.encode(x).mean
        start = self.schedule.states[0, 0]
        for first, stop in reversed(self.schedule.blocks):
            x = self._inverse(x, first, stop)
        return x / float(start)

    def _inverse(self, x: Tensor, first: int, stop: int) -> Tensor:
        last, inputs = self.schedule.block(first, stop)
        kept, times = float(last[0]), self.schedule.timesteps[first:stop].tolist()

        def change(u: Tensor) -> Tensor:
            parts = [u]
            for row, t in zip(inputs, times, strict=True):
                parts.append(self._call(mix(row, parts), t))
            return mix(last[1:] / kept, parts[1:])

        return fixed_point(change, x / kept, rounds=ROUNDS, close=CLOSE)[0]

    def _call(self, u: Tensor, t: float) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled() and u.requires_grad:
            found: Tensor = checkpoint(
                self.denoiser, u, t, use_reentrant=False, preserve_rng_state=False
            )
            return found
        out: Tensor = self.denoiser(u, t)
        return out

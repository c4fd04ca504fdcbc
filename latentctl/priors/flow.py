r"""Generative Latent Flow: an exact density over the latents of an autoencoder.

A flow :math:`f` maps latents to base noise, :math:`e = f(z) \sim \mathcal{N}(0, I)`, so

.. math:: \log q(z) = \log \mathcal{N}(f(z) \mid 0, I) + \log |\det \partial f / \partial z|

and :math:`f^{-1}` maps noise to samples. It is trained on cached latents of a frozen autoencoder,
which is the paper's stop-gradient in two stages. Latents are whitened first, since an autoencoder's
scale is arbitrary and its dimensions are correlated.

There are three kinds of map. `coupling` is the paper's: affine couplings with fixed permutations.
`spline` has rational-quadratic splines in their place. `matching` integrates a velocity learned by
flow matching in a few steps of Heun's method. It has the best samples, and its density takes a
Jacobian in each step.

References:
    | Generative Latent Flow (Xiao et al., 2019)
    | https://arxiv.org/abs/1905.10485
"""

from __future__ import annotations

__all__ = ["LatentFlow"]

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, NonFiniteError, ShapeError, UnknownNameError
from ..latents import Latents, require_latents
from ..progress import track
from ..random import noise, seeded
from ..storage import Saved
from ..training import Step, train
from .couplings import Couplings
from .matching import Matching
from .whitening import Whitening

logger = logging.getLogger(__name__)

KINDS = ("coupling", "spline", "matching")
SIZES = ("width", "depth", "blocks", "steps", "guidance", "dropout")
BATCH = 512
TOLERANCE = 1e-3  # of a round trip, in standard deviations


class LatentFlow(Saved, kind="latent-flow"):
    """A normalizing flow over latents: a `Prior` with an exact `log_prob`.

    Arguments:
        latent_shape: `(D,)`, or channels and one to three axes of cells.
        kind: `coupling`, `spline` or `matching`.
        width: Units of each layer of its networks.
        depth: Layers of a coupling's network, or residual blocks of the velocity's.
        blocks: Blocks of two couplings.
        steps: Steps of Heun's method, for `matching`.
        guidance: For `matching`, the factor on the network's deviation from the Gaussian with the
            data's moments. 1 has the best density, 2 the better samples after short training.
        dropout: Dropout of couplings.

    Example:
        >>> flow = LatentFlow((8,), width=16)
        >>> z = flow.sample(3, seed=0)
        >>> flow.log_prob(z).shape
        torch.Size([3])
        >>> torch.allclose(flow.from_base(flow.to_base(z)), z, atol=1e-5)
        True
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        kind: str = "coupling",
        *,
        width: int = 512,
        depth: int = 2,
        blocks: int = 4,
        steps: int = 8,
        guidance: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UnknownNameError("kind of flow", kind, KINDS)
        self.latent_shape, self.kind = tuple(latent_shape), kind
        sizes: dict[str, Any] = {"width": width, "depth": depth}
        coupling: dict[str, Any] = {"blocks": blocks, "dropout": dropout}
        matching: dict[str, Any] = {"steps": steps, "guidance": guidance}
        self.config = {"latent_shape": list(latent_shape), "kind": kind}
        self.config |= {**sizes, **coupling, **matching}
        self.map: Any = (
            Matching(latent_shape, **sizes, **matching)
            if kind == "matching"
            else Couplings(latent_shape, spline=kind == "spline", **sizes, **coupling)
        )

    def to_base(self, z: Tensor) -> Tensor:
        """Base noise of latents, both `(B, *latent_shape)`.

        Differentiable, except for `matching`, whose inverse is iterative.

        Raises:
            ShapeError: If `z` has another shape.
            NonFiniteError: If the inverse of a `matching` flow does not converge.
        """
        base: Tensor = self.map.to_base(z)[0]
        return base

    def from_base(self, e: Tensor) -> Tensor:
        """Latents of base noise, both `(B, *latent_shape)`; differentiable."""
        if e.shape[1:] != self.latent_shape:
            raise ShapeError(
                f"This flow takes noise (B, {', '.join(map(str, self.latent_shape))}), it was "
                f"given {tuple(e.shape)}."
            )
        z: Tensor = self.map.from_base(e)
        return z

    def log_prob(self, z: Tensor, *, guided: bool = False) -> Tensor:
        """Log-density of `z (B, *latent_shape)` in nats, `(B,)`.

        Exact for the map that samples, discretisation included. For `matching` each step takes as
        many evaluations as there are dimensions, which suits a few hundred latents, and the
        density has no gradient.

        Arguments:
            z: Latents.
            guided: Take the density of samples with guidance.

        Raises:
            InputError: If the samples are guided, and their density was not asked for.
            NonFiniteError: If the inverse of a `matching` flow does not converge.
        """
        if self.config["guidance"] != 1 and self.kind == "matching" and not guided:
            raise InputError(
                f"This flow samples with guidance {self.config['guidance']:g}, and such samples do "
                f"not have the density of the data. For that, load these weights into "
                f"LatentFlow(**{{**flow.config, 'guidance': 1}}); for the density of the guided "
                f"samples pass guided=True."
            )
        e, log_det = self.map.to_base(z)
        if log_det is None:
            log_det = self.map.log_det(e)
        constant = 0.5 * math.log(2 * math.pi) * math.prod(self.latent_shape)
        density: Tensor = log_det - 0.5 * e.square().flatten(1).sum(1) - constant
        return density

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Samples `start ... start + count - 1` of the sequence of `seed`."""
        e = noise(start, count, self.latent_shape, seed=seed, purpose="prior")
        e = e.to(self.map.white.mean.device)
        parts = track(e.split(BATCH), "Sample", "batch")
        return torch.cat([self.from_base(part) for part in parts])

    @torch.no_grad()
    def check_invertible(self, z: Tensor, *, tolerance: float = TOLERANCE) -> float:
        """The largest error of a round trip `z -> e -> z`, in standard deviations of the data.

        Raises:
            NonFiniteError: If it is above `tolerance`, or not finite.
        """
        white = self.map.white
        back = white(self.from_base(self.to_base(z)))
        error = (back - white(z)).abs().max().item() if len(z) else 0.0
        if not error <= tolerance:
            raise NonFiniteError(
                f"The round trip z -> e -> z of this {self.kind} flow is off by "
                f"{error:.2g} standard deviations, {tolerance:g} is allowed: it is not invertible "
                f"numerically. Train it with a smaller learning rate, or leave out outliers among "
                f"the latents; a matching flow may need more `steps`."
            )
        return error

    def loss(self, batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Nats per dimension; for `matching` the mean squared error of the velocity."""
        z = batch.sample(step.normal(*self.latent_shape))
        if isinstance(self.map, Matching):
            origin = step.normal(*self.latent_shape, purpose="origin")
            return self.map.loss(origin, z, step.uniform(1, purpose="time")), {}
        return -self.log_prob(z).mean() / math.prod(self.latent_shape), {}

    @classmethod
    def fit(
        cls,
        latents: Latents,
        kind: str = "coupling",
        *,
        max_train_steps: int = 1500,
        seed: int = 0,
        **options: Any,
    ) -> LatentFlow:
        """A flow over the aggregate posterior of `latents`.

        Arguments:
            latents: Encodings of data; each posterior is sampled if it has a std.
            kind: `coupling`, `spline` or `matching`.
            max_train_steps: Steps of training.
            seed: Decides every random number.
            options: Sizes as of `LatentFlow`, with a `depth` of 4 for `matching` and a `dropout` of
                0.1 by default; and further arguments of `latentctl.training.train`, by default
                256 latents in a step, and a learning rate of 1e-3 that falls to zero.

        Raises:
            InputError: If there are no more latents than dimensions, or constant dimensions.
            NonFiniteError: If the trained couplings are not invertible numerically. A `matching`
                flow is returned with a warning.
        """
        require_latents(latents)
        if max_train_steps < 1:
            raise InputError(f"A flow needs at least one step of training, not {max_train_steps}.")
        sizes: dict[str, Any] = {"depth": 4 if kind == "matching" else 2, "dropout": 0.1}
        sizes |= {key: options.pop(key) for key in SIZES if key in options}
        with seeded(seed, "latent flow"):
            flow = cls(latents.latent_shape, kind, **sizes)
        flow.map.white = Whitening.fit(latents)
        settings = {
            "batch_size": 256,
            "learning_rate": 1e-3,
            "lr_scheduler": "linear",
            "lr_warmup_steps": min(50, max_train_steps // 10),
            "max_grad_norm": None if kind == "matching" else 5.0,
            "ema": 0.99,
            "max_train_steps": max_train_steps,
            "seed": seed,
            **options,
        }
        train(flow, flow.loss, latents, name="flow", **settings)
        try:
            some = latents[: min(len(latents), 64)].mean
            flow.check_invertible(some.to(flow.map.white.mean.device))
        except NonFiniteError as error:
            if kind != "matching":
                raise
            logger.warning(
                "%s Its samples are usable; densities and edits need the inverse.", error
            )
        return flow

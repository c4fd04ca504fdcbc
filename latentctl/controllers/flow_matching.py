r"""Conditional flow matching: a move learned by regression, without adversarial training.

A velocity field is regressed on the straight lines between samples of the prior and encodings of
data with attributes :math:`y`; the move follows it from :math:`t = 0` to 1 (`priors.matching` has
the equations). It costs two evaluations for each step. An `Actor` can clone it into one evaluation.

Targets are freed at random in training, so that the field is defined with and without each of them,
and their difference may be extrapolated (classifier-free guidance),

.. math:: v = v_\mathrm{free} + w \, (v_y - v_\mathrm{free})

which makes attributes more pronounced at twice the cost. Without attributes the closed-form
velocity of the data's Gaussian takes the place of :math:`v_\mathrm{free}`, at no cost.

Labelled samples of an exact prior (`critics.prior_labels` of a GAN or a pipeline) are a hard case.
What attributes add to the velocity is the gradient of :math:`\log P(y \mid z_t)`, which is small
beside the noise of this regression where :math:`p(z \mid y)` is nearly the prior. A flow on samples
of a GAN gave at most half of the digits that were asked for (`benchmarks/results/diffusion.md`).
There, follow a network through the decoder: `SphericalAscent` or `Rejection` on a `PixelCritic`.

References:
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022)
    | https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

__all__ = ["FlowMatching"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..decoder import Gaussian, Prior
from ..latents import Latents, require_latents
from ..latents.names import attribute_names
from ..priors.matching import Matching
from ..priors.whitening import Whitening
from ..random import seeded
from ..storage import register_to_config
from ..training import Step, train
from .base import Controller, Move, refuse_where
from .request import Request, draw_targets, prior_starts, target_context

CONDITIONAL, UNCONDITIONAL = 1.5, 2.0  # guidance


class FlowMatching(Controller, kind="flow-matching"):
    """Moves samples of the prior to encodings with the requested attributes.

    Arguments:
        latent_shape: Shape of one latent.
        names: The attributes; none for a move towards the data alone.
        width: Units of each layer.
        depth: Number of residual blocks.
        steps: Steps of Heun's method, two evaluations each.
        guidance: The factor `w`; 1 for none, by default 1.5 with attributes and 2 without.

    Example:
        >>> flow = FlowMatching((8,), ["Smiling"], width=16, steps=2)
        >>> flow(torch.zeros(3, 8), torch.ones(1, 1)).shape
        torch.Size([3, 8])
    """

    learned = True

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int],
        names: Sequence[str] = (),
        *,
        width: int = 512,
        depth: int = 4,
        steps: int = 8,
        guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.latent_shape, self.names = tuple(latent_shape), attribute_names(names)
        self.steps = steps
        self.guidance = (CONDITIONAL if names else UNCONDITIONAL) if guidance is None else guidance
        self.config["guidance"] = self.guidance
        self.net = Matching(
            latent_shape,
            context=2 * len(self.names),
            width=width,
            depth=depth,
            steps=steps,
            guidance=1.0 if names else self.guidance,
        )

    @torch.no_grad()
    def search(self, z: Tensor, request: Request) -> Move:
        refuse_where(self, request.where)
        context = target_context(z, request.values, self.names)
        free = target_context(z, None, self.names)
        moved = self.net.from_base(z, context, free=free, guidance=self.guidance)
        each = 2 * self.steps * (2 if free is not None and self.guidance != 1 else 1)
        return Move(moved, torch.full((len(z),), each, device=z.device))

    @classmethod
    def fit(
        cls,
        latents: Latents,
        *,
        prior: Prior | None = None,
        width: int = 512,
        depth: int = 4,
        steps: int = 8,
        guidance: float | None = None,
        max_train_steps: int = 1500,
        free_share: float = 0.25,
        seed: int = 0,
        **options: Any,
    ) -> FlowMatching:
        """The move from `prior` to `latents`.

        Arguments:
            latents: Encodings of data, with labels for a conditional flow.
            prior: Distribution of the starts, N(0, I) by default.
            width: Units of each layer.
            depth: Number of residual blocks.
            steps: Steps of the move, as above.
            guidance: The factor `w`, as above.
            max_train_steps: Steps of training.
            free_share: Share of rows in which some targets are freed.
            seed: Decides every random number.
            options: Further arguments of `latentctl.training.train`; by default 256 latents in a
                step and a learning rate of 1e-3 that falls linearly after at most 50 steps.
        """
        require_latents(latents)
        names = latents.names if latents.labels is not None else ()
        start = prior if prior is not None else Gaussian(latents.latent_shape)
        with seeded(seed, "flow matching"):
            sizes = {"width": width, "depth": depth, "steps": steps}
            flow = cls(latents.latent_shape, names, guidance=guidance, **sizes)
        flow.net.white = Whitening.fit(latents)

        def loss(batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            origin = prior_starts(start, step)
            goal = batch.sample(step.normal(*flow.latent_shape))
            time = step.uniform(1, purpose="time")
            y = draw_targets(batch.labels, step, free_share) if names else None
            return flow.net.loss(origin, goal, time, target_context(goal, y, names)), {}

        warmup = min(50, max_train_steps // 10)
        schedule = {"learning_rate": 1e-3, "lr_scheduler": "linear", "lr_warmup_steps": warmup}
        options = {"batch_size": 256, "max_train_steps": max_train_steps, **schedule, **options}
        train(flow, loss, latents, name="flow", ema=0.99, seed=seed, **options)
        return flow

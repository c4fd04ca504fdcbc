r"""Conditional flow matching: a move learned by regression, where the actor's game takes long.

A velocity field is regressed on the straight lines between samples of the prior and encodings of
data with attributes :math:`y`; the move follows it from :math:`t = 0` to 1 (`priors.matching` has
the equations). There is no adversary, so it trains steadily; it costs two evaluations for each
step. It is also a good teacher of an `Actor`, which then makes the same move in one.

Targets are freed at random while it trains, so the field knows what is asked and what is free, and
the difference may be stretched (classifier-free guidance),

.. math:: v = v_\mathrm{free} + w \, (v_y - v_\mathrm{free})

which makes attributes plainer at twice the cost. Without attributes the same is done with the
closed-form velocity of the data's Gaussian in the place of :math:`v_\mathrm{free}`, at no cost.

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

from ..critics import Critic
from ..decoder import Gaussian, Prior
from ..latents import Latents
from ..priors.matching import Matching
from ..priors.whitening import Whitening
from ..random import seeded
from ..training import Player, Step, fit
from .base import THRESHOLD, Controller, Move, refuse_where
from .targets import free_some, origins, target_context

CONDITIONAL, UNCONDITIONAL = 1.5, 2.0  # guidance


class FlowMatching(Controller):
    """Carries samples of the prior to where encodings with the asked attributes are.

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
        self.latent_shape, self.names, self.steps = tuple(latent_shape), tuple(names), steps
        self.guidance = (CONDITIONAL if names else UNCONDITIONAL) if guidance is None else guidance
        self.config = {
            "latent_shape": list(latent_shape),
            "names": list(names),
            "width": width,
            "depth": depth,
            "steps": steps,
            "guidance": self.guidance,
        }
        self.net = Matching(
            latent_shape,
            context=2 * len(names),
            width=width,
            depth=depth,
            steps=steps,
            guidance=1.0 if names else self.guidance,
        )

    @torch.no_grad()
    def move(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        where: Critic | None = None,
        threshold: float = THRESHOLD,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Move:
        refuse_where(self, where)
        context = target_context(z, y, self.names)
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
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        free_share: float = 0.25,
        seed: int = 0,
        **options: Any,
    ) -> FlowMatching:
        """The move from `prior` to `latents`; `options` go to `latentctl.training.fit`."""
        names = latents.names if latents.labels is not None else ()
        start = prior if prior is not None else Gaussian(latents.latent_shape)
        with seeded(seed, "flow matching"):
            sizes = {"width": width, "depth": depth, "steps": steps}
            flow = cls(latents.latent_shape, names, guidance=guidance, **sizes)
        flow.net.white = Whitening.fit(latents)

        def loss(batch: Latents, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            origin = origins(start, step)
            goal = batch.sample(step.normal(*flow.latent_shape))
            time = step.uniform(1, purpose="time")
            y = free_some(batch.labels, step, free_share) if names else None
            return flow.net.loss(origin, goal, time, target_context(goal, y, names)), {}

        optimizer = torch.optim.Adam(flow.parameters(), lr=learning_rate)
        options = {
            "progress": False,
            "lr_scheduler": "linear",
            "lr_warmup_steps": min(50, max_train_steps // 10),
            **options,
        }
        history = fit(
            Player("flow", flow, loss, optimizer, ema=0.99),
            latents,
            max_train_steps=max_train_steps,
            batch_size=batch_size,
            seed=seed,
            **options,
        )
        flow.load_state_dict(history.averaged["flow"].state_dict())
        return flow.eval()

r"""A move in two stages: a fast one, then a short ascent on an expensive critic.

The first stage proposes :math:`z_1 = c(z, y)`. The second minimises, from :math:`z_1`, the
objective of `Ascent.for_edits` about :math:`z` on a critic that is exact and slow, such as
networks on samples through the decoder. A few steps suffice if the critic of the first stage was
distilled from that one (`latentctl.distill`).
"""

from __future__ import annotations

__all__ = ["Refined"]

import dataclasses
from typing import Any

from torch import Tensor

from ..critics import Critic
from .ascent import Ascent
from .base import Controller, Move
from .request import Request

DEFAULTS = {"steps": 20, "learning_rate": 0.03}


class Refined(Controller):
    """A controller, and a short ascent on a critic that is too expensive for the whole move.

    Arguments:
        first: The controller of the first stage.
        critic: The critic of the second stage, of the same attributes in the same order.
        options: Of `Ascent.for_edits`, for the second stage; by default 20 steps with learning rate
            0.03.

    Example:
        >>> import torch
        >>> from latentctl import AttributeCritic
        >>> fast, slow = (AttributeCritic((8,), ["Smiling"], width=16) for _ in range(2))
        >>> refined = Refined(Ascent.for_edits(fast), slow)
        >>> move = refined.move(torch.zeros(3, 8), Request(target=torch.ones(1, 1)))
        >>> move.z.shape, move.evaluations.tolist()
        (torch.Size([3, 8]), [60, 60, 60])
    """

    searches_region = True

    def __init__(self, first: Controller, critic: Critic, **options: Any) -> None:
        super().__init__()
        self.first, self.attributes = first, critic
        self.second = Ascent.for_edits(critic, **{**DEFAULTS, **options})

    def search(self, z: Tensor, request: Request) -> Move:
        near = self.first.move(z, request)
        # held attributes keep their probability by this critic
        request = dataclasses.replace(request, current=None).with_current(self.attributes, z)
        if request.where is not None and self.attributes is not None:
            where = request.where.of(self.attributes)
            request = dataclasses.replace(request, where=where)
        # a critic on samples has no covariance of latents
        metric = self.first.attributes.covariance if self.first.attributes is not None else None
        far = self.second.climb(z, near.z, request, metric)
        return Move(far.z, near.evaluations + far.evaluations)

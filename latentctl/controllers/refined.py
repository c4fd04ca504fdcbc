r"""A move in two stages: a quick one, and a short climb from there on a dear critic.

The first stage proposes :math:`z_1 = c(z, y)`. The second climbs, from :math:`z_1`, the objective
of `Ascent.for_edits` about :math:`z` on a critic that is exact and slow, such as networks on samples
through the decoder. Where the first stage has learned from that critic (`latentctl.teach`), a few
steps are enough.
"""

from __future__ import annotations

__all__ = ["Refined"]

from typing import Any

import torch
from torch import Tensor

from ..critics import Critic
from .ascent import Ascent
from .base import THRESHOLD, Controller, Move

STEPS, LEARNING_RATE = 20, 0.03
SURE = 1 - 1e-6  # a value to keep is a fraction, however sure the teacher is of it


class Refined(Controller):
    """A controller, and a climb on a critic that is too dear to climb all the way.

    Arguments:
        first: Makes the first stage.
        teacher: The critic of the second stage, of the same attributes in the same order.
        options: Of `Ascent.for_edits`, for the second stage; 20 steps of 0.03 if not given.

    Example:
        >>> from latentctl import AttributeCritic
        >>> quick, dear = (AttributeCritic((8,), ["Smiling"], width=16) for _ in range(2))
        >>> refined = Refined(Ascent.for_edits(quick), dear)
        >>> move = refined.move(torch.zeros(3, 8), torch.ones(1, 1))
        >>> move.z.shape, move.evaluations.tolist()
        (torch.Size([3, 8]), [60, 60, 60])
    """

    first: Controller
    second: Ascent

    def __init__(self, first: Controller, teacher: Critic, **options: Any) -> None:
        super().__init__()
        self.first = first
        self.second = Ascent.for_edits(
            teacher, **{"steps": STEPS, "learning_rate": LEARNING_RATE, **options}
        )
        self.attributes = teacher
        judge = getattr(first, "attributes", None)
        if judge is not None:  # the teacher has seen no latents to know how they vary
            self.second.covariance = judge.covariance

    def move(self, z: Tensor, y: Tensor | None = None, **options: Any) -> Move:
        return self._stages(self.first.move(z, y, **options), z, y, **options)

    def move_within(
        self, region: Tensor, z: Tensor, y: Tensor | None = None, **options: Any
    ) -> Move:
        near = self.first.move_within(region, z, y, **options)
        return self._stages(near, z, y, region=region, **options)

    def _stages(
        self,
        near: Move,
        z: Tensor,
        y: Tensor | None,
        *,
        where: Critic | None = None,
        threshold: float = THRESHOLD,
        **options: Any,
    ) -> Move:
        """The second stage, after the first has come `near`."""
        if y is not None:  # a value to keep is the teacher's own, or it would be one to reach
            y = y.to(z.device).expand(len(z), -1)
            kept = (y > 0) & (y < 1)
            judge = getattr(self.first, "attributes", None)
            if bool(kept.any()):
                with torch.no_grad():
                    if judge is not None:
                        kept &= (judge.probability(z) - y).abs() <= 1 - threshold
                    own = self.attributes.probability(z)
                y = torch.where(kept, own.clamp(1 - SURE, SURE), y)
        if where is not None:
            where = where.of(self.attributes)
        far = self.second.climb(z, near.z, y, where=where, threshold=threshold, **options)
        return Move(far.z, near.evaluations + far.evaluations)

r"""Rejection sampling: prior samples are drawn until a critic accepts one.

The sample is the first candidate :math:`z_1, z_2, \ldots \sim p(z)` whose request holds, so that
accepted samples follow the prior given the request,

.. math:: z \sim p(z \mid y) \propto p(z) \, [P(y \mid z) \geq \tau]

exactly, with all of its diversity. It needs no gradient and no training, and costs
:math:`1 / P(\text{accepted})` evaluations on average. Where no candidate is accepted, the likeliest
one is taken, and moved by a further controller if there is one. It is for samples: an edit would
replace the input.
"""

from __future__ import annotations

__all__ = ["Rejection"]

from typing import Any

import torch
from torch import Tensor, nn

from ..critics import Critic, RealismCritic
from ..decoder import Gaussian
from ..errors import InputError
from ..progress import track
from ..storage import register_to_config
from .base import Controller, Move
from .gradient import GradientController
from .request import Request

STREAM = 2**40  # candidates of a sample are this far apart in the sequence of the prior


class Rejection(GradientController, kind="rejection"):
    """Draws candidates from the prior of the request until it holds.

    Arguments:
        attributes: The critic of the attributes, such as a `PixelCritic`; a function without
            gradient will do.
        realism: A critic of realism, which must accept as well.
        otherwise: Moves the likeliest candidate of a sample for which none was accepted.
        candidates: Most candidates of a sample, its own start included.
        realism_threshold: Probability of realism from which a candidate is accepted.

    Raises:
        InputError: If there is no candidate.

    Example:
        >>> from latentctl import AttributeCritic
        >>> critic = AttributeCritic((8,), ["Smiling"], width=16)
        >>> draw = Rejection(critic, candidates=4)
        >>> move = draw.move(torch.zeros(3, 8), Request(target=torch.ones(1, 1), threshold=0.6))
        >>> move.z.shape, bool((move.evaluations <= 4).all())
        (torch.Size([3, 8]), True)
    """

    @register_to_config
    def __init__(
        self,
        attributes: Critic | None = None,
        realism: RealismCritic | None = None,
        otherwise: Controller | None = None,
        *,
        candidates: int = 64,
        realism_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        if candidates < 1:
            raise InputError(f"candidates is at least 1, it was given as {candidates}.")
        self.attributes, self.realism = attributes, realism
        self.otherwise, self.candidates = otherwise, candidates
        self.hold_weight, self.realism_weight = 1.0, 1.0
        self.realism_threshold = realism_threshold

    def parts(self) -> dict[str, nn.Module | None]:
        return {**super().parts(), "otherwise": self.otherwise}

    @torch.no_grad()
    def search(self, z: Tensor, request: Request) -> Move:
        best = z.clone()
        loss, done = self.request_loss(z, request)
        evaluations = torch.ones(len(z), dtype=torch.long, device=z.device)
        for number in track(range(1, self.candidates), "Draw", "candidate"):
            active = (~done).nonzero().flatten()
            if not len(active):
                break
            rows = request.rows(active)
            drawn = self._candidates(rows, z, number)
            found, accepted = self.request_loss(drawn, rows)
            evaluations[active] += 1
            better = accepted | (found < loss[active])
            taken = active[better]
            best[taken], loss[taken], done[taken] = drawn[better], found[better], accepted[better]
        if self.otherwise is not None and not bool(done.all()):
            move = self.otherwise.move(best[~done], request.rows(~done))
            best[~done] = move.z
            evaluations[~done] += move.evaluations
        return Move(best, evaluations)

    def _candidates(self, rows: Request, z: Tensor, number: int) -> Tensor:
        """Candidate `number` of each row, whatever the other rows are."""
        index = torch.arange(len(z)) if rows.index is None else rows.index.cpu()
        prior: Any = Gaussian(z.shape[1:]) if rows.prior is None else rows.prior
        parts = [
            prior.sample(1, seed=rows.seed, start=number * STREAM + place)
            for place in index.tolist()
        ]
        return torch.cat(parts).to(z)

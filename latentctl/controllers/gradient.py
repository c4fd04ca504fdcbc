"""Controllers that follow the gradient of critics: the loss of a request."""

from __future__ import annotations

__all__ = ["GradientController"]

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics.log_odds import cross_entropy
from ..errors import NonFiniteError
from .base import Controller
from .request import Request


class GradientController(Controller):
    """A controller with a weight for each term of the loss of a request."""

    hold_weight: float
    squared_hold: bool = False
    realism_weight: float
    realism_threshold: float = 0.0

    def request_loss(self, z: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        r"""The negative log-probability of requests, and whether they hold, both `(B,)`.

        .. math:: -\log P(y \mid z) - w \log D(z, y)

        Arguments:
            z: Latents, `(B, *latent_shape)`.
            request: The request, with a row for each latent.

        Raises:
            NonFiniteError: If the log-odds of a critic are not finite.
        """
        loss = torch.zeros(len(z), device=z.device)
        done = torch.ones(len(z), dtype=torch.bool, device=z.device)
        y, hold = request.values, request.hold
        if y is not None and self.attributes is not None:
            logits = _require_finite(self.attributes(z), "attribute critic")
            each = cross_entropy(logits, y)
            near = (torch.sigmoid(logits) - y).abs() <= 1 - request.threshold
            if hold is not None:
                held = each
                if self.squared_hold:  # no NaN even where it is not chosen, or gradients are NaN
                    held = (torch.sigmoid(logits) - torch.nan_to_num(y)).square()
                each, near = torch.where(hold, self.hold_weight * held, each), near | hold
            if set(weights := self.attributes.weights) != {1.0}:
                each = each * each.new_tensor(weights)
            loss = loss + each.sum(1)
            done &= (near | torch.isnan(y)).all(1)
        if request.where is not None:
            score = _require_finite(request.where(z), "critic `where`")[:, 0]
            loss = loss + F.softplus(-score)
            done &= torch.sigmoid(score) >= request.threshold
        if self.realism is not None and (self.realism_weight or self.realism_threshold):
            score = self.realism(z, None if y is None else y.round())
            score = _require_finite(score, "realism critic")[:, 0]
            loss = loss + self.realism_weight * F.softplus(-score)
            done &= torch.sigmoid(score) >= self.realism_threshold
        return loss, done.detach()


def _require_finite(logits: Tensor, critic: str) -> Tensor:
    bad = ~torch.isfinite(logits).all(1)
    if bool(bad.any()):
        raise NonFiniteError(
            f"The log-odds of the {critic} are not finite for {int(bad.sum())} of {len(logits)} "
            f"latents. Check that it is trained, and on latents of this scale."
        )
    return logits

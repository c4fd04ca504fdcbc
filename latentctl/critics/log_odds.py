"""Log-odds of events, and the cross-entropy of targets."""

from __future__ import annotations

__all__ = ["cross_entropy", "log_odds"]

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SURPRISE = 1e-30  # keeps the log-odds of a certain event finite, at 69


def log_odds(log_p: Tensor) -> Tensor:
    """Log-odds of events with log-probabilities `log_p`; finite, with a gradient, near 0 and 1."""
    surprise = (-log_p).clamp_min(MIN_SURPRISE)
    return -(surprise + torch.log(-torch.expm1(-surprise)))


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats of each target, `(B, K)`; 0 where the target is free."""
    known = ~torch.isnan(y)
    target = torch.where(known, y, torch.zeros_like(y)).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(known, entropy, torch.zeros_like(entropy))

"""The threshold of an evaluator: the probability from which its "satisfied" can be relied on.

A fixed threshold is too strict for an evaluator of few images, whose calibrated probabilities are
rarely high, and may be too loose for another. Held-out encodings are edited, one attribute flipped
in each, and the threshold is the least one at which the share of right verdicts
among those that are called satisfied is expected to reach a rate: the mean of the calibrated
probabilities there. The evaluator is calibrated on reconstructions and not on edits, so that the
expectation holds as far as edits look like them.
"""

from __future__ import annotations

__all__ = ["choose_threshold", "least_threshold"]

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents
from ..random import permutation
from .conditional import Conditional

RATE = 0.95  # of right verdicts
MOST_EDITS = 600
LEAST_EDITS = 20  # that are called satisfied
BOUNDS = (0.5, 0.999)


def choose_threshold(
    faces: Conditional,
    latents: Latents,
    *,
    rate: float = RATE,
    edits: int = MOST_EDITS,
    seed: int = 0,
) -> float | None:
    """The threshold of the evaluator of a `Conditional`, chosen on edits; None if they are too few.

    Arguments:
        faces: With a calibrated evaluator.
        latents: Encodings of samples that the evaluator was not trained on.
        rate: Share of right verdicts among the edits that are called satisfied, in (0, 1).
        edits: Most edits that are made.
        seed: Decides which attribute of which encoding is flipped.

    Raises:
        InputError: If there is no evaluator, or `rate` is no share.
    """
    evaluator, count = faces.evaluator, len(faces.names)
    if evaluator is None:
        raise InputError("choose_threshold is for an evaluator: condition(..., evaluator=...).")
    if not 0 < rate < 1:
        raise InputError(f"rate is a share in (0, 1), it was given as {rate:g}.")
    chosen = permutation(len(latents) * count, seed=seed, epoch=0, purpose="flips")[:edits]
    rows, columns = chosen // count, chosen % count
    some = latents[rows]
    before = evaluator.score(some.mean.to(faces.decoder.device)).sigmoid().cpu()
    target = torch.full_like(before, torch.nan)
    place = torch.arange(len(rows))
    target[place, columns] = 1 - before[place, columns].round()
    after = faces.edit(some, y=target, seed=seed).probability.cpu()
    return least_threshold(1 - (after - target)[place, columns].abs(), rate)


def least_threshold(probability: Tensor, rate: float) -> float | None:
    """The least threshold from which calibrated probabilities `(N,)` have a mean of `rate`.

    It is in [0.5, 0.999]; None if fewer than 20 probabilities reach it.

    Example:
        >>> least_threshold(torch.linspace(0, 1, 101), 0.9)
        0.8
    """
    ordered = probability.sort(descending=True).values
    means = ordered.cumsum(0) / torch.arange(1, len(ordered) + 1)
    accepted = int((means >= rate).sum())
    if accepted < LEAST_EDITS:
        return None
    least = float(ordered[accepted - 1]) if accepted < len(ordered) else 0.0
    return round(min(max(least, BOUNDS[0]), BOUNDS[1]), 4)

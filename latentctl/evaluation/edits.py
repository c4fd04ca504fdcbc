r"""What an edit changed, what it should not have changed, and whether the person is the same.

An evaluator's probabilities of the image before, `p`, and after, `q`, become yes or no at 0.5. An
edit asks for values `y` of some attributes and leaves the others free (NaN):

    success  = share of the requested attributes with  [q > 0.5] = y,
    leakage  = share of the others with  [q > 0.5] != [p > 0.5].

The evaluator is independent of the critic that the edit followed, so an adversarial edit does not
count.
"""

from __future__ import annotations

__all__ = ["EditScores", "edit_scores", "identity"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from ..nn.precision import double_precision
from .accuracy import attribute_names


@dataclass(frozen=True)
class EditScores:
    """Scores of a set of edits.

    `success` and `leakage` are shares over all images; `success_of[name]` the success where
    `name` was requested, `leakage_of[name]` how often `name` changed where it was not requested;
    `drift` the mean absolute change of probability of what was not requested. NaN: nothing to
    count.
    """

    success: float
    leakage: float
    drift: float
    success_of: dict[str, float]
    leakage_of: dict[str, float]


def edit_scores(
    before: Tensor, after: Tensor, requested: Tensor, *, names: Sequence[str] | None = None
) -> EditScores:
    """Success and leakage of edits by an independent evaluator.

    Arguments:
        before: The evaluator's probabilities `(N, K)` of the images before the edit (for a frozen
            decoder its reconstructions, or the reconstruction error counts as leakage).
        after: Its probabilities `(N, K)` after the edit.
        requested: `(N, K)`, the requested value in [0, 1], NaN where nothing was requested.
        names: Name of each attribute; `"0"`, `"1"`, ... by default.

    Raises:
        ShapeError: The shapes differ, or the names do not fit them.
        InputError: Nothing is requested, or a probability is not finite.

    Example:
        >>> free = float("nan")
        >>> scores = edit_scores(
        ...     before=torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.9, 0.2]]),
        ...     after=torch.tensor([[0.8, 0.9, 0.7], [0.4, 0.9, 0.1]]),
        ...     requested=torch.tensor([[1.0, free, free], [1.0, free, free]]),
        ...     names=["Smiling", "Young", "Male"],
        ... )
        >>> scores.success, scores.leakage, scores.leakage_of["Male"]
        (0.5, 0.25, 0.5)
    """
    names = attribute_names(names, requested=requested, before=before, after=after)
    asked = ~requested.isnan()
    if not bool(asked.any()):
        raise InputError("No attribute is requested in any row: every entry is NaN.")
    done = (after > 0.5) == (requested > 0.5)
    changed = (after > 0.5) != (before > 0.5)
    return EditScores(
        success=_mean(done, asked),
        leakage=_mean(changed, ~asked),
        drift=_mean((after - before).abs(), ~asked),
        success_of={n: _mean(done[:, k], asked[:, k]) for k, n in enumerate(names)},
        leakage_of={n: _mean(changed[:, k], ~asked[:, k]) for k, n in enumerate(names)},
    )


def identity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine `(N,)` in [-1, 1] between the face embeddings `(N, F)` of two sets of images.

    Example:
        >>> identity(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([0.])
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ShapeError(
            f"identity compares embeddings of one shape (N, F), found {tuple(a.shape)} and "
            f"{tuple(b.shape)}."
        )
    return torch.nn.functional.cosine_similarity(a, b, dim=1)


def _mean(values: Tensor, where: Tensor) -> float:
    return double_precision(values[where]).mean().item()  # NaN where there is none

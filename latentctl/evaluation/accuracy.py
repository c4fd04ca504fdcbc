r"""How well probabilities agree with binary attributes.

An attribute is predicted present above probability 0.5. With true positives TP, false positives FP
and false negatives FN of one attribute,

    precision = TP / (TP + FP),   recall = TP / (TP + FN),   F1 = 2 TP / (2 TP + FP + FN),

each 0 where its denominator is 0, and *macro* is the plain mean over attributes, so that a rare
attribute (Bald) weighs as much as a common one (Male).
"""

from __future__ import annotations

__all__ = ["AttributeScore", "MultilabelScores", "attribute_names", "multilabel_scores"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from ..nn.precision import double_precision


@dataclass(frozen=True)
class AttributeScore:
    """Scores of one attribute over the `count` samples whose target is known."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True)
class MultilabelScores:
    """Accuracy over all known targets, and macro precision, recall and F1."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    per_attribute: dict[str, AttributeScore]


def multilabel_scores(
    probability: Tensor, target: Tensor, *, names: Sequence[str] | None = None
) -> MultilabelScores:
    """Accuracy and macro precision, recall, F1 at the threshold 0.5.

    Arguments:
        probability: `(N, K)` in [0, 1].
        target: `(N, K)`, present above 0.5; NaN = unknown or free, and not counted.
        names: Name of each attribute; `"0"`, `"1"`, ... by default.

    Returns:
        The scores; an attribute without any known target is left out of them.

    Raises:
        ShapeError: The two shapes differ or the names do not fit them.
        InputError: No target is known, or a probability is not finite.

    Example:
        >>> p = torch.tensor([[0.9, 0.2], [0.4, 0.8], [0.7, 0.1]])
        >>> y = torch.tensor([[1.0, 0.0], [1.0, 1.0], [float("nan"), 0.0]])
        >>> scores = multilabel_scores(p, y, names=["Male", "Bald"])
        >>> scores.accuracy, scores.per_attribute["Male"].recall, scores.per_attribute["Bald"].f1
        (0.8, 0.5, 1.0)
    """
    names = attribute_names(names, target=target, probability=probability)
    known, predicted, truth = ~target.isnan(), probability > 0.5, target > 0.5
    if not bool(known.any()):
        raise InputError("Every target is NaN: there is nothing to score.")
    counts = (known, predicted == truth, predicted & truth, predicted, truth)
    per_attribute = {
        name: AttributeScore(
            accuracy=right / count,
            precision=hits / calls if calls else 0.0,
            recall=hits / positives if positives else 0.0,
            f1=2 * hits / (calls + positives) if calls + positives else 0.0,
            count=count,
        )
        for name, count, right, hits, calls, positives in zip(
            names, *((mask & known).sum(0).tolist() for mask in counts), strict=True
        )
        if count
    }
    scores = list(per_attribute.values())
    return MultilabelScores(
        accuracy=double_precision((predicted == truth)[known]).mean().item(),
        precision=sum(s.precision for s in scores) / len(scores),
        recall=sum(s.recall for s in scores) / len(scores),
        f1=sum(s.f1 for s in scores) / len(scores),
        per_attribute=per_attribute,
    )


def attribute_names(names: Sequence[str] | None, **matrices: Tensor) -> list[str]:
    """The names of K attributes, after a check of matrices `(N, K)`, all finite but the first.

    Raises:
        ShapeError: The shapes differ, or the names do not fit them.
        InputError: A matrix other than the first is not finite.
    """
    first, *others = matrices.values()
    if first.ndim != 2 or any(matrix.shape != first.shape for matrix in others):
        found = ", ".join(str(tuple(matrix.shape)) for matrix in matrices.values())
        raise ShapeError(f"{', '.join(matrices)} must all be (N, K), found {found}.")
    names = list(names) if names is not None else [str(k) for k in range(first.shape[1])]
    if len(names) != first.shape[1]:
        raise ShapeError(f"{first.shape[1]} attributes need as many names, found {len(names)}.")
    if not all(bool(torch.isfinite(matrix).all()) for matrix in others):
        raise InputError("A probability is NaN or infinite. Check the network that computed it.")
    return names

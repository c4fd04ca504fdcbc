r"""How well probabilities agree with binary attributes.

An attribute is called present above probability 0.5. With true positives TP, false positives FP
and false negatives FN of one attribute,

    precision = TP / (TP + FP),   recall = TP / (TP + FN),   F1 = 2 TP / (2 TP + FP + FN),

each 0 where its denominator is 0, and *macro* is the plain mean over attributes, so that a rare
attribute (Bald) weighs as much as a common one (Male).
"""

from __future__ import annotations

__all__ = ["AttributeScore", "MultilabelScores", "multilabel_scores"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, ShapeError


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
    if probability.shape != target.shape or probability.ndim != 2:
        raise ShapeError(
            "probability and target must both be (N, K), found "
            f"{tuple(probability.shape)} and {tuple(target.shape)}."
        )
    names = list(names) if names is not None else [str(k) for k in range(target.shape[1])]
    if len(names) != target.shape[1]:
        raise ShapeError(f"{target.shape[1]} attributes need as many names, found {len(names)}.")
    if not bool(torch.isfinite(probability).all()):
        raise InputError("A probability is NaN or infinite: look at what gave it first.")
    known = ~target.isnan()
    if not bool(known.any()):
        raise InputError("Every target is NaN: there is nothing to score.")
    called, truth = probability > 0.5, target > 0.5
    per_attribute = {}
    for k, name in enumerate(names):
        rows = known[:, k]
        if bool(rows.any()):
            per_attribute[name] = _score(called[rows, k], truth[rows, k])
    scores = list(per_attribute.values())
    return MultilabelScores(
        accuracy=(called == truth)[known].double().mean().item(),
        precision=sum(s.precision for s in scores) / len(scores),
        recall=sum(s.recall for s in scores) / len(scores),
        f1=sum(s.f1 for s in scores) / len(scores),
        per_attribute=per_attribute,
    )


def _score(called: Tensor, truth: Tensor) -> AttributeScore:
    hit = int((called & truth).sum())
    positives, calls = int(truth.sum()), int(called.sum())
    return AttributeScore(
        accuracy=(called == truth).double().mean().item(),
        precision=hit / calls if calls else 0.0,
        recall=hit / positives if positives else 0.0,
        f1=2 * hit / (calls + positives) if calls + positives else 0.0,
        count=len(truth),
    )

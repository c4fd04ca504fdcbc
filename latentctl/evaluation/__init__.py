"""Measures of what was generated: pure functions on tensors, plain dataclasses as results."""

from __future__ import annotations

from .accuracy import AttributeScore, MultilabelScores, multilabel_scores
from .diversity import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .edits import EditScores, edit_scores, identity
from .frechet import frechet_distance
from .guarantee import Guarantee

__all__ = [
    "AttributeScore",
    "DensityCoverage",
    "EditScores",
    "Guarantee",
    "MultilabelScores",
    "PrecisionRecall",
    "density_coverage",
    "edit_scores",
    "frechet_distance",
    "identity",
    "multilabel_scores",
    "precision_recall",
]

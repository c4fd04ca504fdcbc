"""Measures of what was generated: pure functions on tensors, plain dataclasses as results."""

from __future__ import annotations

from .accuracy import AttributeScore, MultilabelScores, multilabel_scores
from .diversity import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .doses import dose_response
from .edits import EditScores, edit_scores, identity
from .frechet import frechet_distance

__all__ = [
    "AttributeScore",
    "DensityCoverage",
    "EditScores",
    "MultilabelScores",
    "PrecisionRecall",
    "density_coverage",
    "dose_response",
    "edit_scores",
    "frechet_distance",
    "identity",
    "multilabel_scores",
    "precision_recall",
]

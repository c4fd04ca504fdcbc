"""Measures of what was generated: pure functions on tensors, plain dataclasses as results."""

from __future__ import annotations

from .accuracy import AttributeScore, MultilabelScores, multilabel_scores
from .diversity import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .doses import DoseResponse, dose_response
from .edits import EditScores, edit_scores, identity
from .frechet import frechet_distance
from .guarantee import Guarantee

__all__ = [
    "AttributeScore",
    "DensityCoverage",
    "DoseResponse",
    "EditScores",
    "Guarantee",
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

"""Measures of what was generated: pure functions on tensors, plain dataclasses as results."""

from __future__ import annotations

from .accuracy import AttributeScore, MultilabelScores, multilabel_scores

__all__ = ["AttributeScore", "MultilabelScores", "multilabel_scores"]

"""TzK: attributes that are added one at a time, each with its own conditional density."""

from __future__ import annotations

__all__ = ["Knowledge", "KnowledgeBase"]

from .base import KnowledgeBase
from .knowledge import Knowledge

"""A decoder with a critic and a controller: samples, edits, receipts, packs."""

from __future__ import annotations

__all__ = ["Conditional", "Outcome", "Taught", "Verdict", "condition", "teach", "verify"]

from .condition import condition
from .conditional import Conditional
from .outcome import Outcome
from .teach import Taught, teach
from .verify import Verdict, verify

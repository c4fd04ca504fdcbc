"""A decoder with a critic and a controller: samples, edits, receipts, packs."""

from __future__ import annotations

__all__ = [
    "Bound",
    "Conditional",
    "DoseResponse",
    "Guarantee",
    "Outcome",
    "Taught",
    "Verdict",
    "calibrate",
    "condition",
    "teach",
    "verify",
]

from .bound import Bound
from .calibrate import calibrate
from .condition import condition
from .conditional import Conditional
from .guarantee import Guarantee
from .outcome import Outcome
from .response import DoseResponse
from .teach import Taught, teach
from .verify import Verdict, verify

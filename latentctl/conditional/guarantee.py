r"""A guarantee of verdicts about edits, with the assumption that it stands on.

Of the edits that are called satisfied, at most a share alpha is denied by a judge that no method
uses; of those called clean, at most alpha change a held attribute by more than a limit for the
judge; of those called unreachable, at most alpha are reached for the judge. Whatever can be called
neither satisfied nor unreachable is undecided. The thresholds are chosen on calibration edits by
`conditional.calibrate`, and are no looser than the evaluator's own figures: what is satisfied has
at least the evaluator's threshold, and what is clean leaks no more than the limit.

"unreachable" goes by a learned probability that a request is reached,

.. math:: P(\mathrm{reached}) = \mathrm{sigmoid}(w_0 \ell + w_{k,v} + b)

with the evaluator's log-odds of the request :math:`\ell` and a weight for each attribute and value
that is asked for, since evaluators err more on some attributes than on others.

Each promise holds with a probability of at least 1 - delta over calibration edits, if later edits
are exchangeable with them: the same kind of inputs and requests in the same shares, the same editor
and strength. It says nothing of one attribute or one group alone, and nothing where the judge is
wrong.
"""

from __future__ import annotations

__all__ = ["ASSUMES", "Guarantee", "features", "networks", "whole"]

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..controllers import Controller, Refined, Request
from ..critics import PixelCritic
from ..storage import fingerprint
from .bound import Bound
from .request import least_likely

ASSUMES = (
    "later edits are exchangeable with the calibration edits: the same kind of inputs and requests "
    "in the same shares, the same editor and strength"
)
VERDICTS = ("satisfied", "clean", "unreachable")
CLAMP = 1e-4  # of probabilities, before their log-odds


@dataclass(frozen=True)
class Guarantee:
    """Bounds on the errors of "satisfied", "clean" and "unreachable", made by `calibrate`."""

    satisfied: Bound
    """On the least probability of what is asked, by the evaluator."""
    clean: Bound
    """On one minus the largest change of a held attribute, by the evaluator."""
    unreachable: Bound
    """On one minus the learned probability that the request is reached."""
    reach: tuple[float, ...]
    """Weights of that probability: of the evaluator's log-odds, of each attribute that is asked to
    be present, of each that is asked to be absent, and the bias; 2 K + 2."""
    leakage: float
    """Change of a held attribute's probability that is still clean."""
    asked: tuple[int, ...]
    """Numbers of attributes that calibration requests asked for."""
    strength: float
    """Strength of the calibration edits."""
    edits: int
    """Number of calibration edits."""
    networks: str
    """Fingerprint of the evaluator, and of the networks that refined the edits."""

    def covers(self, request: Request) -> bool:
        """Whether every row asks as calibration requests did: as many whole values, no `where`."""
        if request.where is not None or request.region is not None or request.target is None:
            return False
        counts = (~request.target.isnan()).sum(1).unique().tolist()
        same = request.strength == self.strength and {*counts} <= {*self.asked}
        return same and bool(whole(request.target).all())

    def verdicts(self, target: Tensor, probability: Tensor, leakage: Tensor) -> dict[str, Tensor]:
        """Whether each edit is satisfied, clean and unreachable, `(B,)` booleans each.

        Arguments:
            target: What is asked, `(B, K)`.
            probability: After the edit, by the evaluator, `(B, K)`.
            leakage: Change of held attributes, NaN for the others, `(B, K)`.
        """
        least = least_likely(target, probability, target, None)
        weights = torch.tensor(self.reach, dtype=least.dtype, device=least.device)
        reached = (features(target, least) @ weights).sigmoid()
        satisfied = self.satisfied.accepts(least)
        return {
            "satisfied": satisfied,
            "clean": self.clean.accepts(1 - leakage.nan_to_num(0).amax(1)),
            "unreachable": self.unreachable.accepts(1 - reached) & ~satisfied,
        }

    @property
    def promise(self) -> str:
        """What holds of edits that are called satisfied, clean or unreachable."""
        share = f"{100 * self.satisfied.alpha:g} %"
        return f"at most {share} of each wrong if requests are exchangeable"

    def facts(self) -> dict[str, Any]:
        """What is promised, at which thresholds, and what it assumes, as JSON holds it."""
        bounds = {name: getattr(self, name) for name in VERDICTS}
        return {
            "alpha": self.satisfied.alpha,
            "delta": self.satisfied.delta,
            "leakage": self.leakage,
            "calibration_edits": self.edits,
            "attributes_asked": list(self.asked),
            "strength": self.strength,
            "thresholds": {name: bound.threshold for name, bound in bounds.items()},
            "not_called": {name: round(bound.undecided, 4) for name, bound in bounds.items()},
            "assumes": ASSUMES,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a pack holds of it."""
        bounds = [getattr(self, name) for name in VERDICTS]
        found = {
            "thresholds": [torch.nan if b.threshold is None else b.threshold for b in bounds],
            "not_called": [b.undecided for b in bounds],
            "levels": [self.satisfied.alpha, self.satisfied.delta, self.leakage, self.strength],
            "reach": self.reach,
        }
        return {
            **{name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()},
            "counts": torch.tensor([self.edits, *self.asked]),
            "networks": torch.tensor([*bytes.fromhex(self.networks)], dtype=torch.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Guarantee:
        """The guarantee of `tensors`."""
        alpha, delta, leakage, strength = tensors["levels"].tolist()
        edits, *asked = tensors["counts"].tolist()
        pairs = zip(tensors["thresholds"].tolist(), tensors["not_called"].tolist(), strict=True)
        # NaN is not equal to itself
        bounds = [Bound(t if t == t else None, alpha, delta, share) for t, share in pairs]
        return cls(
            **dict(zip(VERDICTS, bounds, strict=True)),
            reach=tuple(tensors["reach"].tolist()),
            leakage=leakage,
            asked=tuple(asked),
            strength=strength,
            edits=edits,
            networks=bytes(tensors["networks"].tolist()).hex(),
        )

    def __repr__(self) -> str:
        wrong = {
            "satisfied": "are denied by the judge",
            "clean": f"change a held attribute by more than {self.leakage:g}",
            "unreachable": "are reached",
        }
        parts = []
        for name, words in wrong.items():
            bound = getattr(self, name)
            called = f"{100 * (1 - bound.undecided):.0f} % of {self.edits} were called so"
            if bound.threshold is None:
                called = f"no edit is called so, {self.edits} were too few or too often wrong"
            share = f"{100 * bound.alpha:g} %"
            parts.append(f"of edits called {name} at most {share} {words}: {called}")
        level = 100 * (1 - self.satisfied.delta)
        return (
            f"Guarantee({'; '.join(parts)}. Each holds with a probability of {level:g} %, if "
            f"{ASSUMES})"
        )


def features(target: Tensor, least: Tensor) -> Tensor:
    """What the probability of reaching a request is computed from, `(B, 2 K + 2)`.

    Arguments:
        target: What is asked, `(B, K)`, NaN = free.
        least: Least probability of what is asked, by the evaluator, `(B,)`.
    """
    odds = torch.logit(least.clamp(CLAMP, 1 - CLAMP))[:, None]
    return torch.cat([odds, (target == 1).to(odds), (target == 0).to(odds), odds**0], 1)


def whole(target: Tensor) -> Tensor:
    """Whether nothing between 0 and 1 is asked for, `(B,)` booleans."""
    return ~((target > 0) & (target < 1)).any(1)


def networks(evaluator: PixelCritic, editor: Controller) -> str:
    """Fingerprint of the networks on samples that edits and their figures depend on."""
    used = [evaluator, *([editor.attributes] if isinstance(editor, Refined) else [])]
    found = [fingerprint(one) for one in used if one is not None]
    return hashlib.sha256("".join(found).encode()).hexdigest()

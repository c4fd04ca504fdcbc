"""What a pack holds of measurements on edits: dose-responses and the guarantee, a file each."""

from __future__ import annotations

__all__ = ["measured_tensors", "read_doses", "read_guarantee"]

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .guarantee import Guarantee, networks
from .response import DoseResponse, from_tensors, tensors_of

logger = logging.getLogger(__name__)


def measured_tensors(
    guarantee: Guarantee | None, doses: Sequence[DoseResponse], **parts: Any
) -> dict[str, dict[str, Tensor]]:
    """The files of what was measured on edits."""
    found = {} if guarantee is None else {"guarantee": guarantee.tensors()}
    return found | ({"doses": tensors_of(doses)} if doses else {})


def read_doses(
    tensors: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]
) -> list[DoseResponse]:
    """The dose-responses of attributes of these names; none if they were not measured."""
    return from_tensors(tensors["doses"], names) if "doses" in tensors else []


def read_guarantee(
    path: str | Path, tensors: Mapping[str, Any], evaluator: Any, editor: Any
) -> Guarantee | None:
    """The guarantee, if the evaluator and the refinement are those that it was made with."""
    if "guarantee" not in tensors or evaluator is None:
        return None
    found = Guarantee.from_tensors(tensors["guarantee"])
    if len(found.reach) != 2 * len(evaluator.names) + 2:
        raise CheckpointError(f"The guarantee of the pack at {path} is of other attributes.")
    if found.networks == networks(evaluator, editor):
        return found
    logger.warning(
        "The guarantee of the pack at %s is of another evaluator or refinement, and was left out: "
        "make one with these by latentctl.conditional.calibrate.",
        path,
    )
    return None

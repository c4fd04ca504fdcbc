"""Checkpoints of a run: which are kept, and from which one a run resumes.

A checkpoint is a folder `step-000123` that `latentctl.storage` writes atomically. Checkpoints over
`total_limit` are removed after the new one was committed. Those that fail verification are logged
and never loaded.
"""

from __future__ import annotations

__all__ = ["checkpoints", "latest_checkpoint", "resolve_checkpoint", "save_checkpoint"]

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, InputError
from ..storage import save_folder, verify_folder
from ..storage.files import MANIFEST, hidden, remove

STEP = re.compile(r"step-(\d{6,})")

logger = logging.getLogger(__name__)


def save_checkpoint(
    output_dir: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    total_limit: int | None = None,
) -> Path:
    """Save `output_dir/step-000123` by `save_folder`, and return it.

    Then the oldest intact checkpoints over `total_limit` are removed; None keeps all. Corrupted
    ones are neither counted nor removed.

    Raises:
        CheckpointError: It could not be saved; every older checkpoint is intact.
        InputError: `step` is negative, or `total_limit` leaves no checkpoint.
    """
    if step < 0 or (total_limit is not None and total_limit < 1):
        raise InputError(f"Need step >= 0 and total_limit >= 1, not {step} and {total_limit}.")
    path = Path(output_dir) / f"step-{step:06d}"
    try:
        _sweep(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} was not saved: the remains of an interrupted save could not be removed "
            f"({error}). Earlier saves are untouched. Remove them by hand."
        ) from error
    save_folder(path, tensors, state)
    if total_limit is not None:
        others = [c for c in checkpoints(output_dir) if c != path and _problem(c) is None]
        for old in others[: max(0, len(others) - (total_limit - 1))]:
            try:  # renamed first: a crash while deleting leaves no partial checkpoint
                os.rename(old, hidden(old, "partial"))
                remove(hidden(old, "partial"))
            except OSError as error:
                logger.warning("Saved %s, but could not remove the older %s: %s", path, old, error)
    return path


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run by step, intact or not: `step-NNNNNN` folders with a manifest."""
    found = {}
    for entry in _entries(Path(output_dir)):
        replaced = entry.name.startswith(".") and entry.name.endswith(".old")
        name = entry.name[1 : -len(".old")] if replaced else entry.name
        match = STEP.fullmatch(name)
        if not match or name != f"step-{int(match[1]):06d}" or not (entry / MANIFEST).is_file():
            continue
        if not (replaced and entry.with_name(name).exists()):
            found[int(match[1])] = entry
    return [found[step] for step in sorted(found)]


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest intact checkpoint, or None; ignored ones are logged with the reason."""
    listed = checkpoints(output_dir)
    for entry in _entries(Path(output_dir)):
        if entry not in listed and re.match(r"\.?step-", entry.name):
            interrupted = entry.name.startswith(".")
            why = "left by an interrupted save" if interrupted else "not a finished checkpoint"
            logger.warning("Ignored %s: %s.", entry, why)
    for checkpoint in reversed(listed):
        problem = _problem(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("Ignored %s: %s", checkpoint, problem)
    return None


def resolve_checkpoint(
    output_dir: str | Path, resume_from_checkpoint: str | Path | None
) -> Path | None:
    """The intact checkpoint that a run resumes from, or None for a fresh run.

    Arguments:
        output_dir: The folder of the run.
        resume_from_checkpoint: None for a fresh run; `"latest"` for the newest intact checkpoint
            if there is one; or a checkpoint, as a path or by its name in `output_dir`.

    Raises:
        CheckpointError: The named checkpoint is missing, truncated or corrupted.
    """
    if resume_from_checkpoint is None:
        return None
    if str(resume_from_checkpoint) == "latest":
        newest = latest_checkpoint(output_dir)
        if newest is None:
            logger.warning("No usable checkpoint in %s: this is a fresh run.", output_dir)
        return newest
    path = Path(resume_from_checkpoint)
    if len(path.parts) == 1 and not path.exists():
        path = Path(output_dir) / path
    problem = _problem(path)
    if problem is None:
        return path
    usable = [str(c) for c in checkpoints(output_dir) if _problem(c) is None]
    raise CheckpointError(
        f"Cannot resume from {resume_from_checkpoint}: {problem} "
        f"Usable checkpoints: {', '.join(usable) or f'none in {output_dir}'}."
    )


def _problem(path: Path) -> str | None:
    try:
        verify_folder(path)
    except CheckpointError as error:
        return str(error)
    return None


def _sweep(output_dir: Path) -> None:
    """Remove the remains of interrupted saves; a folder that was being replaced is put back."""
    for entry in _entries(output_dir):
        match = re.fullmatch(rf"\.({STEP.pattern})\.(partial|old)", entry.name)
        if match and match[3] == "old" and not entry.with_name(match[1]).exists():
            os.rename(entry, entry.with_name(match[1]))
        elif match:
            remove(entry)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []

r"""Checkpoints of a run: which are kept, which is the latest, and what goes into them.

A checkpoint is a folder `step-000123` as `latentctl.storage` writes it: after any fault or kill the
previous or the new one is there, whole. What is over `total_limit` is removed only after the new
one is in place, and what does not verify is passed over with a word in the log, never loaded.
Optimizer states are tensors and JSON, never pickles; weights are loaded strictly.
"""

from __future__ import annotations

__all__ = [
    "checkpoints",
    "flatten_optimizer",
    "latest_checkpoint",
    "resolve_checkpoint",
    "restore_optimizer",
    "save_checkpoint",
]

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError
from ..storage import MANIFEST, hidden, remove, save_folder, verify_folder

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
    """Save `output_dir/step-000123`, and only then remove what is over the limit.

    Arguments:
        output_dir: The folder of the run.
        step: Number of finished optimizer steps, >= 0.
        tensors: As in `save_folder`.
        state: As in `save_folder`.
        total_limit: How many intact checkpoints stay, this one included; None keeps all. Broken
            ones are neither counted nor removed.

    Returns:
        The new checkpoint.

    Raises:
        CheckpointError: It could not be saved; every older checkpoint is still there.
        InputError: `step` is negative, or `total_limit` leaves no checkpoint.
    """
    if step < 0 or (total_limit is not None and total_limit < 1):
        raise InputError(f"Need step >= 0 and total_limit >= 1, not {step} and {total_limit}.")
    path = Path(output_dir) / f"step-{step:06d}"
    try:
        _sweep(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} was not saved: the remains of an interrupted save could not be cleared "
            f"({error}). What was saved earlier is untouched. Remove them by hand."
        ) from error
    save_folder(path, tensors, state)
    if total_limit is not None:
        others = [c for c in checkpoints(output_dir) if c != path and _problem(c) is None]
        for old in others[: max(0, len(others) - (total_limit - 1))]:
            try:  # renamed first, so that a crash while deleting leaves no broken checkpoint
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
    """The newest intact checkpoint, or None; the log says what was passed over, and why."""
    listed = checkpoints(output_dir)
    for entry in _entries(Path(output_dir)):
        if entry not in listed and re.match(r"\.?step-", entry.name):
            hidden_entry = entry.name.startswith(".")
            why = "left by an interrupted save" if hidden_entry else "not a finished checkpoint"
            logger.warning("Passed over %s: %s.", entry, why)
    for checkpoint in reversed(listed):
        problem = _problem(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("Passed over %s: %s", checkpoint, problem)
    return None


def resolve_checkpoint(
    output_dir: str | Path, resume_from_checkpoint: str | Path | None
) -> Path | None:
    """Which checkpoint a run starts from.

    Arguments:
        output_dir: The folder of the run.
        resume_from_checkpoint: None for a fresh run; `"latest"` for the newest intact checkpoint
            if there is one; or a checkpoint, as a path or by its name in `output_dir`.

    Returns:
        An intact checkpoint, or None for a fresh run.

    Raises:
        CheckpointError: A checkpoint was asked for by name, and it is missing or broken.
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


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of an optimizer's tensors under flat names, and the rest as JSON can hold it."""
    tensors: dict[str, Tensor] = {}
    tree = _flatten(optimizer.state_dict(), "", tensors)
    return tensors, {"tree": tree, "shapes": _shapes(optimizer)}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Put back what `flatten_optimizer` took, into an optimizer over the same parameters.

    Raises:
        CheckpointError: The parameters have other shapes, or a tensor is missing or too many.
    """
    if rest["shapes"] != _shapes(optimizer):
        raise CheckpointError(
            f"The saved optimizer state is for parameters of shapes {rest['shapes']}, this "
            f"optimizer has {_shapes(optimizer)}. Build the networks as in the saved run."
        )
    left = dict(tensors)
    state = _unflatten(rest["tree"], left)
    if left:
        raise CheckpointError(f"Unexpected tensors in the optimizer state: {sorted(left)}.")
    optimizer.load_state_dict(state)


def _problem(path: Path) -> str | None:
    try:
        verify_folder(path)
    except CheckpointError as error:
        return str(error)
    return None


def _sweep(output_dir: Path) -> None:
    """Clear up after interrupted saves; a folder that was set aside goes back to its place."""
    for entry in _entries(output_dir):
        match = re.fullmatch(rf"\.({STEP.pattern})\.(partial|old)", entry.name)
        if match and match[3] == "old" and not entry.with_name(match[1]).exists():
            os.rename(entry, entry.with_name(match[1]))
        elif match:
            remove(entry)


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]


def _flatten(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    # tagged, because JSON alone would lose tuples and integer keys
    if isinstance(node, Tensor):
        tensors[name] = node.detach().clone()
        return {"tensor": name}
    if isinstance(node, Mapping):
        items = [[k, _flatten(v, f"{name}.{k}".lstrip("."), tensors)] for k, v in node.items()]
        return {"dict": items}
    if isinstance(node, (list, tuple)):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [_flatten(v, f"{name}.{i}", tensors) for i, v in enumerate(node)]}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise CheckpointError(f"The optimizer's {name} is a {type(node).__name__}: cannot be saved.")


def _unflatten(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, Mapping):
        return node
    kind, value = next(iter(node.items()))
    if kind == "tensor":
        if value not in tensors:
            raise CheckpointError(f"The optimizer state lacks the tensor {value}.")
        return tensors.pop(value).clone()
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in value}
    items = [_unflatten(item, tensors) for item in value]
    return tuple(items) if kind == "tuple" else items


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []

r"""Folders of tensors that are replaced atomically and verified when they are read.

A folder `NAME` holds one `*.safetensors` per network, `state.json`, and `manifest.json` with the
size and the sha256 of each of them and a hash of itself. No pickle is written or read. A save is

    write and fsync every file of `.NAME.partial`, the manifest last, then the folder itself
    rename `NAME` to `.NAME.old`           (only where a folder is replaced)
    rename `.NAME.partial` to `NAME`       (this commits), fsync the parent
    remove `.NAME.old`

so the older or the newer state can be loaded at any time. After a crash between the two renames,
readers use `.NAME.old`, and the next save restores it. `.NAME.partial` is never read, and the next
save removes it. Any number of processes may save and read: those that save take turns by the lock
`.NAME.lock`, and a reader whose folder was replaced begins again from the manifest.

References:
    | All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    | Applications (Pillai et al., 2014) https://www.usenix.org/node/186195
"""

from __future__ import annotations

__all__ = ["load_folder", "save_folder", "verify_folder"]

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError
from .files import (
    MANIFEST,
    PLAIN,
    fsync_folder,
    hidden,
    remove,
    sealed,
    well_formed,
    write_synced,
)
from .lock import PATIENCE, LockedError, lock
from .verified import ADVICE, FORMAT, STATE, SUFFIX, read_verified

logger = logging.getLogger(__name__)


def save_folder(
    path: str | Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write the folder `path` atomically, in place of an older one.

    Arguments:
        path: The folder. One that this function did not write is never replaced.
        tensors: File name (without suffix) -> tensor name -> tensor of any shape and dtype.
        state: JSON: keys are strings, and tuples are read back as lists.

    Returns:
        `path`.

    Raises:
        CheckpointError: Writing failed, or `path` holds files that latentctl did not write.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "pack"
        >>> _ = save_folder(folder, {"critic": {"weight": torch.ones(2)}}, {"names": ["Smiling"]})
        >>> load_folder(folder)
        ({'critic': {'weight': tensor([1., 1.])}}, {'names': ['Smiling']})
    """
    path = Path(path)
    target = path.resolve()  # a symbolic link is kept, its target is replaced
    files = _serialise(tensors, state)
    committed = False
    try:
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
        with lock(hidden(target, "lock"), PATIENCE):
            _replace(target, files)
            committed = True
            fsync_folder(target.parent)
            _remove_older(target)
    except LockedError as error:
        raise CheckpointError(
            f"{path} was not saved: {error} has been saving it for {PATIENCE:.0f} s. End that "
            f"process, or choose another folder, and save again."
        ) from error
    except OSError as error:
        if committed:
            raise CheckpointError(
                f"{path} was written, but fsync failed ({error}). The older one was not removed. "
                "Check the disk before relying on the new one."
            ) from error
        raise CheckpointError(
            f"{path} was not saved: {error}. Earlier saves are untouched. Free some disk space, or "
            "choose another folder, and save again."
        ) from error
    return path


def load_folder(
    path: str | Path, *, device: torch.device | str = "cpu"
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors and the state of a folder, after every byte of it was verified.

    Arguments:
        path: A folder written by `save_folder`.
        device: Where the tensors are put.

    Returns:
        `(tensors, state)` as they were given to `save_folder`.

    Raises:
        CheckpointError: A file is missing, truncated, corrupted or unlisted; the message names
            it. Or the folder was written in a later format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    _, files = read_verified(path)
    try:
        with well_formed(path / STATE, CheckpointError):
            state: dict[str, Any] = dict(json.loads(files.pop(STATE)))
        tensors = {
            name.removesuffix(SUFFIX): {key: value.to(device) for key, value in load(data).items()}
            for name, data in files.items()
        }
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} holds malformed tensors: {error}. {ADVICE}") from error
    return tensors, state


def verify_folder(path: str | Path) -> dict[str, Any]:
    """The manifest of an intact folder, or the `CheckpointError` that `load_folder` would raise."""
    return read_verified(Path(path))[0]


def _serialise(
    tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> dict[str, bytes]:
    """All files as bytes, the manifest last."""
    from safetensors.torch import save

    files = {}
    for name, group in tensors.items():
        if not PLAIN.fullmatch(name):
            raise InputError(f"{name!r} cannot be a file name: use letters, digits, '_', '-', '.'.")
        # safetensors takes neither views nor tensors that share memory: tied weights do
        copies = {
            key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for key, value in group.items()
        }
        files[name + SUFFIX] = save(copies)
    try:
        files[STATE] = (json.dumps(dict(state), indent=1) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"The state to be saved must be plain JSON: {error}.") from error
    listing = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    return {**files, MANIFEST: sealed({"format": FORMAT, "files": listing})}


def _replace(target: Path, files: Mapping[str, bytes]) -> None:
    """Write the files beside `target`, and put them in its place."""
    stage, aside = hidden(target, "partial"), hidden(target, "old")
    try:
        _refuse_foreign(target)
        _write_stage(stage, files)
        if target.exists():
            remove(aside)
            os.rename(target, aside)
        os.rename(stage, target)
    except OSError:
        with contextlib.suppress(OSError):
            if aside.exists() and not target.exists():
                os.rename(aside, target)
        with contextlib.suppress(OSError):
            remove(stage)
        raise


def _remove_older(target: Path) -> None:
    aside = hidden(target, "old")
    try:
        remove(aside)
    except OSError as error:
        logger.warning("Saved %s, but could not remove the older %s: %s", target, aside, error)


def _write_stage(stage: Path, files: Mapping[str, bytes]) -> None:
    remove(stage)
    os.mkdir(stage)
    for name, data in files.items():
        write_synced(stage / name, data)
    fsync_folder(stage)


def _refuse_foreign(target: Path) -> None:
    """Raises if replacing `target` would delete files that latentctl did not write."""
    if not target.exists():
        return
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else {target.name}
    foreign = sorted(n for n in names if n not in (MANIFEST, STATE) and not n.endswith(SUFFIX))
    if foreign or (names and not names & {MANIFEST, STATE}):
        raise CheckpointError(
            f"{target} was not saved: it holds files that latentctl did not write "
            f"({', '.join(foreign or sorted(names))}). Move them away, or choose another folder."
        )

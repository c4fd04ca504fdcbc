r"""Folders of tensors that are replaced atomically and verified when they are read.

A folder `NAME` holds one `*.safetensors` per network, `state.json`, and `manifest.json` with the
size and the sha256 of each of them and a hash of itself. No pickle is written or read. A save is

    write and fsync every file of `.NAME.partial`, the manifest last, then the folder itself
    rename `NAME` to `.NAME.old`           (only where a folder is replaced)
    rename `.NAME.partial` to `NAME`       (this commits), fsync the parent
    remove `.NAME.old`

so the older or the newer state can be loaded at any time. After a crash between the two renames,
readers use `.NAME.old`, and the next save restores it. `.NAME.partial` is never read, and the next
save removes it. One process saves; any number may read.

References:
    | All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    | Applications (Pillai et al., 2014) https://www.usenix.org/node/186195
"""

from __future__ import annotations

__all__ = ["COMPANIONS", "FORMAT", "load_folder", "save_folder", "verify_folder"]

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError
from .files import MANIFEST, fsync_folder, hidden, remove, sealed, unsealed, write_synced

FORMAT = 1
STATE, SUFFIX = "state.json", ".safetensors"
ADVICE = "Restore a copy of the folder, or save it again."
COMPANIONS = ("README.md", "LICENSE")  # files of model hubs, allowed beside hidden ones

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
    stage, aside = hidden(target, "partial"), hidden(target, "old")
    files = _serialise(tensors, state)
    committed = False
    try:
        _refuse_foreign(target)
        _write_stage(stage, files)
        if target.exists():
            remove(aside)
            os.rename(target, aside)
        os.rename(stage, target)
        committed = True
        fsync_folder(target.parent)
    except OSError as error:
        if committed:
            raise CheckpointError(
                f"{path} was written, but fsync failed ({error}). The older one was not removed. "
                "Check the disk before relying on the new one."
            ) from error
        with contextlib.suppress(OSError):
            if aside.exists() and not target.exists():
                os.rename(aside, target)
        with contextlib.suppress(OSError):
            remove(stage)
        raise CheckpointError(
            f"{path} was not saved: {error}. Earlier saves are untouched. Free some disk space, or "
            "choose another folder, and save again."
        ) from error
    try:
        remove(aside)
    except OSError as error:
        logger.warning("Saved %s, but could not remove the older %s: %s", path, aside, error)
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
    from safetensors.torch import load

    _, files = _read_verified(Path(path))
    tensors = {
        name.removesuffix(SUFFIX): {key: value.to(device) for key, value in load(data).items()}
        for name, data in files.items()
        if name.endswith(SUFFIX)
    }
    return tensors, json.loads(files[STATE])


def verify_folder(path: str | Path) -> dict[str, Any]:
    """The manifest of an intact folder, or the `CheckpointError` that `load_folder` would raise."""
    return _read_verified(Path(path))[0]


def _serialise(
    tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> dict[str, bytes]:
    """All files as bytes, the manifest last."""
    from safetensors.torch import save

    files = {}
    for name, group in tensors.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
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
    listing = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, MANIFEST: sealed({"format": FORMAT, "files": listing})}


def _read_verified(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    # each file is read once, so that the verified bytes are the ones used
    folder = path
    if not path.exists() and hidden(path.resolve(), "old").exists():
        folder = hidden(path.resolve(), "old")
    if not folder.is_dir():
        raise CheckpointError(f"{path} is missing, or is not a folder.")
    raw = _read(folder, MANIFEST)
    manifest = unsealed(raw, folder / MANIFEST, FORMAT, CheckpointError, ADVICE)
    files = {}
    for name, sha256 in manifest["files"].items():
        data = files[name] = _read(folder, name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(f"{folder / name} is truncated or corrupted. {ADVICE}")
    for name in sorted(os.listdir(folder)):
        if name not in {*files, MANIFEST, *COMPANIONS} and not name.startswith("."):
            raise CheckpointError(f"{folder / name} is not listed in {MANIFEST}. Remove it.")
    return manifest, files


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder / name} is missing.") from error
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error}.") from error


def _write_stage(stage: Path, files: Mapping[str, bytes]) -> None:
    if not stage.parent.is_dir():
        stage.parent.mkdir(parents=True, exist_ok=True)
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

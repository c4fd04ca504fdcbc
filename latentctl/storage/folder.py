r"""Folders of tensors that are whole, or are not there.

A folder `NAME` holds one `*.safetensors` per network, `state.json`, and `manifest.json` with the
size and the sha256 of each of them and a seal on itself. No pickle is written or read. A save is

    write and fsync every file of `.NAME.partial`, the manifest last, then the folder itself
    rename `NAME` to `.NAME.old`           (only where a folder is replaced)
    rename `.NAME.partial` to `NAME`       (this commits), fsync the parent
    remove `.NAME.old`

so at every instant the older or the newer state can be loaded. If a crash falls between the two
renames, readers take `.NAME.old` for `NAME`, without writing anything, and the next save clears up.
`.NAME.partial` is never read and is removed by the next save. One process saves; any may read.

References:
    | All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    | Applications (Pillai et al., 2014) https://www.usenix.org/node/186195
"""

from __future__ import annotations

__all__ = [
    "FORMAT",
    "MANIFEST",
    "VERSION",
    "fsync_folder",
    "hidden",
    "load_folder",
    "remove",
    "save_folder",
    "sealed",
    "verify_folder",
]

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError

FORMAT = 1
VERSION = importlib.metadata.version("latentctl")
MANIFEST, STATE, SUFFIX = "manifest.json", "state.json", ".safetensors"
COMPANIONS = ("README.md", "LICENSE")  # what model hubs put beside a pack; hidden names as well

logger = logging.getLogger(__name__)


def save_folder(
    path: str | Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write the folder `path` as a whole, in place of an older one if there is one.

    Arguments:
        path: The folder. What stands there is replaced only if this function wrote it.
        tensors: File name (without suffix) -> tensor name -> tensor of any shape and dtype.
        state: What JSON can hold: keys are strings, and a tuple comes back as a list.

    Returns:
        `path`.

    Raises:
        CheckpointError: The disk is full or refuses; or `path` holds somebody else's files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "pack"
        >>> _ = save_folder(folder, {"critic": {"weight": torch.ones(2)}}, {"names": ["Smiling"]})
        >>> load_folder(folder)
        ({'critic': {'weight': tensor([1., 1.])}}, {'names': ['Smiling']})
    """
    path = Path(path)
    target = path.resolve()  # a link keeps pointing at the place where the pack is
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
                f"{path} is in place, but the disk did not confirm it ({error}). Nothing older was "
                "removed. Check the disk before relying on it."
            ) from error
        with contextlib.suppress(OSError):
            if aside.exists() and not target.exists():
                os.rename(aside, target)
        with contextlib.suppress(OSError):
            remove(stage)
        raise CheckpointError(
            f"{path} was not saved: {error}. What was saved earlier is untouched and can be "
            "loaded. Free some disk space, or choose another folder, and save again."
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
        CheckpointError: A file is missing, cut, altered or a stranger, and which; or the folder
            comes from a later format.
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
    listing = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in files.items()
    }
    manifest = {"format": FORMAT, "latentctl_version": VERSION, "files": listing}
    return {**files, MANIFEST: sealed(manifest)}


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest with its own hash; must stay the same in every later format."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": seal}, sort_keys=True, indent=1) + "\n").encode()


def _read_verified(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    # each file is read once: what was verified is what is used
    folder = path
    if not path.exists() and hidden(path.resolve(), "old").exists():
        folder = hidden(path.resolve(), "old")
    if not folder.is_dir():
        raise CheckpointError(f"{path} is missing, or is not a folder.")
    raw = _read(folder, MANIFEST)
    try:
        manifest = json.loads(raw)
        whole = isinstance(manifest, dict) and sealed(manifest) == raw
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(f"{folder / MANIFEST} is cut or altered.")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{folder / MANIFEST} has format {manifest['format']}, and this latentctl reads up to "
            f"{FORMAT}: upgrade latentctl to >= {manifest['latentctl_version']}."
        )
    files = {}
    for name, expected in manifest["files"].items():
        data = files[name] = _read(folder, name)
        if len(data) != expected["size"]:
            raise CheckpointError(
                f"{folder / name} is cut: {len(data)} bytes instead of {expected['size']}."
                if len(data) < expected["size"]
                else f"{folder / name} is altered: {len(data)} bytes, not {expected['size']}."
            )
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise CheckpointError(f"{folder / name} is altered: its sha256 is another.")
    for name in sorted(os.listdir(folder)):
        if name not in {*files, MANIFEST, *COMPANIONS} and not name.startswith("."):
            raise CheckpointError(f"{folder / name} is a stranger: the manifest does not list it.")
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
        with open(stage / name, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    fsync_folder(stage)


def fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(target: Path) -> None:
    """Saving "as a whole" must never delete what somebody else put there."""
    if not target.exists():
        return
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else {target.name}
    foreign = sorted(n for n in names if n not in (MANIFEST, STATE) and not n.endswith(SUFFIX))
    if foreign or (names and not names & {MANIFEST, STATE}):
        raise CheckpointError(
            f"{target} was not saved: it holds files that latentctl did not write "
            f"({', '.join(foreign or sorted(names))}). Move them away, or choose another folder."
        )


def hidden(path: Path, role: str) -> Path:
    """Where a folder stands while it is `"partial"` or `"old"`: a hidden sibling."""
    return path.with_name(f".{path.name}.{role}")


def remove(folder: Path) -> None:
    """Delete a folder, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)

"""Weights of a module: their fingerprint, and strict loading."""

from __future__ import annotations

__all__ = ["digest", "fingerprint", "fingerprint_tensors", "load_strict"]

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


def fingerprint(module: nn.Module, salt: str = "") -> str:
    """SHA-256 over `salt` and the names, shapes and bytes of all weights and buffers."""
    return fingerprint_tensors(module.state_dict(), salt)


def fingerprint_tensors(tensors: Mapping[str, Tensor], salt: str = "") -> str:
    """SHA-256 over `salt` and the names, types, shapes and bytes of tensors."""
    found = hashlib.sha256(salt.encode())
    for key, value in sorted(tensors.items()):
        found.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        found.update(_bytes(value))
    return found.hexdigest()


def digest(tensors: Mapping[str, Sequence[Tensor]]) -> str:
    """The first 16 digits of a SHA-256 over tensors by name, each in one or several parts of rows.

    Example:
        >>> digest({"x": [torch.ones(3)]}) == digest({"x": [torch.ones(1), torch.ones(2)]})
        True
    """
    found = hashlib.sha256()
    for key, parts in sorted(tensors.items()):
        found.update(f"{key}{parts[0].dtype}{tuple(parts[0].shape[1:])}".encode())
        for part in parts:
            found.update(_bytes(part))
    return found.hexdigest()[:16]


def _bytes(value: Tensor) -> memoryview:
    value = value.detach().cpu().contiguous()
    return value.reshape(-1).view(torch.uint8).numpy().data


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load `tensors` into `module` if every name and shape agrees, else change nothing.

    Raises:
        CheckpointError: Lists all missing, unexpected and wrongly shaped tensors of `what`.
    """
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in tensors]
    wrong += [f"unexpected {key}" for key in tensors if key not in own]
    wrong += [
        f"{key} has shape {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"The saved {what} does not fit: {'; '.join(wrong)}. Build it as it was when saved."
        )
    module.load_state_dict(dict(tensors), strict=True)

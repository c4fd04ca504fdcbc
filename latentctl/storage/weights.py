"""Weights of a module: their fingerprint, and strict loading."""

from __future__ import annotations

__all__ = ["fingerprint", "load_strict"]

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


def fingerprint(module: nn.Module, salt: str = "") -> str:
    """SHA-256 over `salt` and the names, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256(salt.encode())
    for key, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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

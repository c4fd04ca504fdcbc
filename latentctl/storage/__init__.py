"""Folders that are saved atomically, modules that save themselves, and strict loading."""

from __future__ import annotations

__all__ = [
    "VERSION",
    "Saved",
    "digest",
    "fingerprint",
    "fingerprint_tensors",
    "load_folder",
    "load_strict",
    "pack_modules",
    "register_to_config",
    "save_folder",
    "unpack_modules",
    "verify_folder",
]

from .files import VERSION
from .folder import load_folder, save_folder, verify_folder
from .saved import Saved, pack_modules, register_to_config, unpack_modules
from .weights import digest, fingerprint, fingerprint_tensors, load_strict

"""Folders of tensors that are whole or absent, and weights that are loaded strictly."""

from __future__ import annotations

__all__ = [
    "FORMAT",
    "MANIFEST",
    "VERSION",
    "Saved",
    "fingerprint",
    "fsync_folder",
    "hidden",
    "load_folder",
    "load_strict",
    "pack_modules",
    "remove",
    "save_folder",
    "sealed",
    "unpack_modules",
    "verify_folder",
]

from .folder import (
    FORMAT,
    MANIFEST,
    VERSION,
    fsync_folder,
    hidden,
    load_folder,
    remove,
    save_folder,
    sealed,
    verify_folder,
)
from .saved import Saved, pack_modules, unpack_modules
from .weights import fingerprint, load_strict

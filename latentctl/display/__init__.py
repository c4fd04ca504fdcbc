"""What results look like: samples as pictures, and objects as tables in a notebook."""

from __future__ import annotations

__all__ = [
    "Described",
    "Display",
    "Show",
    "grid",
    "html_table",
    "pixel_hash",
    "png",
    "save_pictures",
    "thumbnails",
    "with_fields",
]

from .markup import Described, html_table
from .picture import grid, pixel_hash, png, save_pictures, with_fields
from .samples import Display, Show, thumbnails

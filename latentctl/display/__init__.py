"""What results look like: samples as pictures, and objects as tables in a notebook."""

from __future__ import annotations

__all__ = [
    "Described",
    "Display",
    "Show",
    "grid",
    "html_table",
    "png",
    "save_pictures",
    "thumbnails",
]

from .markup import Described, html_table
from .picture import grid, png, save_pictures
from .samples import Display, Show, thumbnails

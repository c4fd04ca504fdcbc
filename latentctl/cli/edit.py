"""`latentctl edit PACK` edits a folder of images, with receipts."""

from __future__ import annotations

__all__ = ["add_parser", "read_hold", "run"]

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..decoder.signatures import warn_of_signatures
from ..errors import InputError
from .sources import add_pack, add_request, image_files, load_pack, requested, sample_rows


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "edit",
        help="edit images by a pack",
        description="Edits every image of a folder: the requested attributes change, the others "
        "are held. Writes a PNG with its receipt for each, and receipts.json of all of them. "
        "Images are cropped and resized to fit the decoder.",
    )
    add_pack(parser)
    parser.add_argument("--images", required=True, help="a folder of images, or one image")
    add_request(parser)
    parser.add_argument(
        "--hold",
        nargs="+",
        metavar="NAME",
        help="hold these alone; `all` for all, `none` for nothing; by default what is not tied to "
        "the request",
    )
    parser.add_argument("--output", default="edited", help="the folder of the results")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Writes the edited images and their receipts, and prints the mean receipt."""
    folder = Path(flags.images)
    files = [folder] if folder.is_file() else image_files(folder)
    if not files:
        raise InputError(f"--images {folder}: there is no image there.")
    request = requested(flags)
    faces = load_pack(flags)
    warn_of_signatures(files)
    x = sample_rows(
        faces.decoder, [{"image": {"bytes": None, "path": str(file)}} for file in files]
    )
    out = faces.edit(x, hold=read_hold(flags.hold), **request)
    names = _names(files, folder if folder.is_dir() else folder.parent)
    for number, name in enumerate(names):
        out[number].save(Path(flags.output) / name, margin=0)
    rows = [
        {"file": str(file), "edited": str(name), **row}
        for file, name, row in zip(files, names, out.receipts(), strict=True)
    ]
    path = Path(flags.output) / "receipts.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{out}\n{path}")
    return 0


def read_hold(names: Sequence[str] | None) -> bool | str | Sequence[str]:
    """What `Conditional.edit` holds, of the words `all` or `none`, names, or nothing."""
    words = {"all": True, "none": False}
    return words.get(names[0], names) if names else "untied"


def _names(files: list[Path], folder: Path) -> list[Path]:
    """A PNG file for each, in the same subfolders; with the suffix where it alone differs."""
    inside = [file.relative_to(folder) for file in files]
    names = [file.with_suffix(".png") for file in inside]
    return names if len(set(names)) == len(names) else [Path(f"{file}.png") for file in inside]

"""`latentctl verify` makes saved pictures again, or compares a cache with its hashes."""

from __future__ import annotations

__all__ = ["add_parser", "run"]

import argparse
from pathlib import Path
from typing import Any

from ..conditional import Conditional, verify
from ..decoder import Decoder
from ..errors import CacheError, InputError
from ..latents.manifest import verify_cache
from .sources import (
    EMBEDDED_PACK,
    MODEL,
    add_loading,
    image_files,
    load_decoder,
    made_pack,
    sample_rows,
)

CHANGED = 1  # exit code: something was changed, or could not be made again


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="make saved pictures again, or compare a cache with its hashes",
        description="Reads the receipt of each picture, makes the picture again by the pack and "
        "the decoder, and says in one sentence which of pixels, metadata, pack and decoder was "
        "changed. Exits with 0 if every picture is intact, 1 if one is not, 2 if one has no "
        "receipt. Of a folder of latents, every byte is compared with the hashes in its manifest.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="file", help="a PNG file with a receipt, or a cache of latents"
    )
    parser.add_argument(
        "--pack",
        default=EMBEDDED_PACK,
        help="the folder of the pack or its id on the hub, with --decoder; or FILE.py:FUNCTION "
        "that returns a Conditional with its evaluator. The pack that ships if not given",
    )
    parser.add_argument("--decoder", help=MODEL)
    add_loading(parser)
    parser.add_argument("--images", help="the inputs of edits, to compare: an image or a folder")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Prints a sentence for each file; 1 if one of them is not intact."""
    caches = [file for file in flags.files if Path(file).is_dir()]
    intact = [_intact(Path(cache)) for cache in caches]
    if len(caches) == len(flags.files):
        return 0 if all(intact) else CHANGED
    pack, decoder = _pack(flags)
    inputs = None
    if flags.images is not None:
        folder = Path(flags.images)
        files = [folder] if folder.is_file() else image_files(folder)
        if not files:
            raise InputError(f"--images {folder}: there is no image there.")
        inputs = sample_rows(decoder, [{"image": {"bytes": None, "path": str(f)}} for f in files])
    pictures = [file for file in flags.files if file not in caches]
    verdicts = {file: verify(file, pack, decoder, inputs=inputs) for file in pictures}
    for file, verdict in verdicts.items():
        print(f"{file}: {verdict}")
    return 0 if all((*intact, *(verdict.intact for verdict in verdicts.values()))) else CHANGED


def _intact(cache: Path) -> bool:
    """Whether a cache is intact; prints a sentence."""
    try:
        print(f"{cache}: {verify_cache(cache)} shards are intact.")
    except CacheError as error:
        print(f"{cache}: {error}")
        return False
    return True


def _pack(flags: argparse.Namespace) -> tuple[Conditional | str, Decoder]:
    if flags.decoder is not None:
        return flags.pack, load_decoder(flags)
    if ":" not in flags.pack:
        raise InputError(f"--pack {flags.pack} needs its --decoder.")
    faces = made_pack(flags.pack, "--pack", flags.device)
    return faces, faces.decoder

"""`latentctl sample PACK` writes a picture of samples with attributes."""

from __future__ import annotations

__all__ = ["add_parser", "run"]

import argparse
from typing import Any

from .sources import add_pack, add_request, load_pack, requested


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "sample",
        help="sample with attributes from a pack",
        description="Draws samples with the requested attributes, and writes them as one PNG.",
    )
    add_pack(parser)
    add_request(parser)
    parser.add_argument("-n", "--count", type=int, default=16, help="number of samples")
    parser.add_argument("--output", default="samples.png", help="the PNG file")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Writes the picture, and prints the receipt."""
    request = requested(flags)
    out = load_pack(flags).sample(flags.count, **request)
    print(f"{out}\n{out.save(flags.output)}")
    return 0

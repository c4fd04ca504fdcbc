"""`latentctl push PACK owner/name` pushes a pack to the hub."""

from __future__ import annotations

__all__ = ["add_parser", "run"]

import argparse
from typing import Any

from ..conditional.pack import push_pack


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "push",
        help="push a pack to the hub",
        description="Pushes a pack with a model card as one commit. It holds no weights of the "
        "decoder.",
    )
    parser.add_argument("pack", help="a folder written by save_pretrained")
    parser.add_argument("repo_id", help="name or owner/name; it is made if there is none")
    parser.add_argument("--private", action="store_true", default=None)
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--license", help="identifier of the pack's licence, such as mit")
    parser.add_argument("--base_model", help="id of the decoder on the hub")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Pushes, and prints the address of the commit."""
    commit = push_pack(
        flags.pack,
        flags.repo_id,
        license=flags.license,
        base_model=flags.base_model,
        private=flags.private,
        revision=flags.revision,
    )
    print(commit.commit_url)
    return 0

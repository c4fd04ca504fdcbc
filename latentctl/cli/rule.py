"""`latentctl rule MODEL FILE.py:FUNCTION` writes a picture of samples that keep a rule."""

from __future__ import annotations

__all__ = ["add_parser", "run"]

import argparse
from typing import Any

from ..rewards import sample_by_rule
from .sources import MODEL, add_loading, load_decoder, load_function

NOT_KEPT = 1  # exit code: a sample does not keep the rules


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "rule",
        help="sample what keeps a rule that is a Python function",
        description="Draws samples of the prior that keep all rules, by calls of the rules alone, "
        "and writes them as one PNG. Exits with 1 if a sample does not keep them.",
    )
    parser.add_argument("decoder", metavar="model", help=MODEL)
    parser.add_argument(
        "rules",
        nargs="+",
        metavar="FILE.py:FUNCTION",
        help="takes a sample, or a batch of them, and returns a number in [0, 1] for each; 1 keeps "
        "the rule",
    )
    add_loading(parser)
    parser.add_argument("-n", "--count", type=int, default=16, help="number of samples")
    parser.add_argument(
        "--evaluations", type=int, default=100, help="most samples to score for each of them"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="rule.png", help="the PNG file")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Writes the picture, and prints the receipt; 1 if a sample does not keep the rules."""
    rules = [load_function(source, "FILE.py:FUNCTION") for source in flags.rules]
    out = sample_by_rule(
        load_decoder(flags), rules, flags.count, evaluations=flags.evaluations, seed=flags.seed
    )
    print(f"{out}\n{out.save(flags.output)}")
    return 0 if bool(out.satisfied.all()) else NOT_KEPT

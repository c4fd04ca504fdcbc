"""The command line: its parser, and what a command prints and returns."""

from __future__ import annotations

__all__ = ["main", "parser"]

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import LatentctlError
from ..storage import VERSION
from . import doctor, edit, encode, fit, push, rule, sample, studio, verify

COMMANDS = (sample, edit, rule, verify, fit, encode, push, doctor, studio)
WRONG = 2  # exit code of a command that cannot be carried out


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message}. See {self.prog} --help.\n")


def parser() -> Parser:
    """The parser of all commands."""
    whole = Parser(prog="latentctl", description="Controls a frozen generator from its latents.")
    whole.add_argument("--version", action="version", version=f"latentctl {VERSION}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Carries out a command line; 0 if all is well, 2 if it failed, or the command's own code.

    The code 1 of `doctor` says that a law is broken, that of `verify` that a picture was changed,
    that of `rule` that a sample does not keep the rules.

    Arguments:
        argv: The words after `latentctl`; those of the process if not given.
    """
    flags = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code: int = flags.run(flags)
    except (LatentctlError, OSError) as error:
        print(f"latentctl: {error}", file=sys.stderr)
        return WRONG
    return code

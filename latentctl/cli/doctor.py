"""`latentctl doctor MODEL` says what a decoder can be used for."""

from __future__ import annotations

__all__ = ["add_parser", "run"]

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from ..critics import PixelCritic
from ..decoder import Decoder
from ..errors import InputError
from ..evaluation.doctor import examine
from ..random import permutation
from .sources import MODEL, add_loading, load_decoder, load_function, read_rows, sample_rows

BROKEN = 1  # exit code: a law is broken


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="check a decoder's laws, and measure what it can be used for",
        description="Loads a decoder, checks the laws of latentctl.evaluation one by one, measures "
        "reconstruction, latents, samples, speed and memory, and says what will and will not work. "
        "Exits with 0 if every law holds, 1 if one is broken, 2 if the decoder could not be "
        "examined.",
    )
    parser.add_argument("decoder", metavar="model", help=MODEL)
    add_loading(parser)
    parser.add_argument(
        "--data",
        help="samples: a folder of images, a file .npy or .pt of an array (N, ...), or what "
        "datasets.load_dataset takes; images are cropped and resized to fit",
    )
    parser.add_argument(
        "--scorer",
        metavar="FILE.py:FUNCTION",
        help="returns a network with `names`, samples in [0, 1] to log-odds: whether its "
        "attributes are directions of the latent is measured",
    )
    parser.add_argument("--image_column", default="image", help="the column of a data set")
    parser.add_argument("--max_samples", type=int, default=256, help="how many of them are read")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="where the same goes as JSON")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Prints the diagnosis; 1 if a law is broken."""
    decoder = load_decoder(flags)
    x = None if flags.data is None else _samples(decoder, flags)
    scorer = None
    if flags.scorer:
        scorer = PixelCritic(decoder, load_function(flags.scorer, "--scorer")())
    found = examine(decoder, x, scorer=scorer, batch_size=flags.batch_size, seed=flags.seed)
    print(found)
    if flags.json:
        Path(flags.json).write_text(found.to_json())
    return 0 if found.lawful else BROKEN


def _samples(decoder: Decoder, flags: argparse.Namespace) -> Tensor:
    """Samples of the user's, drawn at random, `(N, *sample_shape)`."""
    rows = read_rows(flags.data)
    order = permutation(len(rows), seed=flags.seed, epoch=0).tolist()[: flags.max_samples]
    if not order:
        raise InputError(f"--data {flags.data}: there is no sample.")
    return sample_rows(decoder, rows, order, flags.image_column)

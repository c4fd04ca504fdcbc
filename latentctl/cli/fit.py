"""`latentctl fit` makes a pack from images and their labels."""

from __future__ import annotations

__all__ = ["add_parser", "run"]

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

from ..conditional import condition
from ..critics import AttributeCritic
from ..decoder import encode_dataset
from ..decoder.samples import fit_images
from ..errors import InputError, UnknownNameError
from ..latents import Latents
from ..random import permutation
from .sources import add_model, image_files, load_decoder

HELD_OUT = 0.1  # share of the images on which the critic is measured


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "fit",
        help="fit attributes to labelled images, and save a pack",
        description="Encodes the images, fits a critic of their labels, measures it on a tenth of "
        "the images that it was not fitted on, and saves a pack.",
    )
    add_model(parser)
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument(
        "--labels",
        required=True,
        help="a CSV file with a header; its first column is the file in the folder, the others are "
        "attributes with 0, 1, or nothing where unknown",
    )
    parser.add_argument("--attributes", nargs="+", help="these columns only")
    parser.add_argument("--output", default="pack", help="the folder of the pack")
    parser.add_argument("--cache", help="a folder that keeps the encodings; none if not given")
    parser.add_argument("--max_train_steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Saves the pack, and prints the accuracy of each attribute."""
    names, rows = read_labels(Path(flags.labels), Path(flags.data), flags.attributes)
    decoder = load_decoder(flags)
    with tempfile.TemporaryDirectory() as temporary:
        latents = encode_dataset(
            decoder,
            rows,
            flags.cache or Path(temporary) / "cache",
            attributes=names,
            transform=fit_images(decoder),
        )
        order = permutation(len(latents), seed=flags.seed, epoch=0)
        count = int(HELD_OUT * len(latents))
        critic = AttributeCritic.fit(
            latents[order[count:]], max_train_steps=flags.max_train_steps, seed=flags.seed
        )
        for line in _accuracy(critic, latents[order[:count]]):
            print(line)
    print(condition(decoder, critic).save_pretrained(flags.output))
    return 0


def read_labels(
    path: Path, folder: Path, attributes: list[str] | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The attributes and the rows of a file of labels.

    Raises:
        InputError: If a file is missing, or a label is no number; with the line.
        UnknownNameError: If there is no column of an attribute.
    """
    if not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder of images.")
    if not path.is_file():
        raise InputError(f"--labels {path} is not a file.")
    known = {str(file.relative_to(folder)): file for file in image_files(folder)}
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.reader(file)
        key, *columns = next(table, None) or [""]
        if not key or not columns:
            raise InputError(
                f"--labels {path} needs a header: a column of files, and attributes, such as "
                f"file_name,Smiling."
            )
        names = attributes or columns
        for name in names:
            if name not in columns:
                raise UnknownNameError("label", name, columns)
        rows = []
        for line in table:
            place = f"--labels {path}, line {table.line_num}"
            if len(line) != len(columns) + 1:
                raise InputError(
                    f"{place} has {len(line)} fields, the header has {len(columns) + 1}."
                )
            if line[0] not in known:
                raise InputError(f"{place}: there is no image {line[0]!r} in {folder}.")
            values = dict(zip(columns, line[1:], strict=True))
            image = {"bytes": None, "path": str(known[line[0]])}
            rows.append({"image": image, **{n: _label(values[n], n, place) for n in names}})
    if not rows:
        raise InputError(f"--labels {path} has no line below its header.")
    return names, rows


def _label(text: str, name: str, place: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"{place}: {name} is {text!r}; labels are 0, 1, a probability, or nothing."
        ) from None


def _accuracy(critic: AttributeCritic, latents: Latents) -> list[str]:
    """A line for each attribute on latents that it was not fitted on."""
    if len(latents) == 0 or latents.labels is None:
        return ["Too few images to measure the critic."]
    lines = []
    for name, scores, labels in zip(
        critic.names, critic.score(latents.mean).unbind(1), latents.labels.unbind(1), strict=True
    ):
        known = ~labels.isnan()
        right = float(((scores > 0) == (labels > 0.5))[known].float().mean())
        most = float((labels[known] > 0.5).float().mean())
        lines.append(
            f"{name}: {right:.1%} right of {int(known.sum())} images that were held out; always "
            f"the same answer would be {max(most, 1 - most):.1%} right."
        )
    return lines

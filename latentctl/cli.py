"""The command `latentctl`: `latentctl doctor MODEL` says what a decoder can be used for."""

from __future__ import annotations

__all__ = ["load_function", "main"]

import argparse
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .decoder import Decoder
from .decoder.dataset import SampleReader, Source
from .decoder.registry import available, load, wrap
from .errors import InputError, LatentctlError
from .evaluation.doctor import examine
from .random import permutation

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BROKEN, WRONG = 1, 2  # exit codes: a law is broken, the command cannot be carried out


def main(argv: Sequence[str] | None = None) -> int:
    """Carries out a command line; 0 if all is well, 1 if a law is broken, 2 if it was no use.

    Arguments:
        argv: The words after `latentctl`; those of the process if not given.
    """
    flags = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        decoder = _decoder(flags.model, flags.adapter).to(flags.device)
        x = None if flags.data is None else _samples(decoder, flags)
        found = examine(decoder, x, batch_size=flags.batch_size, seed=flags.seed)
        print(found)
        if flags.json:
            Path(flags.json).write_text(found.to_json())
    except (LatentctlError, OSError) as error:
        print(f"latentctl: {error}", file=sys.stderr)
        return WRONG
    return 0 if found.lawful else BROKEN


def load_function(source: str, flag: str) -> Callable[..., Any]:
    """A function of the user's, `FILE.py:FUNCTION` or `MODULE:FUNCTION`.

    Raises:
        InputError: If the file, the module or the function does not exist; the message has `flag`.
    """
    where, _, name = source.rpartition(":")
    if not where or not name:
        raise InputError(f"{flag} is FILE.py:FUNCTION or MODULE:FUNCTION, it was {source!r}.")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        if not Path(where).is_file() or spec is None or spec.loader is None:
            raise InputError(f"{flag}: {where!r} is not a file.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise InputError(f"{flag}: {error}. Give a FILE.py:FUNCTION, or install it.") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{flag}: there is no function {name!r} in {where}.")
    found: Callable[..., Any] = function
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="latentctl", description=__doc__)
    commands = parser.add_subparsers(required=True)
    doctor = commands.add_parser(
        "doctor",
        help="check a decoder's laws, and measure what it can be used for",
        description="Loads a decoder, checks the laws of latentctl.evaluation one by one, measures "
        "reconstruction, latents, speed and memory, and says what will and will not work. Exits "
        "with 0 if every law holds, 1 if one is broken, 2 if the decoder could not be examined.",
    )
    doctor.add_argument(
        "model",
        help="FILE.py:FUNCTION or MODULE:FUNCTION that takes nothing and returns a model or a "
        "Decoder; with --adapter a folder or the id of a model on the hub",
    )
    doctor.add_argument("--adapter", help=f"who loads the model: {', '.join(available())}")
    doctor.add_argument(
        "--data",
        help="samples: a folder of images, a file .npy or .pt of an array (N, ...), or what "
        "datasets.load_dataset takes; images are cropped and resized to fit",
    )
    doctor.add_argument("--image_column", default="image", help="the column of a data set")
    doctor.add_argument("--max_samples", type=int, default=256, help="how many of them are read")
    doctor.add_argument("--batch_size", type=int, default=16)
    doctor.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    doctor.add_argument("--seed", type=int, default=0)
    doctor.add_argument("--json", metavar="FILE", help="where the same goes as JSON")
    return parser


def _decoder(source: str, adapter: str | None) -> Decoder:
    if adapter:
        return load(adapter, pretrained_model_name_or_path=source)
    if ":" not in source:
        raise InputError(
            f"{source!r} is not FILE.py:FUNCTION. For a folder or a hub id say who loads it: "
            f"--adapter, one of {', '.join(available())}."
        )
    model = load_function(source, "MODEL")()
    return model if isinstance(model, Decoder) else wrap(model)


def _samples(decoder: Decoder, flags: argparse.Namespace) -> Tensor:
    """Samples of the user's, drawn at random, `(N, *sample_shape)`."""
    rows = _rows(flags.data)
    reader = SampleReader(
        decoder, Source(rows, flags.image_column), (), flags.image_column, _fitted(decoder), 0
    )
    order = permutation(len(rows), seed=flags.seed, epoch=0).tolist()[: flags.max_samples]
    if not order:
        raise InputError(f"--data {flags.data}: there is no sample.")
    return torch.stack([reader(index).x for index in order])


def _rows(source: str) -> Any:
    path = Path(source)
    if path.suffix == ".npy" and path.is_file():
        import numpy as np

        return torch.from_numpy(np.load(path))
    if path.suffix == ".pt" and path.is_file():
        return torch.load(path, weights_only=True)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
        if files:
            return [{"image": {"bytes": None, "path": str(file)}} for file in files]
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"--data {source} is no folder of images and no .npy or .pt file. To read data sets: "
            f"pip install datasets."
        ) from error
    try:
        splits = datasets.load_dataset(source)
    except Exception as error:  # the library's own errors, of many kinds
        raise InputError(
            f"--data {source} is no folder of images and no .npy or .pt file, and datasets cannot "
            f"read it: {error}"
        ) from error
    name = next((split for split in ("test", "validation") if split in splits), None)
    return splits[name or next(iter(splits))]


def _fitted(decoder: Decoder) -> Any:
    """Crops and resizes images to what the decoder takes; leaves everything else as it is."""

    def transform(value: Any) -> Any:
        if not hasattr(value, "getbands") or len(decoder.sample_shape) != 3:
            return value
        from PIL import Image, ImageOps

        height, width = decoder.sample_shape[1:]
        return ImageOps.fit(value, (width, height), Image.Resampling.BICUBIC)

    return transform


if __name__ == "__main__":
    sys.exit(main())

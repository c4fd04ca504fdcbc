"""What commands read: the user's model, packs, images and requests."""

from __future__ import annotations

__all__ = [
    "EMBEDDED_PACK",
    "add_loading",
    "add_model",
    "add_pack",
    "add_request",
    "image_files",
    "load_decoder",
    "load_function",
    "load_pack",
    "made_pack",
    "read_rows",
    "sample_rows",
    "requested",
]

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..conditional import Conditional
from ..decoder import Decoder
from ..decoder.dataset import SampleReader, Source
from ..decoder.registry import available, load, wrap
from ..decoder.samples import fit_images
from ..errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
EMBEDDED_PACK = "latentctl_adapters.embedded:pack"
MODEL = (
    "FILE.py:FUNCTION or MODULE:FUNCTION that takes nothing and returns a model or a Decoder; with "
    "--adapter a folder or the id of a model on the hub"
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The flags of a decoder: what loads it, and its device."""
    parser.add_argument("--decoder", help=MODEL, required=True)
    add_loading(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """The flags of a decoder that is named otherwise."""
    parser.add_argument("--adapter", help=f"who loads the model: {', '.join(available())}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def add_pack(parser: argparse.ArgumentParser) -> None:
    """The pack and the decoder that it is for."""
    parser.add_argument(
        "pack", help="a folder written by save_pretrained, or owner/name on the hub"
    )
    add_model(parser)


def add_request(parser: argparse.ArgumentParser) -> None:
    """The flags of a request."""
    parser.add_argument(
        "--attributes",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="probabilities in [0, 1] to reach, such as Smiling=1 Male=0",
    )
    parser.add_argument("--where", help='an expression, such as "(Smiling & Eyeglasses) | ~Male"')
    parser.add_argument("--strength", type=float, default=1.0, help="share of the move")
    parser.add_argument("--seed", type=int, default=0)


def requested(flags: argparse.Namespace) -> dict[str, Any]:
    """The request of the flags, as arguments of `Conditional.sample` and `edit`."""
    values: dict[str, float] = {}
    for text in flags.attributes:
        name, _, value = text.rpartition("=")
        try:
            values[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise InputError(f"--attributes takes NAME=VALUE, such as Smiling=1; found {text!r}.")
    return {"where": flags.where, "strength": flags.strength, "seed": flags.seed, **values}


def load_decoder(flags: argparse.Namespace) -> Decoder:
    """The decoder that the flags of `add_model` name, on its device."""
    model = _load_model(flags)
    return (model if isinstance(model, Decoder) else wrap(model)).to(_device(flags.device))


def load_pack(flags: argparse.Namespace) -> Conditional:
    """The pack of the flags on its decoder; a bare model is wrapped as the pack says."""
    device, model = _device(flags.device), _load_model(flags)
    return Conditional.from_pretrained(flags.pack, model).to(device)


def made_pack(source: str, flag: str, device: str) -> Conditional:
    """The `Conditional` that a function of the user's returns, perhaps with an evaluator.

    Raises:
        InputError: As `load_function`, or if it returns something else.
    """
    faces = load_function(source, flag)()
    if not isinstance(faces, Conditional):
        raise InputError(f"{flag} {source} returns a {type(faces).__name__}, not a Conditional.")
    return faces.to(_device(device))


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # no such device, or none here
        raise InputError(f"--device {name!r} cannot be used: {_words(error)}") from error
    return torch.device(name)


def _load_model(flags: argparse.Namespace) -> Any:
    source = flags.decoder
    if flags.adapter:
        return load(flags.adapter, pretrained_model_name_or_path=source)
    if ":" not in source:
        raise InputError(
            f"{source!r} is not FILE.py:FUNCTION. For a folder or a hub id say who loads it: "
            f"--adapter, one of {', '.join(available())}."
        )
    function = load_function(source, "--decoder")
    try:
        return function()
    except Exception as error:  # of the user's own code
        raise InputError(f"--decoder: {source} failed: {_words(error)}") from error


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
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # of the user's own code
            raise InputError(f"{flag}: {where} failed: {_words(error)}") from error
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


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ").rstrip(".") + "."


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and in those inside it, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)


def read_rows(source: str) -> Any:
    """The rows of a folder of images, of an array in a file, or of a data set by name."""
    path = Path(source)
    if path.suffix == ".npy" and path.is_file():
        import numpy as np

        # mapped, so that each process reads its own rows; "c" makes it writable, as torch wants
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    if path.suffix == ".pt" and path.is_file():
        return torch.load(path, weights_only=True, mmap=True)
    if path.is_dir() and (files := image_files(path)):
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


def sample_rows(
    decoder: Decoder, rows: Any, order: Sequence[int] | None = None, image_column: str = "image"
) -> Tensor:
    """Samples `(N, *sample_shape)` of rows; images are cropped and resized to fit."""
    source = Source(rows, image_column)
    reader = SampleReader(decoder, source, (), image_column, fit_images(decoder), 0)
    return torch.stack([reader(index).x for index in order or range(len(rows))])

"""The networks on images that `teach` trains: teachers, and an evaluator unlike them."""

from __future__ import annotations

__all__ = ["TEACHERS", "fit_networks", "inside"]

import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import AdapterError, InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

GROUP = "latentctl.networks"  # entry points of classes that can be fitted to images
DEFAULT_NETWORK = "pixel-classifier"
IMAGES = 60_000  # that a network sees by default
PASSES = (3, 30)
# plain stems: the deep stems of other small networks double the cost at 64 pixels
EVALUATOR: dict[str, Any] = {
    "model_name": "resnet18",
    "model_options": {"channels": (24, 48, 80, 112), "act_layer": "relu"},
}
TEACHERS: tuple[dict[str, Any], ...] = (
    {
        "model_name": "resnet18",
        "model_options": {"channels": (16, 32, 64, 128), "act_layer": "silu"},
    },
    {
        "model_name": "resnet18d",
        "model_options": {"channels": (16, 32, 64, 96), "act_layer": "gelu"},
    },
    {
        "model_name": "resnet10t",
        "model_options": {"channels": (32, 64, 96, 128), "act_layer": "relu"},
    },
)


def fit_networks(
    data: tuple[Tensor, Tensor, tuple[str, ...]],
    teachers: int,
    evaluator: bool,
    *,
    fit: Callable[..., nn.Module] | None,
    folder: str | Path | None,
    resumed: bool,
    passes: int | None,
    seed: int,
    accelerator: Accelerator | None,
    **options: Any,
) -> list[Any]:
    """Teachers, and the evaluator after them if there is to be one.

    Arguments:
        data: Bytes `(N, C, h, w)`, labels `(N, K)`, and the K names.
        teachers: How many.
        evaluator: Whether to train one.
        fit: As `network` of `teach`.
        folder: Where the networks are written, and read from if `resumed`.
        resumed: Whether networks that are there are not trained again.
        passes: Over the images; by default as many as make 60,000 of them.
        seed: That of the first network is one more.
        accelerator: Where to train.
        options: Further arguments of `fit`.
    """
    wanted = [(f"teacher-{number}", TEACHERS[number]) for number in range(teachers)]
    wanted += [("evaluator", EVALUATOR)] if evaluator else []
    epochs = _epochs(passes, len(data[0]))
    networks: list[Any] = []
    for number, (what, architecture) in enumerate(wanted):
        where = inside(folder, what)
        if resumed and where is not None and where.exists() and fit is None:
            networks.append(_class().from_pretrained(where))
            continue
        logger.info("teach: network %d of %d (%s)", number + 1, len(wanted), what)
        shared: dict[str, Any] = {"accelerator": accelerator, **options, **architecture}
        made: Any = (fit or _class().fit)(*data, seed=seed + 1 + number, epochs=epochs, **shared)
        main_process = accelerator is None or accelerator.is_main_process
        if where is not None and main_process and hasattr(made, "save_pretrained"):
            made.save_pretrained(where)
        networks.append(made)
    return networks


def inside(folder: str | Path | None, name: str) -> Path | None:
    """A folder in a folder, if there is one."""
    return None if folder is None else Path(folder) / name


def _epochs(passes: int | None, images: int) -> int:
    if passes is None:
        return min(PASSES[1], max(PASSES[0], round(IMAGES / images)))
    if passes < 1:
        raise InputError(f"passes is at least 1, it was given as {passes}.")
    return passes


def _class() -> Any:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if DEFAULT_NETWORK not in points:
        raise AdapterError(
            f"No network {DEFAULT_NETWORK!r} is installed. Pass network=, a function that trains "
            f"one, or install latentctl with its adapters."
        )
    return points[DEFAULT_NETWORK].load()

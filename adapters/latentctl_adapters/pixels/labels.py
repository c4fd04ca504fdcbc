"""Pseudo-labels of images from a network or a zero-shot scorer.

A label is a probability, or, above a confidence threshold, 0 or 1, and NaN for unknown below it.
Critics skip NaN labels.
"""

from __future__ import annotations

__all__ = ["Labelled", "label"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentctl.decoder.pictures import is_picture, read_picture
from latentctl.errors import InputError, ShapeError, UnknownNameError
from latentctl.progress import progress_bar


def label(
    network: Callable[[Tensor], Tensor],
    data: Any,
    names: Sequence[str] | None = None,
    *,
    probabilities: bool = False,
    confidence: float | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    image_column: str = "image",
    batch_size: int = 64,
    progress: bool = True,
) -> Any:
    """Labels of images by a network.

    Arguments:
        network: `x (B, C, H, W)` in [0, 1] to log-odds `(B, K)`, such as a `TimmNetwork`. A module
            is called in evaluation mode, and its mode restored.
        data: Images `(N, C, H, W)`, floats in `value_range` or bytes; or a map-style data set with
            rows as `encode_dataset` takes them. Images of a data set may be of several sizes.
        names: The attributes; `network.names` if not given.
        probabilities: Whether the network returns scores in [0, 1] instead, `(B, K)`, or `(B,)`
            for one name, as zero-shot scorers do.
        confidence: Probability, at least 1/2, from which a label is 1, and up to one minus which it
            is 0; between them it is NaN, unknown. If not given, labels are the probabilities.
        value_range: Lowest and highest value of floats.
        image_column: Column of the image in a mapping.
        batch_size: Images in a batch.
        progress: Show a bar on the main process.

    Returns:
        Labels `(N, K)` in [0, 1] of a tensor; of a data set, the `Labelled` data set, whose rows
        are mappings with a column for each name, for `encode_dataset(..., attributes=names)`.

    Raises:
        InputError: If there are no names, an image cannot be read, or a score is out of [0, 1].
        ShapeError: If the network does not return one number for each name.
    """
    known = tuple(names if names is not None else getattr(network, "names", ()))
    kind = type(network).__name__
    if not known:
        raise InputError(f"The outputs of the {kind} have no names. Pass names=[...].")
    if confidence is not None and not 0.5 <= confidence <= 1:
        raise InputError(f"confidence is a probability in [0.5, 1], not {confidence:g}.")
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [module.training for module in modules]
    found: list[Tensor] = []
    length = len(data) if hasattr(data, "__len__") else None
    try:
        for module in modules:
            module.training = False
        with torch.no_grad(), progress_bar(length, "Label", "image", progress=progress) as bar:
            for x in _images_of(data, value_range, image_column, batch_size):
                out = network(x if first is None else x.to(first.device)).float().cpu()
                if out.ndim == 1 and len(known) == 1:
                    out = out[:, None]
                if out.shape != (len(x), len(known)):
                    raise ShapeError(
                        f"The {kind} should return ({len(x)}, {len(known)}) for "
                        f"{', '.join(known)}, it returned {tuple(out.shape)}."
                    )
                found.append(out if probabilities else out.sigmoid())
                bar.update(len(x))
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    labels = torch.cat(found)
    if not bool(((labels >= 0) & (labels <= 1)).all()):  # a NaN is neither
        advice = "" if probabilities else " Its log-odds are not finite."
        raise InputError(f"The {kind} should give scores in [0, 1].{advice}")
    if confidence is not None:
        unknown = (labels < confidence) & (labels > 1 - confidence)
        labels = (labels > 0.5).float().masked_fill(unknown, torch.nan)
    return labels if isinstance(data, Tensor) else Labelled(data, labels, known, image_column)


class Labelled:
    """A map-style data set whose rows are mappings with further columns.

    Arguments:
        data: The data set. Rows that are not mappings become `{image_column: x}`; their unnamed
            labels are left out.
        labels: `(N, K)`, NaN where unknown.
        names: Name of each label; a column of that name is replaced.
        image_column: Column of the image.

    Example:
        >>> data = Labelled([torch.zeros(3, 8, 8)], torch.tensor([[0.9]]), ["Dog"])
        >>> sorted(data[0]), round(data[0]["Dog"], 1)
        (['Dog', 'image'], 0.9)
    """

    def __init__(
        self, data: Any, labels: Tensor, names: Sequence[str], image_column: str = "image"
    ) -> None:
        if labels.shape != (len(data), len(names)):
            raise ShapeError(
                f"{len(data)} rows and {len(names)} names need labels ({len(data)}, "
                f"{len(names)}), these are {tuple(labels.shape)}."
            )
        self.data, self.labels, self.names = data, labels, tuple(names)
        self.image_column = image_column

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.data[index]
        own = dict(row) if isinstance(row, Mapping) else {self.image_column: _image(row)}
        return {**own, **dict(zip(self.names, self.labels[index].tolist(), strict=True))}


def _images_of(
    data: Any,
    value_range: tuple[float, float],
    image_column: str,
    batch_size: int,
) -> Iterator[Tensor]:
    """Batches `(B, C, H, W)` in [0, 1] in the order of `data`, each of one size of images."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InputError(
            f"A {type(data).__name__} cannot be read twice, for labels and for its rows. Give "
            f"images (N, C, H, W), or a map-style data set with __len__ and __getitem__."
        )
    if len(data) == 0:
        raise InputError("The data set is empty.")
    waiting: list[Tensor] = []
    for index in range(len(data)):
        x = _read(data, index, value_range, image_column)
        if waiting and (len(waiting) == batch_size or x.shape != waiting[0].shape):
            yield torch.stack(waiting)
            waiting = []
        waiting.append(x)
    yield torch.stack(waiting)


def _read(data: Any, index: int, value_range: tuple[float, float], column: str) -> Tensor:
    try:
        row = data[index]
        if isinstance(row, Mapping):
            if column not in row:
                raise UnknownNameError("column", column, map(str, row))
            row = row[column]
        return _unit(_image(row), value_range)
    except UnknownNameError:
        raise
    except Exception as error:  # an image file may raise any error
        raise InputError(
            f"Image {index} cannot be labelled: {error} Repair it, or leave it out."
        ) from error


def _image(row: Any) -> Any:
    return row[0] if isinstance(row, tuple | list) else row


def _unit(value: Any, value_range: tuple[float, float]) -> Tensor:
    """One image `(C, H, W)` in [0, 1]; arrays may have their channels last."""
    if isinstance(value, Tensor):
        x = value
    else:
        import numpy as np

        if is_picture(value):
            value = read_picture(value)
        x = torch.from_numpy(np.array(value))
        last = x.ndim == 3 and (x.shape[2] in (1, 3) or x.shape[0] not in (1, 3))
        x = x[None] if x.ndim == 2 else x.permute(2, 0, 1) if last else x
    if x.ndim != 3:
        raise ShapeError(f"it has shape {tuple(x.shape)}, and images are (C, H, W).")
    if not x.is_floating_point():
        if x.dtype not in (torch.uint8, torch.bool):
            raise InputError(f"it is of {x.dtype}; give bytes, or floats in value_range.")
        return x.float() / (255 if x.dtype == torch.uint8 else 1)
    low, high = value_range
    x = (x.float() - low) / (high - low)
    if not bool(((x > -0.05) & (x < 1.05)).all()):  # a NaN is neither; resampling overshoots
        raise InputError(f"its values are not in [{low:g}, {high:g}]: pass value_range=.")
    return x.clamp(0, 1)

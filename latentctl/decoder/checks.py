"""Checks of what a decoder takes and returns, cheap enough for every call."""

from __future__ import annotations

__all__ = ["check_decoded", "check_encoded", "check_finite", "check_samples"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import AdapterError, InputError, NonFiniteError, ShapeError, check_rows

RANGE_TOLERANCE = 0.05  # resampled or jittered images overshoot by a little


def check_samples(
    x: Tensor, sample_shape: Sequence[int], value_range: tuple[float, float] | None, name: str
) -> None:
    """Raises unless `x` is `(B, *sample_shape)`, finite, and in `value_range`."""
    check_rows(x, sample_shape, f"{name} takes samples", "Resize, crop or convert them.")
    if x.numel() == 0:
        return
    if not x.is_floating_point():
        if value_range is not None:
            low, high = value_range
            raise InputError(
                f"{name} takes floating values in [{low:g}, {high:g}], these are {x.dtype}. For "
                f"bytes: x / 255 * {high - low:g} + {low:g}."
            )
        return
    lowest, highest = torch.stack(torch.aminmax(x.detach())).tolist()  # NaN if any value is
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        rows = (~torch.isfinite(x.flatten(1))).any(1).nonzero().flatten().tolist()
        raise InputError(f"Samples must be finite; rows {rows[:8]} hold a NaN or an infinity.")
    low, high = value_range or (lowest, highest)
    slack = RANGE_TOLERANCE * (high - low)
    if lowest < low - slack or highest > high + slack:
        raise InputError(
            f"{name} takes values in [{low:g}, {high:g}], these are in [{lowest:g}, {highest:g}]. "
            f"Rescale them first."
        )


def check_decoded(x: Tensor, count: int, sample_shape: Sequence[int], name: str) -> None:
    """Raises a `ShapeError` unless `x` are `count` samples of the stated shape."""
    if tuple(x.shape) != (count, *sample_shape):
        raise ShapeError(
            f"{name} decoded {count} latents into {tuple(x.shape)}, not into "
            f"{(count, *sample_shape)}. Its decode must keep the batch axis and every row, for a "
            f"batch of one too (no squeeze)."
        )


def check_encoded(
    mean: Tensor, std: Tensor | None, count: int, latent_shape: Sequence[int], name: str
) -> None:
    """Raises unless mean and std are those of `count` latents, and no std is negative.

    Raises:
        ShapeError: If a shape differs.
        AdapterError: If a standard deviation is negative.
    """
    for part, what in ((mean, "means"), (std, "standard deviations")):
        if part is not None and tuple(part.shape) != (count, *latent_shape):
            raise ShapeError(
                f"{name} encoded {count} samples into {what} {tuple(part.shape)}, not "
                f"{(count, *latent_shape)}. Its encode must keep the batch axis and every row, for "
                f"a batch of one too (no squeeze)."
            )
    if std is not None and std.numel() and bool(std.min() < 0):
        raise AdapterError(
            f"{name} encoded into standard deviations below 0, down to {std.min().item():.3g}. If "
            f"they are logarithms, pass encode=lambda x: torch.distributions.Normal(mean, "
            f"log_std.exp()); of a log-variance, (0.5 * log_variance).exp()."
        )


def check_finite(tensors: Sequence[Tensor], subject: str, advice: str) -> None:
    """Raises a `NonFiniteError` with the rows if a value is a NaN or an infinity.

    Costs one sum, and one wait for the device.

    Arguments:
        tensors: Tensors `(B, ...)` of the same rows.
        subject: The beginning of the message, such as "My model decoded latents".
        advice: Its end: what to do.
    """
    total = torch.stack([tensor.detach().sum() for tensor in tensors]).sum()
    if math.isfinite(total.item()):
        return
    finite = [torch.isfinite(tensor.detach().flatten(1)).all(1) for tensor in tensors]
    bad = ~torch.stack(finite).all(0)
    rows = bad.nonzero().flatten().tolist()
    if rows:  # a sum of large numbers overflows
        raise NonFiniteError(
            f"{subject} into a NaN or an infinity in {len(rows)} of {len(bad)} rows, the first "
            f"{rows[:8]}. {advice}",
            rows,
        )

"""The result of a `Conditional`: samples with a receipt."""

from __future__ import annotations

__all__ = ["Outcome"]

import contextlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from .picture import grid, png


@dataclass(frozen=True)
class Outcome:
    """Samples with their receipt."""

    x: Tensor
    """The samples, `(B, *sample_shape)`."""

    z: Tensor
    """Their latents, `(B, *latent_shape)`."""

    start: Tensor
    """The latents before the move, `(B, *latent_shape)`."""

    satisfied: Tensor
    """Whether the request holds with at least the threshold's probability, `(B,)` booleans."""

    unreachable: Tensor
    """Whether the request has a probability below 0.5 after a whole move, `(B,)` booleans."""

    probability: Tensor
    """Probability of each attribute after the move, by the evaluator if there is one, `(B, K)`."""

    leakage: Tensor
    """Change of that probability of each held attribute, `(B, K)`; NaN for the others."""

    shift: Tensor
    """Root mean square move of a latent dimension, `(B,)`, in latent units."""

    evaluations: Tensor
    """Evaluations of the controller's networks, `(B,)` integers; 0 if there was no move."""

    names: tuple[str, ...]
    """The attributes, in the order of the columns."""

    value_range: tuple[float, float] | None = (0.0, 1.0)
    """Lowest and highest value of a sample."""

    def __len__(self) -> int:
        return len(self.x)

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Writes the samples as one PNG image, and makes its folder where needed.

        Raises:
            InputError: If the samples are no images.
        """
        image = png(grid(self.x, columns=columns, value_range=self.value_range))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        return path

    def _repr_png_(self) -> bytes | None:
        with contextlib.suppress(InputError):  # samples that are no images
            return png(grid(self.x, value_range=self.value_range))
        return None

    def __repr__(self) -> str:
        return (
            f"Outcome({len(self)} samples, {int(self.satisfied.sum())} satisfied, "
            f"leakage {self.leakage.nanmean():.3f}, shift {self.shift.mean():.3f}, "
            f"{self.evaluations.float().mean():.1f} evaluations a sample)"
        )

"""The result of a `Conditional`: samples, and a receipt of what was achieved."""

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
    """Whether the request holds with the probability of the threshold, `(B,)` booleans."""

    unreachable: Tensor
    """Whether the whole move ended with the request less likely than not, `(B,)` booleans."""

    probability: Tensor
    """Probability of each attribute after the move, by the evaluator if there is one, `(B, K)`."""

    leakage: Tensor
    """Change of that probability of each attribute that was held, `(B, K)`; NaN where none was."""

    shift: Tensor
    """Root mean square move of a latent dimension, `(B,)`, in latent units."""

    evaluations: Tensor
    """Evaluations of the controller's networks, `(B,)` integers; 0 if the latent stayed."""

    names: tuple[str, ...]
    """The attributes, in the order of the columns."""

    value_range: tuple[float, float] | None = (0.0, 1.0)
    """Lowest and highest value of a sample."""

    def __len__(self) -> int:
        return len(self.x)

    def save(self, path: str | Path, *, columns: int | None = None) -> Path:
        """Writes the samples as one PNG picture, making its folder where needed.

        Raises:
            InputError: If the samples are no images.
        """
        path = Path(path)
        picture = self._picture(columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
        return path

    def _repr_png_(self) -> bytes | None:
        with contextlib.suppress(InputError):  # samples that are no images have no picture
            return self._picture()
        return None

    def _picture(self, columns: int | None = None) -> bytes:
        return png(grid(self.x, columns=columns, value_range=self.value_range))

    def __repr__(self) -> str:
        return (
            f"Outcome({len(self)} samples, {int(self.satisfied.sum())} satisfied, "
            f"leakage {self.leakage.nanmean():.3f}, shift {self.shift.mean():.3f}, "
            f"{self.evaluations.float().mean():.1f} evaluations a sample)"
        )

"""The result of a completion."""

from __future__ import annotations

__all__ = ["Completion"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...display import Described, Display, html_table, save_pictures, thumbnails

SHOWN = 16  # rows of a notebook's table


@dataclass(frozen=True, eq=False, repr=False)
class Completion(Described):
    """Several completions of each input, in the order of their error."""

    x: Tensor
    """The decoder's samples, `(B, count, *sample_shape)`."""
    z: Tensor
    """Their latents, `(B, count, *latent_shape)`."""
    error: Tensor
    """Root mean square error of the visible part, `(B, count)`, in the units of the samples."""
    cost: Tensor
    """The cost `c(z; z_0)`, `(B, count)`."""
    diversity: Tensor
    """Standard deviation over the completions, mean of the hidden part, `(B,)`."""
    evaluations: int
    """Evaluations of the updater or steps of the descent, of each completion."""

    display: Display
    """Draws samples as pictures."""

    def __len__(self) -> int:
        return len(self.x)

    def pasted(self, x: Tensor, mask: Tensor) -> Tensor:
        """The completions with the visible part of `x` pasted in, `(B, count, *sample_shape)`."""
        return torch.where(mask.bool()[:, None], x[:, None], self.x)

    def save(self, path: str | Path) -> Path:
        """Writes the completions as one PNG image, a row for each input, and makes its folder.

        Raises:
            InputError: If the samples cannot be shown as pictures.
        """
        pictures = self.display(self.x.flatten(0, 1))
        return save_pictures(path, pictures, columns=self.x.shape[1])

    def facts(self) -> dict[str, Any]:
        return {
            "inputs": len(self),
            "completions of each": self.x.shape[1],
            "error of the visible part": float(self.error.mean()),
            "diversity of the hidden part": float(self.diversity.mean()),
            "evaluations": self.evaluations,
        }

    def _repr_html_(self) -> str:
        rows = []
        for number, samples in enumerate(self.x[:SHOWN]):
            drawn = thumbnails(self.display, samples)
            cells = {f"completion {place}": cell for place, cell in enumerate(drawn)}
            rows.append({"": number, **cells, "diversity": float(self.diversity[number])})
        left = len(self) - len(rows)
        return html_table("Completion", self.facts(), rows, f"{left} more." if left > 0 else "")

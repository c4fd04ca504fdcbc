"""General statistics of samples, which moves hold beside the rules.

Of tokens they are the shares of the frequent symbols, of numbers the mean and the standard
deviation of each channel. A rule that can be kept by emptying a sample would be otherwise.
"""

from __future__ import annotations

__all__ = ["Statistics"]

import torch
from torch import Tensor

FREQUENT = 0.05  # share of all places from which a symbol is frequent
MOST = 16  # symbols, or channels
RANGE = 6.0  # standard deviations that are mapped to [0, 1]


class Statistics:
    """Statistics in [0, 1] of samples: 1/2 is the mean of the prior's, 0 and 1 are three sigma off.

    Arguments:
        x: Samples of the prior, `(B, *sample_shape)`.

    Example:
        >>> x = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
        >>> Statistics(x)(x[:2]).shape
        torch.Size([2, 2])
    """

    def __init__(self, x: Tensor) -> None:
        self.symbols = torch.empty(0, dtype=x.dtype)
        if not x.is_floating_point():
            symbols, counts = x.cpu().unique(return_counts=True)
            order = counts.argsort(descending=True, stable=True)[:MOST]
            self.symbols = symbols[order][counts[order] >= FREQUENT * x.numel()]
        raw = self._raw(x)
        mean, std = raw.mean(0), raw.std(0)
        self.varies = std > 1e-6
        self.mean, self.std = mean[self.varies], std[self.varies]

    def __len__(self) -> int:
        return len(self.mean)

    def __call__(self, x: Tensor) -> Tensor:
        """Statistics `(B, S)` of samples `x (B, *sample_shape)`."""
        standard = (self._raw(x)[:, self.varies] - self.mean) / (RANGE * self.std)
        return (standard + 0.5).clamp(0, 1)

    def _raw(self, x: Tensor) -> Tensor:
        x = x.detach().cpu()
        if len(self.symbols):
            flat = x.flatten(1)
            return torch.stack([(flat == s).float().mean(1) for s in self.symbols], 1)
        cells = x.float().flatten(2) if x.ndim > 2 else x.float()[:, None]
        cells = cells[:, :MOST]
        return torch.cat([cells.mean(2), cells.std(2, correction=0)], 1)

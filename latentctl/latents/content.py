"""What the hashes of samples are for: splits that do not leak, and exact duplicates.

A split is a function of a sample's content and the seed: equal samples are on the same side, and
a sample stays on its side when the data set grows, shrinks or is shuffled.
"""

from __future__ import annotations

__all__ = ["first_rows", "in_share"]

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..random import generator


def in_share(content: Tensor | None, share: float, seed: int) -> Tensor:
    """Which of the samples with hashes `(N, 16)` belong to a share, `(N,)` booleans.

    Raises:
        InputError: If there are no hashes, or the share is not in [0, 1].

    Example:
        >>> content = torch.randint(256, (1000, 16), generator=generator(0)).to(torch.uint8)
        >>> chosen = in_share(content, 0.1, seed=0)
        >>> bool((in_share(content[500:], 0.1, seed=0) == chosen[500:]).all())
        True
    """
    if not 0 <= share <= 1:
        raise InputError(f"A share is in [0, 1], not {share!r}.")
    key = torch.randint(1 << 62, (2,), generator=generator(seed, purpose="split")).numpy()
    mixed = (_numbers(content) ^ key.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15 | 1)
    places = (mixed[:, 0] ^ (mixed[:, 1] >> np.uint64(29))) >> np.uint64(11)
    return torch.from_numpy(places < share * 2.0**53)


def first_rows(content: Tensor | None) -> Tensor:
    """The first row of each content, in order; refuses like `in_share`."""
    rows = np.unique(_numbers(content), axis=0, return_index=True)[1]
    return torch.from_numpy(np.sort(rows))


def _numbers(content: Tensor | None) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    if content is None:
        raise InputError(
            "These latents have no hashes of their samples: those of encode_dataset have."
        )
    found: np.ndarray[tuple[int, int], np.dtype[np.uint64]]
    found = content.cpu().contiguous().numpy().view(np.uint64)
    return found

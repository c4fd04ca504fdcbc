r"""What a linear probe of latents knows about attributes: whether attribute vectors can exist.

Ridge regression of the labels on half of the latents,

.. math:: w = (Z^T Z + D I)^{-1} Z^T (y - \bar y)

with the threshold midway between the two classes, and its balanced accuracy on the other half.
Near 0.5 there is no direction for the attribute: vectors, and edits along them, must fail.
"""

from __future__ import annotations

__all__ = ["linear_probe", "probe_advice"]

import math

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents, require_latents

NO_DIRECTION = 0.65  # balanced accuracy
LEAST = 10  # latents with and without the attribute in each half


def linear_probe(latents: Latents) -> dict[str, float]:
    """Balanced accuracy of a linear probe for each attribute, in [0, 1]; NaN if one class is rare.

    Arguments:
        latents: Labelled latents, several times as many as there are dimensions.

    Raises:
        InputError: If there are no labels.

    Example:
        >>> from latentctl.random import noise
        >>> z = noise(0, 2000, (2,), seed=0)
        >>> labels = torch.stack([z[:, 0] > 0, z[:, 0] * z[:, 1] > 0], 1).float()
        >>> found = linear_probe(Latents(z, None, labels, ["Direction", "None"]))
        >>> found["Direction"] > 0.95, found["None"] < 0.6
        (True, True)
    """
    require_latents(latents)
    if latents.labels is None:
        raise InputError("A probe needs labels. Make them with prior_labels or encode_dataset.")
    z = latents.mean.flatten(1).cpu().double()
    labels = latents.labels.cpu()
    return {name: _accuracy(z, labels[:, k]) for k, name in enumerate(latents.names)}


def probe_advice(probe: dict[str, float]) -> str:
    """A sentence on the attributes that have no direction; empty where all have one."""
    hidden = [name for name, accuracy in probe.items() if accuracy < NO_DIRECTION]
    if not hidden:
        return ""
    return (
        f" But {', '.join(hidden)}: no direction of the latent, so that attribute vectors and "
        f"small critics fail. Use networks on samples: PixelCritic with Rejection or Ascent."
    )


def _accuracy(z: Tensor, labels: Tensor) -> float:
    known = ~labels.isnan()
    z, y = z[known], labels[known] > 0.5
    half = len(z) // 2
    train, test = slice(half), slice(half, None)
    for part in (train, test):
        if min(int(y[part].sum()), int((~y[part]).sum())) < LEAST:
            return math.nan
    x, target = z[train] - z[train].mean(0), y[train].double() - y[train].double().mean()
    gram = x.T @ x + z.shape[1] * torch.eye(z.shape[1], dtype=z.dtype)
    score = z @ torch.linalg.solve(gram, x.T @ target)
    middle = (score[train][y[train]].mean() + score[train][~y[train]].mean()) / 2
    right = (score[test] > middle) == y[test]
    return float((right[y[test]].double().mean() + right[~y[test]].double().mean()) / 2)

r"""The realism test: whether samples of the prior look like reconstructions of data.

Precision and recall of decoded samples of the prior against reconstructions of data are compared
with those of other reconstructions. Reconstructions stand for the data, since both then have the
decoder's own blur. Precision finds samples that look like no data, recall samples that are too much
alike. The features are principal components of the reconstructions.

References:
    | Improved Precision and Recall Metric for Assessing Generative Models
    | (Kynkäänniemi et al., 2019)
    | https://arxiv.org/abs/1904.06991
"""

from __future__ import annotations

__all__ = ["LEAST", "sample_realism"]

import torch
from torch import Tensor

from ..decoder import Decoder
from .diversity import precision_recall

LEAST = 100  # samples of data
COMPONENTS = 32  # principal components that are compared


@torch.no_grad()
def sample_realism(
    decoder: Decoder, x: Tensor, batch_size: int = 16, seed: int = 0
) -> dict[str, float]:
    """Precision and recall of samples of the prior, and those of data, against samples `x`.

    Arguments:
        decoder: A decoder with an encoder.
        x: Samples of data, `(N, *sample_shape)`. Of fewer than `LEAST` the figures vary too much
            to tell a right prior from a wrong one.
        batch_size: Samples that are encoded and decoded together.
        seed: Of the samples of the prior.

    Returns:
        `sample_precision`, `sample_recall`, `data_precision` and `data_recall`; the former two are
        as high as the latter two where samples look like reconstructions of data.

    Example:
        >>> import latentctl
        >>> from latentctl.random import noise
        >>> decoder = latentctl.wrap((torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
        >>> sorted(sample_realism(decoder, noise(0, 60, (2,), seed=0)))
        ['data_precision', 'data_recall', 'sample_precision', 'sample_recall']
    """
    z = decoder.encode(x, batch_size=batch_size).mean
    back = decoder.decode(z, batch_size=batch_size).cpu().flatten(1).double()
    real, other = back[::2], back[1::2]
    drawn = decoder.prior.sample(len(other), seed=seed).to(z.device)
    fake = decoder.decode(drawn, batch_size=batch_size).cpu().flatten(1).double()
    center = real - real.mean(0)
    basis = torch.linalg.svd(center, full_matrices=False).Vh[:COMPONENTS].T
    features = [((part - real.mean(0)) @ basis).float() for part in (real, other, fake)]
    found: dict[str, float] = {}
    for name, part in (("data", features[1]), ("sample", features[2])):
        near = precision_recall(features[0], part)
        found |= {f"{name}_precision": near.precision, f"{name}_recall": near.recall}
    return found

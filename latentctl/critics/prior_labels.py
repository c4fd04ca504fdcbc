"""Labelled latents of a generator without data: drawn, decoded, and scored by networks on samples.

A GAN or a diffusion pipeline has no encoder, or an expensive one, but its prior is exact: what it
decodes to can be labelled by a classifier as well as a data set by persons.
"""

from __future__ import annotations

__all__ = ["drawn", "prior_labels"]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..latents import Latents
from ..progress import track
from .pixel import BATCH, PixelCritic


def prior_labels(
    scorer: PixelCritic,
    n: int,
    *,
    prior: Any = None,
    batch_size: int = BATCH,
    seed: int = 0,
    progress: bool = True,
) -> Latents:
    """Latents of the prior, with the attributes of what they decode to as soft labels.

    The latents serve `AttributeCritic.fit` and `distill` as labelled encodings of data do. They do
    not serve `FlowMatching.fit`: see `controllers.flow_matching`.

    Arguments:
        scorer: Networks on samples through the decoder: `PixelCritic(decoder, network)`.
        n: Number of latents.
        prior: Distribution of the latents, the decoder's prior by default.
        batch_size: Latents that are decoded together.
        seed: Decides the latents; none is among the samples of a `Conditional` with this seed.
        progress: Show a bar on the main process.

    Returns:
        Latents `(n, *latent_shape)` with probabilities `(n, K)` as labels.

    Raises:
        InputError: If `n` is less than 1.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> scorer = PixelCritic(decoder, lambda x: x.mean(1, keepdim=True), names=["Bright"])
        >>> prior_labels(scorer, 100)
        Latents(100 x (4,), no std, labels: Bright)
    """
    batches = drawn(scorer, n, prior=prior, batch_size=batch_size, seed=seed, progress=progress)
    pairs = [(z, labels) for z, _, labels in batches]  # no samples are kept
    z, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return Latents(z, None, labels, scorer.names)


@torch.no_grad()
def drawn(
    scorer: PixelCritic, n: int, *, prior: Any, batch_size: int, seed: int, progress: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of latents, of what they decode to, and of probabilities by the scorer, on the CPU.

    Their seed is `~seed`, so that no sample that is drawn with `seed` is among them.
    """
    if n < 1:
        raise InputError(f"n is the number of latents, it was given as {n}.")
    prior = scorer.decoder.prior if prior is None else prior
    for start in track(range(0, n, batch_size), "Label", "batch", progress=progress):
        z = prior.sample(min(batch_size, n - start), seed=~seed, start=start)
        x = scorer.decoder.decode(z.to(scorer.device))
        yield z.cpu(), x.cpu(), scorer.of_samples(x).sigmoid().cpu()

r"""Labels without data: latents of the prior, decoded, and scored by any Python function.

A reward :math:`c_k(x) \in [0, 1]` needs neither gradients nor batches. The rewards of decoded
samples of the prior are the soft labels of a `RewardCritic`,

.. math:: z_i \sim p(z), \quad y_{ik} = c_k(g(z_i))

A call scores one sample. Calls are the cost of zero-shot control, so they are counted and limited,
and the same content is scored once.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["decoded_rewards", "encoding_rewards", "prior_rewards"]

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from ..decoder import Decoder, Prior
from ..errors import BudgetError, InputError
from ..latents import Latents
from ..progress import progress_bar, track
from ..random import noise, permutation
from .reward_calls import CountedRewards, Rules, content_key
from .rounds import spread
from .statistics import Statistics

logger = logging.getLogger(__name__)

BATCH = 256  # latents that are decoded and scored together


def prior_rewards(
    decoder: Decoder,
    rewards: Rules,
    n: int,
    *,
    prior: Prior | None = None,
    max_reward_calls: int | None = None,
    batch_size: int = BATCH,
    seed: int = 0,
    progress: bool = True,
) -> Latents:
    """Latents of the prior, with the rewards of what they decode to as soft labels.

    Arguments:
        decoder: The decoder; nothing has to be differentiable.
        rewards: One rule, several in a list or by name, or `CountedRewards`.
        n: Number of latents; fewer are returned, with a warning, where the calls do not suffice.
        prior: Distribution of the latents, the decoder's prior by default.
        max_reward_calls: Most samples to score; `CountedRewards` have their own limit.
        batch_size: Latents that are decoded together.
        seed: Of the prior's noise.
        progress: Show a bar on the main process.

    Returns:
        Latents `(n, *latent_shape)` with labels `(n, K)` in [0, 1], NaN where a rule failed.

    Raises:
        InputError: If a rule fails for most samples, or no sample could be scored.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> prior_rewards(decoder, {"high": lambda x: (x > 0).float().mean(1)}, 100)
        Latents(100 x (4,), no std, labels: high)
    """
    if n < 1:
        raise InputError(f"n is the number of latents, it was given as {n}.")
    rewards = CountedRewards.of(rewards, max_reward_calls)
    prior = decoder.prior if prior is None else prior
    parts = [
        prior.sample(min(batch_size, n - start), seed=seed, start=start)
        for start in track(range(0, n, batch_size), "Sample", "batch", progress=progress)
    ]
    return _labelled(decoder, rewards, torch.cat(parts), "latents", batch_size, progress)


def encoding_rewards(
    decoder: Decoder,
    rewards: Rules,
    encodings: Latents | Tensor,
    n: int,
    *,
    max_reward_calls: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Latents:
    """Encodings of data with the rewards of what they decode to, for the critic of edits.

    Half of them are posterior means, where edits start, and half samples of posteriors.

    Arguments:
        decoder: The decoder; nothing has to be differentiable.
        rewards: One rule, several in a list or by name, or `CountedRewards`.
        encodings: Encodings of data, or their means alone. Without a std all are means.
        n: Number of latents, at most twice as many as there are encodings; fewer are returned, with
            a warning, where the calls do not suffice.
        max_reward_calls: Most samples to score; `CountedRewards` have their own limit.
        seed: Of the choice and of the noise.
        progress: Show a bar on the main process.

    Returns:
        Latents `(n, *latent_shape)` with labels `(n, K)` in [0, 1], NaN where a rule failed.

    Raises:
        InputError: If a rule fails for most samples, or no sample could be scored.
    """
    rewards = CountedRewards.of(rewards, max_reward_calls)
    encodings = as_latents(encodings)
    if not 1 <= n <= 2 * len(encodings):
        raise InputError(
            f"n is the number of latents, from 1 to twice the {len(encodings)} encodings; it was "
            f"given as {n}."
        )
    order = permutation(len(encodings), seed=seed, epoch=0, purpose="encoding rewards")
    drawn = encodings[order[: n // 2]].to("cpu")
    draw = noise(0, n // 2, decoder.latent_shape, seed=seed, purpose="encoding rewards")
    z = torch.cat([drawn.sample(draw), encodings[order[: n - n // 2]].mean.cpu()])
    # shuffled, so that both kinds are scored where the calls end early
    z = z[permutation(n, seed=seed, epoch=0, purpose="order of encodings")]
    return _labelled(decoder, rewards, z, "encodings", BATCH, progress)


def _labelled(
    decoder: Decoder,
    rewards: CountedRewards,
    z: Tensor,
    kind: str,
    batch_size: int,
    progress: bool,
) -> Latents:
    """Latents with their rewards, with a warning where the calls do not suffice for all."""
    labels = decoded_rewards(decoder, rewards, z, batch_size=batch_size, progress=progress).rewards
    if len(labels) < len(z):
        logger.warning("The reward calls end after %d of %d %s", len(labels), len(z), kind)
    if not len(labels) or bool(torch.isnan(labels).all()):
        raise InputError(f"No sample could be scored. {' | '.join(rewards.errors)}")
    return Latents(z[: len(labels)].cpu(), labels=labels, names=rewards.names)


class Scored(NamedTuple):
    """What was found of decoded latents, of which the calls may suffice for the first n only."""

    rewards: Tensor
    """`(n, K)`, NaN where a rule failed."""
    statistics: Tensor
    """`(n, S)`, none if they were not asked for."""
    spread: float
    """Mean difference of samples 0 and 1, 2 and 3, ..."""
    distinct: float
    """Share of different samples."""


@torch.no_grad()
def decoded_rewards(
    decoder: Decoder,
    rewards: CountedRewards,
    z: Tensor,
    *,
    statistics: Statistics | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
) -> Scored:
    """Rewards of decoded latents `(B, *latent_shape)`."""
    rows, held = [torch.empty(0, len(rewards.names))], [torch.empty(0, len(statistics or ()))]
    spreads, kinds = [0.0], set[bytes]()
    with progress_bar(len(z), "Score", "sample", progress=progress) as bar:
        for part in z.split(batch_size):
            x = decoder.decode(part)
            spreads.append(spread(x) * len(part) / len(z))
            kinds.update(content_key(row) for row in x.cpu().contiguous())
            try:
                rows.append(rewards(x))
            except BudgetError as error:
                rows.append(error.found)
            if statistics is not None:
                held.append(statistics(x)[: len(rows[-1])])
            if len(rows[-1]) < len(part):
                break
            bar.update(len(part))
    return Scored(torch.cat(rows), torch.cat(held), sum(spreads), len(kinds) / max(len(z), 1))


def as_latents(encodings: Latents | Tensor) -> Latents:
    """Encodings as `Latents`; a tensor `(N, *latent_shape)` has their means."""
    if isinstance(encodings, Tensor):
        return Latents(encodings)
    if not isinstance(encodings, Latents):
        raise InputError(
            f"Encodings are Latents, from encode_dataset, or a tensor of their means (N, "
            f"*latent_shape); found a {type(encodings).__name__}."
        )
    return encodings

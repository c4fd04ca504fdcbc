"""Training of the density of a `Knowledge`; the prior and the discriminator are frozen."""

from __future__ import annotations

__all__ = ["PRESENT", "fit_density", "standardise"]

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..random import noise
from ..training import Step, train
from .density import ConditionalDensity, bound, normal

CHECK = 25  # steps between two evaluations on held-out latents
BATCH = 1024
PRESENT = 0.01  # rows with a smaller share of presence are not trained on


def standardise(values: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Codes `(N, C)`, NaN = unknown, with zero mean and unit std, and these moments `(2, C)`.

    Raises:
        InputError: If one of them is constant, or unknown everywhere.
    """
    known = ~torch.isnan(values)
    mean = values.nan_to_num().sum(0) / known.sum(0)
    std = ((values - mean).nan_to_num().square().sum(0) / known.sum(0)).sqrt()
    if not bool((std > 0).all()):
        flat = [name for name, value in zip(names, std.tolist(), strict=True) if not value > 0]
        raise InputError(
            f"The code {', '.join(flat)} is the same in all samples, or unknown in all. Leave it "
            f"out."
        )
    return (values - mean) / std, torch.stack([mean, std])


def fit_density(
    density: ConditionalDensity,
    e: Tensor,
    share: Tensor,
    odds: Tensor,
    codes: Tensor | None,
    held_out: Tensor,
    *,
    consistency: float,
    sleep_weight: float,
    seed: int,
    **options: Any,
) -> None:
    """Trains `p(e | C)` and `p(C | e)` in place, and keeps the best step on held-out noise.

    For base noise `e (N, *latent_shape)` there are the label of presence or its probability as
    `share (N,)`, its log-odds `(N,)`, and the codes `(N, C)` with NaN where they are unknown.
    """
    size, prior_odds = math.prod(density.latent_shape), math.log(max(float(share.mean()), 1e-6))
    if codes is None:
        codes = torch.full((len(e), density.size), torch.nan)
    rows = torch.cat([share[:, None], odds[:, None], codes.to(share)], dim=1)
    present = share > PRESENT

    def terms(e: Tensor, row: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, odds, c = row[:, 0], row[:, 1], row[:, 2:]
        missing = torch.isnan(c)
        c = torch.where(missing, density.sample_code(e, eps), c)
        inferred = density.inference_log_prob(c, e)
        decoded = normal(c) + density.log_prob(e, c)
        # the inference of a given code is not a disagreement
        claimed = torch.where(missing.any(1), inferred, inferred.detach())
        apart = normal(e.flatten(1)) + torch.nn.functional.logsigmoid(odds) + claimed
        return weight, inferred + decoded, apart - prior_odds - decoded

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        e, row = batch
        weight, both, apart = terms(e, row, step.normal(density.size, purpose="C"))
        value = (weight * (-0.5 * both + consistency * apart.relu())).mean()
        if sleep_weight:
            c = step.normal(density.size, purpose="dreamed C")
            with torch.no_grad():
                sampled = density.decode(c, step.normal(*density.latent_shape, purpose="dream"))
            value = value - sleep_weight * density.inference_log_prob(c, sampled).mean()
        return value / size, {"disagreement": apart.mean()}

    best = (math.inf, copy.deepcopy(density.state_dict()))

    def keep_best(step: int) -> None:
        nonlocal best
        if step % CHECK == 0 and len(held_out):
            score = -float(_held_out_bound(density, held_out, seed).mean())
            if score < best[0]:
                best = score, copy.deepcopy(density.state_dict())

    keep_best(0)
    train(
        density,
        loss,
        TensorDataset(e[present], rows[present]),
        name="density",
        weight_decay=1e-2,
        lr_scheduler="cosine",
        max_grad_norm=10.0 * math.sqrt(size),
        seed=seed,
        on_step=keep_best,
        **options,
    )
    if len(held_out):
        density.load_state_dict(best[1])


@torch.no_grad()
def _held_out_bound(density: ConditionalDensity, e: Tensor, seed: int) -> Tensor:
    home = next(density.parameters()).device
    eps = noise(0, 8, (density.size,), seed=seed, purpose="held-out bound")[:, None].to(home)
    return torch.cat(
        [bound(density, p.to(home), eps.expand(-1, len(p), -1)) for p in e.split(BATCH)]
    )

"""How a `Knowledge` is learned: its calibration and its density. The prior stays as it is."""

from __future__ import annotations

__all__ = ["calibrate", "fit_density", "standardise"]

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..random import generator, noise
from ..training import Player, Step, fit
from .density import bound, normal

if TYPE_CHECKING:
    from ..latents import Latents
    from .knowledge import Knowledge

CHECK = 25  # steps between two looks at the held-out latents
BATCH = 1024
PRESENT = 0.01  # rows of a smaller share are left out of the density


def calibrate(knowledge: Knowledge, held_out: Latents, seed: int) -> None:
    """Slope and offset of the log-odds, by cross-entropy on held-out latents (Platt)."""
    labels = held_out.labels
    if labels is None or not 0 < float(labels.round().sum()) < len(labels):
        return  # one class only: nothing to calibrate by
    z = held_out.sample(_noise(held_out, seed))
    with torch.no_grad():
        odds = knowledge.presence(z)[:, 0]
    scale = knowledge.calibration.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([scale], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            torch.nn.functional.binary_cross_entropy_with_logits(
                odds * scale[0] + scale[1], labels[:, 0]
            )
            + 1e-3 * (scale[0] - 1).square()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    if bool(torch.isfinite(scale).all()) and float(scale.detach()[0]) > 0:
        knowledge.calibration.copy_(scale.detach())


def standardise(knowledge: Knowledge, given: Tensor, names: Sequence[str]) -> Tensor:
    """Characteristics in units of their own spread, which the knowledge remembers."""
    known = ~torch.isnan(given)
    mean = given.nan_to_num().sum(0) / known.sum(0)
    std = ((given - mean).nan_to_num().square().sum(0) / known.sum(0)).sqrt()
    if not bool((std > 0).all()):
        flat = [name for name, value in zip(names, std.tolist(), strict=True) if not value > 0]
        raise InputError(
            f"The characteristic {', '.join(flat)} is the same in all samples, or unknown in "
            f"all. Leave it out."
        )
    knowledge.unit.copy_(torch.stack([mean, std]))
    return (given - mean) / std


def fit_density(
    knowledge: Knowledge,
    learn: Latents,
    check: Latents,
    given: Tensor | None,
    *,
    consistency: float,
    sleep_weight: float,
    seed: int,
    learning_rate: float,
    **options: Any,
) -> None:
    """Trains `p(z | C)` and `p(C | z)`; the discriminator is frozen."""
    density, size = knowledge.density, math.prod(knowledge.latent_shape)
    e, odds, share = _prepare(knowledge, learn, seed)
    prior_odds = math.log(max(float(share.mean()), 1e-6))
    if given is None:
        given = torch.full((len(learn), density.size), torch.nan)
    rows = torch.cat([share[:, None], odds[:, None], given.to(share)], dim=1)
    present = share > PRESENT
    data = torch.utils.data.TensorDataset(e[present], rows[present])
    seen, _, share = _prepare(knowledge, check, seed)
    seen = seen[share > PRESENT]

    def terms(e: Tensor, row: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, odds, c = row[:, 0], row[:, 1], row[:, 2:]
        drawn, _ = density.inferred(e, eps)
        missing = torch.isnan(c)
        c = torch.where(missing, drawn, c)
        inferred = density.inference_log_prob(c, e)
        made = normal(c) + density.log_prob(e, c)
        # a C that is given is the truth: to infer it well is no disagreement
        claimed = torch.where(missing.any(1), inferred, inferred.detach())
        apart = normal(e.flatten(1)) + torch.nn.functional.logsigmoid(odds) + claimed
        apart = apart - prior_odds - made
        return weight, inferred + made, apart

    def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        noise, row = batch
        weight, both, apart = terms(noise, row, step.normal(density.size, purpose="C"))
        value = (weight * (-0.5 * both + consistency * apart.relu())).mean()
        if sleep_weight:
            c = step.normal(density.size, purpose="dreamed C")
            with torch.no_grad():
                dreamed = density.decode(c, step.normal(*knowledge.latent_shape, purpose="dream"))
            value = value - sleep_weight * density.inference_log_prob(c, dreamed).mean()
        return value / size, {"disagreement": apart.mean()}

    best = (math.inf, {k: v.clone() for k, v in density.state_dict().items()})

    def look(step: int) -> None:
        nonlocal best
        if step % CHECK or not len(seen):
            return
        score = -float(_bound(knowledge, seen, seed).mean())
        if score < best[0]:
            best = score, {k: v.clone() for k, v in density.state_dict().items()}

    look(0)
    optimizer = torch.optim.AdamW(density.parameters(), lr=learning_rate, weight_decay=1e-2)
    fit(
        Player("density", density, loss, optimizer),
        data,
        seed=seed,
        lr_scheduler="cosine",
        max_grad_norm=10.0 * math.sqrt(size),
        on_step=look,
        **options,
    )
    if len(seen):
        density.load_state_dict(best[1])


@torch.no_grad()
def _prepare(knowledge: Knowledge, latents: Latents, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Base noise, log-odds and share of presence of each row."""
    z = latents.mean if latents.std is None else latents.sample(_noise(latents, seed))
    odds = torch.cat([knowledge(part)[:, 0] for part in z.split(BATCH)])
    label = latents.column(knowledge.name)
    share = torch.where(torch.isnan(label), odds.sigmoid(), label)
    e = torch.zeros_like(z)  # and stays so where the knowledge is absent, which is not learned
    for rows in (share > PRESENT).nonzero()[:, 0].split(BATCH):
        e[rows] = knowledge.prior.to_base(z[rows])
    return e, odds, share


@torch.no_grad()
def _bound(knowledge: Knowledge, e: Tensor, seed: int) -> Tensor:
    eps = noise(0, 8, (knowledge.density.size,), seed=seed, purpose="held-out bound")
    eps = eps[:, None].to(e.device)
    return torch.cat(
        [bound(knowledge.density, part, eps.expand(-1, len(part), -1)) for part in e.split(BATCH)]
    )


def _noise(latents: Latents, seed: int) -> Tensor:
    shape = (len(latents), *latents.latent_shape)
    eps = torch.randn(shape, generator=generator(seed, purpose="knowledge"))
    return eps.to(latents.mean.device)

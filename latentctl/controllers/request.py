"""The request to a controller: targets, holds, a further critic, a region, a strength.

A `Request` is made once, by `latentctl.conditional.request` from what the caller wrote or by hand,
and goes down unchanged to `Controller.move(z, request)`.
"""

from __future__ import annotations

__all__ = ["THRESHOLD", "Request", "draw_targets", "flips", "prior_starts", "target_context"]

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..critics import Critic
from ..decoder import Prior
from ..errors import InputError, check_kind
from ..nn import encode_targets
from ..training import Step

THRESHOLD = 0.95


@dataclass(frozen=True, eq=False)
class Request:
    """A request for B latents; fields of one row apply to all of them.

    Example:
        >>> Request(target=torch.tensor([[1.0, torch.nan]])).for_latents(torch.zeros(3, 8)).target
        tensor([[1., nan],
                [1., nan],
                [1., nan]])
    """

    target: Tensor | None = None
    """Probabilities to reach, `(B, K)` or `(1, K)` in [0, 1]; NaN = free."""
    hold: Tensor | None = None
    """Attributes whose probability is held, booleans like `target`."""
    current: Tensor | None = None
    """Probabilities before the move, `(B, K)`, if they are known."""
    where: Critic | None = None
    """A further critic to satisfy."""
    region: Tensor | None = None
    """1 where a latent may move and 0 where it stays, bit for bit; broadcasts to the latents."""
    strength: float = 1.0
    """Share of the move: 0 changes nothing, bit for bit; 1 is the whole move."""
    threshold: float = THRESHOLD
    """Probability of targets and of `where` at which controllers that search may stop."""
    seed: int = 0
    """Seed of the controller's noise, if it uses any."""
    index: Tensor | None = None
    """Number of each latent, `(B,)`, on which its noise depends; by default 0 ... B - 1."""
    prior: Prior | None = None
    """Where controllers that draw latents draw them; N(0, I) by default."""

    def __post_init__(self) -> None:
        check_kind(self.strength, Real, "strength=", "It is the share of a move; 1 is the whole.")
        if not 0 <= self.strength < math.inf:
            raise InputError(
                f"strength is the share of a move, in [0, inf); it was given as {self.strength}."
            )

    def for_latents(self, z: Tensor) -> Request:
        """The request with a row for each latent, on the device of `z (B, *latent_shape)`."""
        rows = {
            name: value.to(z.device).expand(len(z), *value.shape[1:])
            for name in ("target", "hold", "current", "region")
            if (value := getattr(self, name)) is not None
        }
        index = torch.arange(len(z)) if self.index is None else self.index
        return dataclasses.replace(self, **rows, index=index.to(z.device))

    def rows(self, chosen: Tensor) -> Request:
        """The request of some latents, by a mask or by indices, after `for_latents`."""
        parts = {
            name: value[chosen]
            for name in ("target", "hold", "current", "region", "index")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **parts)

    def merged(self, other: Request, rows: Tensor) -> Request:
        """The other request, with targets and holds of this one in the `rows` of a mask `(B,)`."""
        fields: dict[str, Any] = {}
        for name, blank in (("target", torch.nan), ("hold", False), ("current", torch.nan)):
            here, there = getattr(self, name), getattr(other, name)
            fields[name] = torch.where(rows[:, None], here, blank if there is None else there)
        return dataclasses.replace(other, **fields)

    @property
    def is_held(self) -> bool:
        """Whether any attribute is held."""
        return self.hold is not None and bool(self.hold.any())

    def with_current(self, critic: Critic | None, z: Tensor) -> Request:
        """The request with the probabilities at `z`; no evaluation if no attribute is held."""
        if not self.is_held or self.current is not None or critic is None:
            return self
        with torch.no_grad():
            return dataclasses.replace(self, current=critic.probability(z))

    @property
    def values(self) -> Tensor | None:
        """Targets `(B, K)`, with the current probability of held attributes; NaN = free."""
        if self.target is None or self.hold is None or self.current is None:
            return self.target
        return torch.where(self.hold, self.current, self.target)


def flips(current: Tensor, *columns: Tensor) -> Request:
    """The request to flip attributes and to hold all others.

    Arguments:
        current: Probabilities before the move, `(B, K)`.
        columns: Indices of the attributes to flip, `(B,)` each; a repeated one is flipped once.
    """
    flipped = torch.zeros_like(current, dtype=torch.bool)
    flipped.scatter_(1, torch.stack(columns, 1).to(current.device), True)
    target = torch.where(flipped, 1 - current.round(), torch.nan)
    return Request(target=target, hold=~flipped, current=current)


def target_context(z: Tensor, y: Tensor | None, names: Sequence[str]) -> Tensor | None:
    """Targets, rounded to 0 or 1, as context features `(B, 2K)`; all free if `y` is None."""
    if not names:
        return None
    if y is None:
        y = torch.full((1, len(names)), torch.nan)
    return encode_targets(y.to(z.device).round().expand(len(z), -1))


def draw_targets(labels: Tensor | None, step: Step, free_share: float) -> Tensor | None:
    """Labels as targets; in a `free_share` of the rows some are freed, in a third of these all."""
    if labels is None:
        return None
    partly = step.uniform(1, purpose="partly free") < free_share
    kept_share = 1.5 * step.uniform(1, purpose="kept") - 0.5
    kept = step.uniform(labels.shape[1], purpose="free") < kept_share
    return torch.where(partly & ~kept, torch.nan, labels)


def prior_starts(prior: Prior, step: Step) -> Tensor:
    """Samples of the prior from which a training step starts, `(count, *latent_shape)`."""
    # ~seed: training never uses the noise of a user's seed
    first = step.index * step.total + step.start
    return prior.sample(step.count, seed=~step.seed, start=first).to(step.device)

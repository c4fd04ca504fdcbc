r"""The last search of an edit by rule, where the critic's gradient does not lead to the rules.

For each input that fails, candidates are drawn around the best latent so far:

- noise of several lengths,
- moves that changed other inputs so that they keep the rules, :math:`z_i + t (z'_j - z_j)`,
- points on the way to other latents that keep them, :math:`z_i + t (z'_j - z_i)`.

The critic ranks them, and the rules score the first ones. Then what was found is brought back
towards the encoding as far as the rules allow.
"""

from __future__ import annotations

__all__ = ["bring_back", "search"]

import torch
import torch.nn.functional as F
from torch import Tensor

from ..critics import RewardCritic
from ..random import generator
from .attempts import Attempts

GENERATIONS = 12
DRAWN, SCORED = 96, 16  # candidates of an input in a generation
NEAREST = 8  # other latents that a candidate may come from
BACK = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # shares of a move that are tried
BLOCKS = 3  # rounds in which parts of a move are undone


def search(
    attempts: Attempts, critic: RewardCritic, heads: list[int], length: float, seed: int
) -> None:
    """Candidates for the failing inputs over generations, around noise of a `length`."""
    for number in range(GENERATIONS):
        rows = attempts.failing
        if not len(rows):
            return
        draw = generator(seed, number, purpose="neighbourhood")
        z = _candidates(attempts, rows, length, draw)
        kept, mean = critic.heads(z.flatten(0, 1))
        word = (F.logsigmoid(kept) + F.logsigmoid(mean))[:, heads].sum(1).view(z.shape[:2])
        first = word.topk(SCORED, dim=1).indices
        chosen = z[torch.arange(len(rows), device=z.device)[:, None], first].flatten(0, 1)
        attempts.score(rows.repeat_interleave(SCORED), chosen, "search")


def bring_back(attempts: Attempts, seed: int) -> None:
    """Undoes what restarts and search changed without need; `found_by` stays what it is."""
    for part in range(1 + BLOCKS):
        late = [how in ("restart", "search") for how in attempts.found_by]
        rows = (attempts.satisfied & torch.tensor(late)).nonzero().flatten()
        if attempts.ended or not len(rows):
            return
        start, best = attempts.start[rows], attempts.z[rows]
        shares = torch.tensor(BACK, device=best.device).view(1, -1, *[1] * (best.ndim - 1))
        if part:
            draw = generator(seed, part, purpose="bring back")
            size = (len(rows), len(BACK), *best.shape[1:])
            # of each element the whole move or none of it
            shares = (torch.rand(size, generator=draw).to(best) < 1 - 0.5**part).to(best)
        z = start[:, None] + shares * (best - start)[:, None]
        for how in ("restart", "search"):
            mine = torch.tensor([attempts.found_by[row] == how for row in rows.tolist()])
            if bool(mine.any()) and not attempts.ended:
                attempts.score(rows[mine].repeat_interleave(len(BACK)), z[mine].flatten(0, 1), how)


def _candidates(attempts: Attempts, rows: Tensor, length: float, draw: torch.Generator) -> Tensor:
    """Latents around the best ones of `rows`, `(n, DRAWN, *latent_shape)`."""
    best = attempts.z[rows]
    noise = torch.randn(len(rows), DRAWN, *best.shape[1:], generator=draw).to(best)
    noise = noise * (best[0].numel() ** -0.5)
    near = length * 2.0 ** torch.randint(0, 5, (DRAWN,), generator=draw)
    moves = near.to(best).view(1, -1, *[1] * (best.ndim - 1)) * noise
    third = DRAWN // 3
    done = attempts.satisfied & torch.tensor([how != "input" for how in attempts.found_by])
    others = done.nonzero().flatten()
    if len(others):
        start = attempts.start
        picked = _nearest(attempts.start[rows], start[others], third, draw)
        learned = (attempts.z - start)[others][picked]
        share = 0.5 + torch.rand(len(rows), third, generator=draw).to(best)
        from_start = start[rows] - best
        moves[:, :third] += share.view(*share.shape, *[1] * (best.ndim - 1)) * learned
        moves[:, :third] += from_start[:, None]
    keepers = attempts.keepers().to(best)
    if len(keepers):
        picked = _nearest(best, keepers, third, draw)
        share = torch.rand(len(rows), third, generator=draw).to(best)
        share = share.view(*share.shape, *[1] * (best.ndim - 1))
        moves[:, third : 2 * third] = share * (keepers[picked] - best[:, None])
    around: Tensor = best[:, None] + moves
    return around


def _nearest(z: Tensor, others: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """For each latent `count` indices, at random among the nearest others, `(n, count)`."""
    near = min(NEAREST, len(others))
    nearest = torch.cdist(z.flatten(1), others.flatten(1)).topk(near, largest=False).indices
    picked = torch.randint(0, near, (len(z), count), generator=draw).to(z.device)
    chosen: Tensor = nearest.gather(1, picked)
    return chosen

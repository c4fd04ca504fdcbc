"""Rules that are Python functions on digits of a GAN: samples by `sample_by_rule`.

    LATENTCTL_DATA=... python -m benchmarks.digits.gan_model --output_dir outputs/digits-gan
    LATENTCTL_DATA=... python -m benchmarks.digits.rules --seeds 0 1 2

The rules were written down before they were run, and nothing was chosen by them. Diversity is the
mean distance of two samples, and beside it that of the samples among 20,000 of the prior that keep
the same rules.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import latentctl
from benchmarks.digits.gan_model import Generator
from benchmarks.shared.run import BaseFlags, Row, by_name, report, run, table, write
from latentctl import Decoder
from latentctl.display import grid, png
from latentctl.rewards import CountedRewards, Reward

SEARCHED = 20_000  # samples of the prior
FEW = 20  # of them that say nothing about their diversity
INK = (0.15, 0.18)


@dataclass
class Flags(BaseFlags):
    seeds: tuple[int, ...] = (0,)
    count: int = 500  # Samples of each request.
    output_dir: Path = Path("outputs/digits-gan")  # With the GAN.


def ink(x: Tensor) -> Tensor:
    """1 if the mean brightness is in `INK`, and less the farther it is off; graded."""
    mean = ((x + 1) / 2).flatten(1).mean(1)
    off = torch.maximum(INK[0] - mean, mean - INK[1]).clamp(min=0)
    return (1 - 5 * off).clamp(min=0)


def symmetric(x: Tensor) -> Tensor:
    """Rises to 1 where left and right differ by at most a quarter of the ink; graded."""
    bright = (x + 1) / 2
    differ = (bright - bright.flip(-1)).abs().flatten(1).sum(1) / bright.flatten(1).sum(1) / 2
    return ((1 - differ) / 0.75).clamp(max=1)


def one_hole(x: Tensor) -> Tensor:
    """1 if the dark part inside of the strokes is one piece: all or nothing."""
    dark = (x[:, 0] < 0).float()
    outside = torch.zeros_like(dark)
    outside[:, 0], outside[:, -1], outside[:, :, 0], outside[:, :, -1] = 1, 1, 1, 1
    inside = dark * (1 - _spread(outside * dark, dark))
    first = torch.zeros_like(inside).flatten(1)
    first.scatter_(1, inside.flatten(1).argmax(1, keepdim=True), 1.0)
    piece = _spread(first.view_as(inside) * inside, inside)
    return ((inside.sum((1, 2)) >= 4) & (piece == inside).flatten(1).all(1)).float()


def tall(x: Tensor) -> Tensor:
    """Rises to 1 where the digit is at least 2.5 times as tall as wide; graded."""
    bright = x[:, 0] > 0
    height, width = (bright.any(dim).sum(1).clamp(min=1) for dim in (2, 1))
    return (height / width / 2.5).clamp(max=1)


def _spread(seed: Tensor, allowed: Tensor) -> Tensor:
    """Everything that is connected with the seeds within what is allowed, `(B, h, w)`."""
    while True:
        grown = F.max_pool2d(seed[:, None], 3, stride=1, padding=1)[:, 0] * allowed
        if torch.equal(grown, seed):
            return seed
        seed = grown


RULES: dict[str, Reward] = {"ink": ink, "symmetric": symmetric, "one_hole": one_hole, "tall": tall}
REQUESTS = (
    ("ink",),
    ("symmetric",),
    ("one_hole",),
    ("tall",),
    ("ink", "one_hole"),
    ("symmetric", "one_hole", "ink"),
    ("tall", "one_hole"),
)


def answer(decoder: Decoder, known: Tensor, names: tuple[str, ...], flags: Flags, seed: int) -> Row:
    """The row of one request; `known` are samples of the prior."""
    began = time.process_time()
    rules = {name: RULES[name] for name in names}
    out = latentctl.sample_by_rule(decoder, rules, flags.count, seed=seed)
    row: Row = {
        "name": " and ".join(names),
        "prior": out.share,
        "kept": out.satisfied.float().mean().item(),
        "distinct": out.distinct,
        "diversity": torch.pdist(out.x.flatten(1)).mean().item(),
        "calls": out.calls,
        "seconds": time.process_time() - began,
        "correlation": out.correlation,
    }
    picture = png(grid(out.x[:40], columns=20, value_range=(-1.0, 1.0)))
    (flags.output_dir / f"rule-{'-'.join(names)}-{seed}.png").write_bytes(picture)
    keep = known[(CountedRewards(rules)(known) == 1).all(1)]
    if len(keep) >= FEW:
        row["diversity of these"] = torch.pdist(keep[:2000].flatten(1)).mean().item()
    return report(row | {"of the prior": len(keep)})


@torch.no_grad()
def main(flags: Flags) -> None:
    generator = Generator.load(flags.output_dir)
    decoder = latentctl.wrap(generator, value_range=(-1.0, 1.0), latent_shape=(64,))
    runs = []
    for seed in flags.seeds:
        known = decoder.decode(decoder.prior.sample(SEARCHED, seed=~seed), batch_size=500)
        runs.append([answer(decoder, known, names, flags, seed) for names in REQUESTS])
        write(flags.output_dir / f"rules-{seed}.json", runs[-1])
    print(table(by_name(runs)))


if __name__ == "__main__":
    run(main, Flags)

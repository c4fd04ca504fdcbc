"""Pairs of attributes from separate packs: does a sum do what its packs do?

    python -m benchmarks.edits.sums --seed 0

Ten packs of one attribute each: a small critic, fitted with a seed of its own on encodings of its
own drawn faces, as by ten people who do not know each other. Of every pair both attributes of
unseen faces are flipped by the sum of the two packs, and each alone by its own pack; the judge that
ships says what succeeded. A pair holds if its joint success is at least the product of the single
ones less 0.05. `possible` has the same of the faces whose request does not contradict itself: not
both of two attributes that exclude each other, such as two colours of hair. Each pair is added in
both orders, and one pack is removed again: `order` and `removal` say in how many pairs all bits are
equal. The embedded faces alone are needed.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters import embedded
from latentctl_adapters.embedded.counterfactuals import EXCLUDED
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from torch import Tensor

import latentctl
from benchmarks.shared.run import Row, Seconds, SeededFlags, run, table, write
from latentctl import AttributeCritic, Conditional, Decoder, Latents
from latentctl.conditional import Outcome
from recipes.support.faces import PAPER_ATTRIBUTES as NAMES

MARGIN = 0.05
FIELDS = ("x", "z", "probability", "satisfied", "shift", "evaluations")


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/sums")
    faces: int = 16  # Unseen faces that are edited.
    data: int = 400  # Faces of each pack.
    width: int = 128  # Of each critic.
    max_train_steps: int = 150


def make_pack(decoder: Decoder, name: str, number: int, flags: Flags) -> Conditional:
    """A pack of one attribute, fitted on faces of its own."""
    seed = 10 * flags.seed + number
    data = ProceduralFaces(flags.data, seed=1000 + seed, attributes=[name])
    images, labels = data.tensors()
    posterior = decoder.encode(images, batch_size=64)
    latents = Latents(posterior.mean, posterior.std, labels, (name,))
    steps = {"max_train_steps": flags.max_train_steps, "batch_size": 128}
    critic = AttributeCritic.fit(latents, width=flags.width, seed=seed, **steps)
    return latentctl.condition(decoder, critic)


def flipped(faces: Conditional, x: Tensor, start: Tensor) -> Outcome:
    """The outcome of flipping every attribute of `faces`; `start` is the judge's, by name."""
    wanted = torch.stack([1 - start[:, NAMES.index(name)] for name in faces.names], 1)
    return faces.edit(x, y=wanted)


@torch.no_grad()
def right(out: Outcome, judge: torch.nn.Module, start: Tensor) -> Tensor:
    """Whether the judge says that each attribute was flipped, `(B, K)`."""
    columns = [judge.names.index(name) for name in out.names]
    found = (judge(out.x)[:, columns] > 0).float()
    return torch.stack(
        [found[:, k] != start[:, NAMES.index(name)] for k, name in enumerate(out.names)], 1
    )


def pair(
    one: Conditional,
    two: Conditional,
    alone: dict[str, Outcome],
    x: Tensor,
    start: Tensor,
    judge: Any,
) -> Row:
    """The joint success of two packs, and whether order and removal keep the bits.

    `alone` has the outcome of each pack by itself.
    """
    names = one.names[0], two.names[0]
    out, other = (flipped(both, x, start) for both in (one + two, two + one))
    again = flipped(two + one - two, x, start)
    both = right(out, judge, start).all(1).float()
    single = [right(alone[name], judge, start)[:, 0].float() for name in names]
    present = torch.stack([start[:, NAMES.index(name)] == 0 for name in names], 1).all(1)
    possible = ~(present & torch.tensor(names[1] in EXCLUDED.get(names[0], ())))
    return {
        "name": " + ".join(out.names),
        "joint": both.mean().item(),
        "product": single[0].mean().item() * single[1].mean().item(),
        "possible": possible.float().mean().item(),
        "possible joint": _mean(both[possible]),
        "possible product": _mean(single[0][possible]) * _mean(single[1][possible]),
        "order": all(torch.equal(getattr(out, f), getattr(other, f)) for f in FIELDS),
        "removal": all(torch.equal(getattr(again, f), getattr(alone[names[0]], f)) for f in FIELDS),
    }


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


def main(flags: Flags) -> None:
    seconds, decoder, judge = Seconds(), embedded.decoder(), embedded.judge().eval()
    packs = seconds.measure(
        "packs",
        lambda: [make_pack(decoder, name, n, flags) for n, name in enumerate(NAMES)],
    )
    x = ProceduralFaces(flags.faces, seed=77 + flags.seed).images(0, flags.faces).float() / 255
    with torch.no_grad():
        columns = [judge.names.index(name) for name in NAMES]
        start = (judge(decoder.decode(decoder.encode(x).mean))[:, columns] > 0).float()
    alone = {pack.names[0]: flipped(pack, x, start) for pack in packs}
    single = {name: right(out, judge, start).float().mean().item() for name, out in alone.items()}
    pairs = list(itertools.combinations(packs, 2))
    rows = seconds.measure("pairs", lambda: [pair(a, b, alone, x, start, judge) for a, b in pairs])
    for row in rows:
        row["holds"] = row["joint"] >= row["product"] - MARGIN
        row["possible holds"] = row["possible joint"] >= row["possible product"] - MARGIN
    counted = ("holds", "possible holds", "order", "removal")
    totals = {key: sum(row[key] for row in rows) for key in counted}
    result = {"pairs": len(rows), **totals, "single": single, "rows": rows, "seconds": seconds}
    write(flags.output_dir / f"sums-{flags.seed}.json", result)
    print(table(rows))
    print(json.dumps({key: result[key] for key in ("pairs", *totals, "single")}, indent=1))


if __name__ == "__main__":
    run(main, Flags)

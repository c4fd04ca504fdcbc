"""Does `Smiling=0.7` give 0.7? Every probability from 0.1 to 0.9 of every attribute of drawn faces.

    python -m benchmarks.edits.dial --seed 0

Unseen faces are edited by the pack that ships, once for each attribute and target; what is achieved
is read by its evaluator, whose units are asked for, and by the judge that ships, which no edit
sees. An attribute is monotone if the mean over faces rises from every target to the next; a face is
if its own values do, by the evaluator. Prints the table of all seeds that are there. The embedded
faces alone are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from latentctl_adapters import embedded
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from torch import Tensor

from benchmarks.shared.run import Row, Seconds, SeededFlags, by_name, read, run, table, write
from latentctl import Conditional, Latents, PixelCritic

TARGETS = torch.arange(1, 10) / 10


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/dial")
    faces: int = 6  # Each with every attribute at every target.


@torch.no_grad()
def achieved(faces: Conditional, judge: PixelCritic, z: Tensor, name: str) -> Tensor:
    """Probabilities by the evaluator and by the judge, `(2, targets, faces)`."""
    column, (count, k) = faces.critic.index(name), (len(z), len(faces.names))
    target = torch.full((len(TARGETS), count, k), torch.nan)
    target[:, :, column] = TARGETS[:, None]
    starts = z.repeat(len(TARGETS), 1)
    out = faces.edit(Latents(starts), y=target.flatten(0, 1))
    seen = judge.score_samples(out.x).sigmoid()
    both = torch.stack([out.probability, seen])[:, :, column]
    return both.view(2, len(TARGETS), count)


def summary(name: str, found: Tensor) -> Row:
    """The errors and whether targets are passed in order; `found` is of one or of all attributes.

    `found` is `(2, targets, faces)`.
    """
    errors = (found - TARGETS[:, None]).abs()
    rising = found.diff(dim=1) > 0
    means = found.mean(2).diff(dim=1) > 0
    return {
        "name": name,
        "median error": errors[0].median().item(),
        "by the judge": errors[1].median().item(),
        "within 0.05": (errors[0] <= 0.05).float().mean().item(),
        "monotone": float(means[0].all()),
        "monotone by the judge": float(means[1].all()),
        "faces monotone": rising[0].all(0).float().mean().item(),
    }


def main(flags: Flags) -> None:
    seconds, faces = Seconds(), embedded.pack()
    judge = PixelCritic(faces.decoder, embedded.judge(), names=faces.names)
    images = ProceduralFaces.split("test", flags.faces, flags.seed).images(0, flags.faces)
    with torch.no_grad():
        z = faces.decoder.encode(images.float() / 255).mean
    found = {n: seconds.measure("edits", achieved, faces, judge, z, n) for n in faces.names}
    rows = [summary(name, values) for name, values in found.items()]
    whole = summary("all", torch.cat([*found.values()], 2))
    for key in ("monotone", "monotone by the judge"):  # the share of the attributes
        whole[key] = sum(row[key] for row in rows) / len(rows)
    curves = {name: values.mean(2).tolist() for name, values in found.items()}
    result = {"rows": [*rows, whole], "curves": curves, "seconds": seconds}
    write(flags.output_dir / f"dial-{flags.seed}.json", result)
    print(table(by_name(run["rows"] for run in read(flags.output_dir, "dial-?.json"))))


if __name__ == "__main__":
    run(main, Flags)

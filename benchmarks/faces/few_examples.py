"""Attributes learned from 10, 30 and 100 labelled faces, or 10 pairs, judged by their edits.

    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks --names judge
    LATENTCTL_DATA=... python -m benchmarks.faces.few_examples

Each of ten attributes is new in turn; the others are held by a critic of the remaining nine. Every
edit is `condition(decoder, nine).edit(x, where=example[name])`, and flips what the judge sees in
the reconstruction. Each method has one strength for all attributes, chosen on validation faces:
where its mean leakage reaches 0.05 or its mean identity 0.75. Success, leakage (share of the other
nine that the judge sees change) and identity (cosine of MobileFaceNet embeddings to the
reconstruction) are then of test faces.

What is known beforehand: a critic of the thirty CelebA attributes that are not among the ten
(`thirty`), the critic of the nine (`nine`), or nothing but encodings without labels (`none`).
Examples come with their mirror images. Pairs are two photographs of one person, with and without
the attribute: real pairs before and after an edit do not exist.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import latentctl
from benchmarks.edits.setting import IDENTITY, LEAKAGE, EditFlags, Flips, Setting
from benchmarks.shared.base import decode, encode
from benchmarks.shared.face_base import ATTRIBUTES, columns_of, face_decoder, load_faces
from benchmarks.shared.run import Row, report, run, write
from latentctl import AttributeCritic, ExampleCritic
from latentctl.critics import Critic

PAIRED = ("Eyeglasses", "No_Beard", "Smiling", "Wearing_Hat")
STRENGTHS = (0.7, 1.0, 1.4, 2.0)


@dataclass
class Flags(EditFlags):
    faces: int = 100
    validation_faces: int = 20  # Faces on which strengths are chosen.
    seeds: tuple[int, ...] = (0, 1, 2)  # Each draws other examples.
    output_dir: Path = Path("outputs/few_examples")


class Method:
    """A critic for each new attribute, and the critic of the nine others that are held."""

    def __init__(self, critics: dict[str, Critic], nines: dict[str, AttributeCritic]) -> None:
        self.critics, self.nines = critics, nines

    def edit(self, flips: Flips, decoder: latentctl.Decoder, strength: float = 1.0) -> Tensor:
        """Latents after the flips of the new attributes."""
        z = flips.z.clone()
        for name, critic in self.critics.items():
            editor = latentctl.condition(decoder, self.nines[name])
            for wanted, where in ((0, ~critic), (1, critic)):
                rows = (flips.column == ATTRIBUTES.index(name)) & (flips.wanted == wanted)
                if bool(rows.any()):
                    x = flips.repeated[rows]
                    z[rows] = editor.edit(x, where=where, strength=strength).z
        return z

    def score(self, name: str, flips: Flips, z: Tensor) -> Row:
        """Success, leakage and identity, means over the new attributes."""
        found = flips.judge(name, z)["attributes"]
        new = {name: found[name] for name in self.critics}
        keys = ("success", "leakage", "identity")
        row = {key: fmean(one[key] for one in new.values()) for key in keys}
        return {"name": name, **row, "success_of": {k: one["success"] for k, one in new.items()}}

    def measure(self, name: str, decoder: latentctl.Decoder, validation: Flips, test: Flips) -> Row:
        """A row of the table, at the strength that validation allows."""
        start, end = validation.z, self.edit(validation, decoder)
        moved = [torch.lerp(start, end, strength) for strength in STRENGTHS]
        strength = limit([self.score(f"validation, {name}", validation, z) for z in moved])
        columns = torch.tensor([ATTRIBUTES.index(name) for name in self.critics])
        shift = (end - start).flatten(1).norm(dim=1)[torch.isin(validation.column, columns)]
        row = self.score(name, test, self.edit(test, decoder, strength))
        return report({**row, "strength": strength, "shift": shift.mean().item()})


def limit(points: list[Row]) -> float:
    """The strength at which mean leakage or identity reaches its limit, between those tried."""
    allowed = STRENGTHS[-1]
    for key, sign, bound in (("leakage", 1, LEAKAGE), ("identity", -1, 1 - IDENTITY)):
        at, last = 0.0, 0.0
        for strength, point in zip(STRENGTHS, points, strict=True):
            value = point[key] if sign > 0 else 1 - point[key]
            if value > bound:
                share = (bound - last) / (value - last)
                allowed = min(allowed, at + share * (strength - at))
                break
            at, last = strength, value
    return allowed


def draw(column: Tensor, count: int, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Rows of half as many faces with an attribute, and of half without it."""
    random = latentctl.random.generator(seed, purpose=purpose)
    rows = [(column > 0.5).nonzero().flatten(), (column <= 0.5).nonzero().flatten()]
    shuffled = [r[torch.randperm(len(r), generator=random)] for r in rows]
    return shuffled[0][: count // 2], shuffled[1][: count - count // 2]


def draw_pairs(name: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images without and with an attribute, each pair of one person; no person is in two."""
    images, labels, who = load_faces("realigned", (name,))
    random = latentctl.random.generator(seed, purpose=f"pairs {name}")
    pairs: list[tuple[Tensor, Tensor]] = []
    persons = who.unique()
    for person in persons[torch.randperm(len(persons), generator=random)].tolist():
        mine = (who == person).nonzero().flatten()
        mine = mine[torch.randperm(len(mine), generator=random)]
        with_it, without = (mine[labels[mine, 0] > 0.5], mine[labels[mine, 0] <= 0.5])
        if len(with_it) and len(without):
            pairs.append((images[without[0]], images[with_it[0]]))
        if len(pairs) == count:
            break
    before, after = (torch.stack(side) for side in zip(*pairs, strict=True))
    return before, after


def main(flags: Flags) -> None:
    began = time.process_time()
    decoder = face_decoder()
    setting = Setting(flags, decoder, flags.output_dir)
    # the others of CelebA's forty
    thirty_names = sorted(set(columns_of("train")) - {*ATTRIBUTES, "image", "identity"})
    images, labels, _ = load_faces("train", (*ATTRIBUTES, *thirty_names))

    def encoded(x: Tensor) -> latentctl.Latents:
        """Of images and then, in the same order, of their mirror images."""
        return encode(decoder, torch.cat([x, x.flip(-1)]))

    unlabelled = encoded(images)
    z = unlabelled.mean.unflatten(0, (2, len(images)))  # faces, and their mirror images
    latents = unlabelled.with_labels(labels.repeat(2, 1), (*ATTRIBUTES, *thirty_names))

    def fit(names: Sequence[str], steps: int) -> AttributeCritic:
        # as measured: without adversarial moves
        options = {"robustness": 0, "smooth": False, "max_train_steps": steps}
        return AttributeCritic.fit(latents.select(names), **options)

    nines = {n: fit([o for o in ATTRIBUTES if o != n], 400) for n in ATTRIBUTES}
    thirty, ten = fit(thirty_names, 1000), fit(ATTRIBUTES, 1500)

    def spaced(split: str, count: int) -> Flips:
        faces, _, _ = load_faces(split)
        return Flips(setting, faces[:: len(faces) // count][:count])

    validation, test = spaced("validation", flags.validation_faces), spaced("test", flags.faces)

    def few(count: int, seed: int, known: str, **options: float) -> dict[str, Critic]:
        found: dict[str, Critic] = {}
        for column, name in enumerate(ATTRIBUTES):
            kinds = draw(labels[:, column], count, seed, f"examples {name}")
            examples = (z[:, rows].flatten(0, 1) for rows in kinds)
            critic = {"thirty": thirty, "nine": nines[name], "none": None}[known]
            made = ExampleCritic.fit(name, *examples, latents=unlabelled, known=critic, **options)
            found[name] = made[name]
        return found

    def pairs(seed: int) -> dict[str, Critic]:
        found: dict[str, Critic] = {}
        for name in PAIRED:
            sides = (encoded(side).mean for side in draw_pairs(name, 10, seed))
            made = ExampleCritic.from_pairs(name, *sides, latents=unlabelled, known=thirty)
            found[name] = made[name]
        return found

    first = flags.seeds[0]
    methods = {"all labels, AttributeCritic": {n: ten[n] for n in ATTRIBUTES}}
    methods |= {
        f"{n} examples, thirty, seed {s}": few(n, s, "thirty")
        for n in (10, 30, 100)
        for s in flags.seeds
    }
    methods["all labels, four attributes"] = {n: ten[n] for n in PAIRED}
    methods |= {f"10 pairs, thirty, seed {s}": pairs(s) for s in flags.seeds}
    methods["all labels, difference of means"] = few(
        2 * len(labels), first, "none", ridge=float("inf")
    )
    for known, counts in (("nine", (10, 30, 100)), ("none", (10, 100))):
        methods |= {f"{n} examples, {known}, seed {first}": few(n, first, known) for n in counts}
    made = {name: Method(critics, nines) for name, critics in methods.items()}
    rows = [method.measure(name, decoder, validation, test) for name, method in made.items()]
    shown = f"10 examples, thirty, seed {first}"
    strength = next(row["strength"] for row in rows if row["name"] == shown)
    moved = made[shown].edit(test, decoder, strength).unflatten(0, (len(ATTRIBUTES), -1))
    columns = [decode(decoder, z[:8]) for z in (test.faces, *moved)]
    setting.sheet("few_examples", torch.stack(columns, 1), [""] * 8, ["as it is", *ATTRIBUTES])
    result = {"rows": rows, "cpu_seconds": time.process_time() - began}
    write(flags.output_dir / "few_examples.json", result)


if __name__ == "__main__":
    run(main, Flags)

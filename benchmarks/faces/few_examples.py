"""Attributes learned from 10, 30 and 100 labelled faces, or 10 pairs, judged by their edits.

    LATENTCTL_DATA=... python benchmarks/judge.py
    LATENTCTL_DATA=... python benchmarks/few_examples.py

Each of ten attributes is new in turn. Others are held by a critic of the remaining nine. Every edit
is `condition(decoder, nine).edit(x, where=example[name])`, and flips what the judge sees in the
reconstruction. Each method has one strength for all attributes, chosen on validation faces: where
its mean leakage reaches 0.05 or its mean identity 0.75. Success, leakage (share of the other nine
that the judge sees change) and identity (cosine of MobileFaceNet embeddings to the reconstruction)
are then of test faces.

What may be known beforehand: a critic of the thirty CelebA attributes that are not among the ten
(`thirty`), the critic of the nine (`nine`), or nothing but encodings without labels (`none`).
Examples come with their mirror images. Pairs are two photographs of one person, with and without
the attribute: real pairs before and after an edit do not exist.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from latentctl_adapters.pixels.face_networks import FaceEmbedder
from torch import Tensor

import latentctl
from benchmarks.shared.face_base import ATTRIBUTES, data_folder, load_face_vae, load_faces
from benchmarks.shared.face_judge import load_judge
from latentctl import AttributeCritic, ExampleCritic, Latents
from latentctl.critics import Critic
from recipes.support.figures import face_sheet

THIRTY = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Blurry",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
)
PAIRED = ("Eyeglasses", "No_Beard", "Smiling", "Wearing_Hat")
LEAKAGE, IDENTITY = 0.05, 0.75
STRENGTHS = (0.7, 1.0, 1.4, 2.0)
Row = dict[str, Any]


@dataclass
class Flags:
    faces: int = 100
    """Test faces."""
    validation_faces: int = 20
    """Faces on which strengths are chosen."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws other examples."""
    threads: int = 1
    output_dir: Path = Path("outputs/few_examples")


class Bench:
    """Faces of one split, and what the judges see in their reconstructions."""

    def __init__(self, decoder: latentctl.Decoder, split: str, count: int) -> None:
        images, _, _ = load_faces(split)
        chosen = images[:: len(images) // count][:count]
        self.decoder, self.x = decoder, chosen.float() / 255
        self.judge = load_judge()
        weights = data_folder().parent / "weights"
        self.embedder = FaceEmbedder(weights / "mobilefacenet" / "MobileFaceNet.onnx")
        with torch.no_grad():
            self.start = decoder.decode(decoder.encode(self.x).mean)
        self.before, self.who = self.see(self.start)

    @torch.no_grad()
    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = x.clamp(0, 1).split(128)
        seen = torch.cat([self.judge.probability(part) for part in parts])
        return seen, F.normalize(torch.cat([self.embedder(part) for part in parts]), dim=1)

    def flips(
        self, nine: AttributeCritic, critic: Critic, column: int, strength: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Latents before and after the flip of every face."""
        editor = latentctl.condition(self.decoder, nine)
        has = self.before[:, column] > 0.5
        start = torch.empty(len(self.x), *self.decoder.latent_shape)
        end = torch.empty_like(start)
        for rows, where in ((has, ~critic), (~has, critic)):
            if bool(rows.any()):
                out = editor.edit(self.x[rows], where=where, strength=strength)
                start[rows], end[rows] = out.start, out.z
        return start, end

    @torch.no_grad()
    def score(self, z: Tensor, column: int) -> tuple[float, float, float]:
        """Success, leakage and identity of the flips of one attribute."""
        images = torch.cat([self.decoder.decode(part) for part in z.split(128)])
        after, who = self.see(images)
        changed = (after > 0.5) != (self.before > 0.5)
        others = [k for k in range(changed.shape[1]) if k != column]
        leakage = changed[:, others].float().mean().item()
        identity = (who * self.who).sum(1).mean().item()
        return changed[:, column].float().mean().item(), leakage, identity


def limit(points: list[tuple[float, float, float]]) -> float:
    """The strength at which mean leakage or identity reaches its limit, between those tried."""
    allowed = STRENGTHS[-1]
    for place, bound in ((1, LEAKAGE), (2, 1 - IDENTITY)):
        at, last = 0.0, 0.0
        for strength, point in zip(STRENGTHS, points, strict=True):
            value = point[1] if place == 1 else 1 - point[2]
            if value > bound:
                share = (bound - last) / (value - last)
                allowed = min(allowed, at + share * (strength - at))
                break
            at, last = strength, value
    return allowed


def row(
    name: str,
    critics: dict[str, Critic],
    nines: dict[str, AttributeCritic],
    validation: Bench,
    test: Bench,
) -> Row:
    """One method: a critic for each new attribute, at the strength that validation allows."""
    began, places = time.process_time(), {n: ATTRIBUTES.index(n) for n in critics}
    tried, shifts = [], []
    for attribute, critic in critics.items():
        start, end = validation.flips(nines[attribute], critic, places[attribute])
        shifts.append((end - start).flatten(1).norm(dim=1).mean().item())
        moved = [torch.lerp(start, end, strength) for strength in STRENGTHS]
        tried.append([validation.score(z, places[attribute]) for z in moved])
    strength = limit([tuple(p) for p in torch.tensor(tried).mean(0).tolist()])
    found = {}
    for attribute, critic in critics.items():
        _, end = test.flips(nines[attribute], critic, places[attribute], strength)
        found[attribute] = test.score(end, places[attribute])
    success, leakage, identity = torch.tensor(list(found.values())).mean(0).tolist()
    result = {
        "name": name,
        "success": success,
        "leakage": leakage,
        "identity": identity,
        "strength": strength,
        "shift": sum(shifts) / len(shifts),
        "success_of": {attribute: value[0] for attribute, value in found.items()},
    }
    shown = {k: round(v, 3) for k, v in result.items() if isinstance(v, float)}
    print(f"{name:<34}", shown, f"{time.process_time() - began:.0f} s", flush=True)
    return result


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
    torch.set_num_threads(flags.threads)
    began = time.process_time()
    decoder = latentctl.wrap(load_face_vae())
    images, labels, _ = load_faces("train", (*ATTRIBUTES, *THIRTY))

    @torch.no_grad()
    def encoded(x: Tensor) -> Latents:
        """Of images and then, in the same order, of their mirror images."""
        parts = [decoder.encode(p.float() / 255) for p in torch.cat([x, x.flip(-1)]).split(256)]
        return Latents(torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts]))

    unlabelled = encoded(images)
    z = unlabelled.mean.unflatten(0, (2, len(images)))  # faces, and their mirror images
    latents = unlabelled.with_labels(labels.repeat(2, 1), (*ATTRIBUTES, *THIRTY))

    def fit(names: tuple[str, ...], steps: int) -> AttributeCritic:
        return AttributeCritic.fit(latents.select(names), max_train_steps=steps)

    nines = {n: fit(tuple(o for o in ATTRIBUTES if o != n), 400) for n in ATTRIBUTES}
    thirty, ten = fit(THIRTY, 1000), fit(ATTRIBUTES, 1500)
    print(f"critics: {time.process_time() - began:.0f} s", flush=True)
    validation = Bench(decoder, "validation", flags.validation_faces)
    test = Bench(decoder, "test", flags.faces)

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
    rows = [row(name, critics, nines, validation, test) for name, critics in methods.items()]

    flags.output_dir.mkdir(parents=True, exist_ok=True)
    shown = {n: methods[f"10 examples, thirty, seed {first}"][n] for n in ATTRIBUTES}
    strength = next(r["strength"] for r in rows if r["name"].startswith("10 examples, thirty"))
    columns = [test.start[:8]]
    with torch.no_grad():
        for column, (name, critic) in enumerate(shown.items()):
            _, end = test.flips(nines[name], critic, column, strength)
            columns.append(decoder.decode(end[:8]))
    sheet = face_sheet(
        torch.stack(columns, 1).clamp(0, 1), column_labels=["as it is", *shown], scale=1.5
    )
    (flags.output_dir / "few_examples.png").write_bytes(sheet)
    result = {"rows": rows, "cpu_seconds": time.process_time() - began}
    (flags.output_dir / "few_examples.json").write_text(json.dumps(result, indent=2))
    print(f"{result['cpu_seconds']:.0f} s of CPU")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

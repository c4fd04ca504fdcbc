"""Edits of drawn faces that have a right answer: the same person drawn with one attribute changed.

    python -m benchmarks.edits.counterfactual --decoder DIR --seed 0
    python -m benchmarks.edits.counterfactual --decoder DIR --faces 30 --train_faces 2000 \
        --methods ours vectors --critic pack

The second command takes two minutes. `--critic` is `pack`, for the critic that ships, or
a folder of `AttributeCritic.save`; without it one is taught here by networks on pixels (minutes).

Pairs are of test faces of `latentctl_adapters.embedded.counterfactuals`, what is measured is in
`benchmarks/edits/truth.py`. Methods are trained on `--train_faces` drawn faces with labels, half
of them with one to three attributes turned over, as the generator's, or with `--no_turned_over` all
with natural shares. A method with several strengths has the one whose share of the way is best on
pairs of `--validation_faces`, for each attribute its own; vectors stand at three lengths as well.
The seed decides the test and validation faces, and the training of critics and methods; the faces
that they are trained on, of seed 0, are the same for every seed.

Writes `counterfactual-SEED.json`, in which methods measured before in the same setting stay, and
prints the tables of the files that are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters import embedded, residual_vae
from latentctl_adapters.embedded.counterfactuals import counterfactuals
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, Factors, ProceduralFaces
from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import Tensor
from torch.utils.data import TensorDataset

import latentctl
from benchmarks.edits.baselines import Method, along, baselines
from benchmarks.edits.truth import MEASURES, FactorReader, Truth
from benchmarks.embedded.generator import CHUNK, factors_of
from benchmarks.shared.base import encode, unchanged
from benchmarks.shared.run import Row, Seconds, SeededFlags, by_name, read, run, table, write
from latentctl import Actor, Ascent, AttributeCritic, Conditional, Decoder, Latents, Updater
from latentctl.controllers import Controller, amortise
from recipes.support.celeba_attrs.report import attribute_vectors

VECTORS = (1.0, 1.5, 2.0)
SETTINGS = ("faces", "validation_faces", "train_faces", "turned_over", "attributes")


@dataclass
class TeachFlags:
    """Options of `latentctl.teach`."""

    teachers: int = 1
    passes: int = 2
    samples: int = 4_000  # Latents of the first round of distillation.
    samples_per_round: int = 2_000  # Edits of the second round.
    max_train_steps: int = 1_000  # In each round.


@dataclass
class Flags(SeededFlags):
    decoder: str = "drawn-faces"  # Folder of a residual VAE, or name of an adapter.
    critic: str | None = None
    """Folder of a critic, or `pack` for what ships; without it one is taught here."""
    faces: int = 500  # Test faces, each with every attribute turned over.
    validation_faces: int = 20  # Faces on which strengths are chosen.
    train_faces: int = 6_000
    turned_over: bool = True  # Whether half of the training faces have attributes turned over.
    attributes: tuple[str, ...] = ATTRIBUTES  # What is turned over in test faces.
    methods: tuple[str, ...] = ("ours", "vectors", "baselines", "actor", "updater")
    train_steps: int = 1_500  # Of the actors, the updater and the reader of factors.
    teach: TeachFlags = field(default_factory=TeachFlags)
    output_dir: Path = Path("outputs/counterfactual")


class Setting:
    """The decoder, the faces, and what is trained on them, each when it is first used."""

    def __init__(self, flags: Flags) -> None:
        self.flags, self.seconds = flags, Seconds()
        self.decoder = load_decoder(flags.decoder)
        self.names = flags.attributes if self.given is None else self.given.names

    @cached_property
    def given(self) -> AttributeCritic | None:
        """The critic of `--critic`."""
        name = self.flags.critic
        if name is None:
            return None
        return embedded.pack().critic if name == "pack" else AttributeCritic.load(name)

    @cached_property
    def training(self) -> tuple[Tensor, Factors]:
        """Pictures and ground truth of the training faces, which are drawn once to a file."""
        flags = self.flags
        kind = "turned" if flags.turned_over else "natural"
        file = flags.output_dir / f"train-{kind}-{flags.train_faces}.pt"
        if not file.exists():
            people = ProceduralFaces.split("train", flags.train_faces)
            factors = people.factors(0, len(people))
            if flags.turned_over:
                factors = turned_over_faces(people)
            torch.save((people.draw(factors), factors.identity, factors.attributes), file)
        images, *factors = torch.load(file)
        return images, Factors(*factors)

    @cached_property
    def labels(self) -> Tensor:
        return self.training[1].attributes[:, [ATTRIBUTES.index(name) for name in self.names]]

    @cached_property
    def latents(self) -> Latents:
        """Encodings of the training faces with their labels."""
        return encode(self.decoder, self.training[0], self.labels, self.names)

    @cached_property
    def student(self) -> AttributeCritic:
        """The critic that was given, or one taught by a network on pixels."""
        if self.given is not None:
            return self.given
        return self.seconds.measure("critic", self.taught)

    def taught(self) -> AttributeCritic:
        flags = self.flags
        return latentctl.teach(
            self.decoder,
            TensorDataset(self.training[0], self.labels),
            self.names,
            latents=self.latents,
            network=PixelClassifier.fit,
            seed=flags.seed,
            **vars(flags.teach),
        ).critic

    @cached_property
    def reader(self) -> FactorReader:
        images, factors = self.training
        truth = torch.cat([factors.identity, factors.attributes], 1)
        return FactorReader(
            self.decoder,
            images,
            truth,
            100 + self.flags.seed,
            max_train_steps=self.flags.train_steps,
        )

    def pairs(self, split: str, count: int) -> list[Any]:
        """The pairs of a split, which are drawn once to files."""
        seed = self.flags.seed
        folder = self.flags.output_dir / f"{split}-{count}-{seed}"
        folder.mkdir(exist_ok=True)
        people, images, found = ProceduralFaces.split(split, count, seed), None, []
        for name in (name for name in self.names if name in self.flags.attributes):
            file = folder / f"{name}.pt"
            if not file.exists():
                images = people.images(0, count) if images is None else images
                torch.save(counterfactuals(people, name, images=images), file)
            found.append(torch.load(file, weights_only=False))
        return found

    def truth(self, split: str, count: int, reader: FactorReader | None = None) -> Truth:
        return Truth(self.decoder, self.pairs(split, count), self.names, reader)


def load_decoder(name: str) -> Decoder:
    """A residual VAE of a folder, or the decoder of an adapter."""
    if Path(name).is_dir():
        return residual_vae.load(pretrained_model_name_or_path=name)
    return latentctl.load(name)


def turned_over_faces(people: ProceduralFaces) -> Factors:
    """The faces that the generator was trained on, of which every second chunk is turned over."""
    sizes = [min(CHUNK, len(people) - start) for start in range(0, len(people), CHUNK)]
    parts = [factors_of(people, number * CHUNK, size) for number, size in enumerate(sizes)]
    return Factors(
        torch.cat([part.identity for part in parts]), torch.cat([part.attributes for part in parts])
    )


def moved_by(name: str, controller: Controller) -> Method:
    """A controller as a method of one strength."""
    return Method(name, (1.0,), lambda asked, _: controller.move(asked.z, asked.request).z)


def ours(setting: Setting) -> list[Method]:
    """The editor of the pack with `--critic pack`, and the default editor of the critic."""
    found = {"ours": latentctl.condition(setting.decoder, setting.student)}
    if setting.flags.critic == "pack":
        found["ours, editor of the pack"] = embedded.pack()
    return [by_edits(name, faces) for name, faces in found.items()]


def by_edits(name: str, faces: Conditional) -> Method:
    """`Conditional.edit` with its defaults as a method of one strength."""
    return Method(name, (1.0,), lambda asked, _: faces.edit(Latents(asked.z), y=asked.target).z)


def vectors(setting: Setting) -> list[Method]:
    directions = attribute_vectors(setting.latents)
    return [along(f"vectors x{strength:g}", directions, (strength,)) for strength in VECTORS]


def others(setting: Setting) -> list[Method]:
    """SVM, LEACE, LACE's ODE, ascent on a critic of labels, and vectors of any length."""
    return setting.seconds.measure("baselines", baselines, setting.latents, setting.flags.seed)


def actor(setting: Setting) -> list[Method]:
    flags, student = setting.flags, setting.student
    common = {"max_train_steps": flags.train_steps, "seed": flags.seed}
    ascent = Ascent.for_edits(student)
    amortised = setting.seconds.measure(
        "actor of edits", amortise, ascent, setting.latents, width=512, **common
    )
    common |= {"attributes": student, "attribute_weight": 0.3, "distance_weight": 0.1}
    played = setting.seconds.measure("actor", Actor.fit, setting.latents, **common)
    return [moved_by("actor, amortised edits", amortised), moved_by("actor, adversarial", played)]


def updater(setting: Setting) -> list[Method]:
    flags, student = setting.flags, setting.student
    fitted = setting.seconds.measure(
        "updater",
        Updater.fit,
        setting.latents,
        teacher=Ascent.for_edits(student),
        attributes=student,
        max_train_steps=flags.train_steps,
        seed=flags.seed,
    )
    return [moved_by("updater", fitted)]


METHODS: dict[str, Callable[[Setting], list[Method]]] = {
    "ours": ours,
    "vectors": vectors,
    "baselines": others,
    "actor": actor,
    "updater": updater,
}


def best_strengths(validation: Truth, method: Method) -> Tensor:
    """For each attribute the strength whose share of the way is best on validation faces."""
    rows = [
        validation.measure(f"  validation, {method.name} {s:g}", method.move(validation, s))
        for s in method.strengths
    ]
    shares = torch.tensor([[row["by"][n]["share"] for n in validation.names] for row in rows])
    return torch.tensor(list(method.strengths))[shares.argmax(0)]


def edited(test: Truth, method: Method, strengths: Tensor) -> Tensor:
    """Edits, each attribute at its own strength."""
    out = test.z.clone()
    for strength in strengths.unique().tolist():
        mine = strengths[test.number] == strength
        out[mine] = method.move(test.part(mine), strength)
    return out


def main(flags: Flags) -> None:
    setting, file = Setting(flags), flags.output_dir / f"counterfactual-{flags.seed}.json"
    settings = {key: str(getattr(flags, key)) for key in SETTINGS}
    settings["decoder"] = setting.decoder.fingerprint()
    before = json.loads(file.read_text()) if file.exists() else {}
    rows = before["rows"] if before.get("settings") == settings else {}
    result = {"seed": flags.seed, "settings": settings, "rows": rows}
    with unchanged(setting.decoder):
        test = setting.truth("test", flags.faces, setting.reader)
        rows["best"] = test.measure("reconstruction of the truth", test.bound)
        validation = None
        for method in (m for name in flags.methods for m in METHODS[name](setting)):
            if len(method.strengths) == 1:
                strengths = torch.full((len(test.names),), method.strengths[0])
            else:
                validation = validation or setting.truth("validation", flags.validation_faces)
                strengths = best_strengths(validation, method)
            row = test.measure(method.name, edited(test, method, strengths))
            rows[method.name] = {**row, "strengths": strengths.tolist()}
            write(file, {**result, "cpu_seconds": setting.seconds})
    print(tables(flags.output_dir))


def tables(folder: Path) -> str:
    """All runs of a folder as two tables: the measures, and the share for each attribute."""
    runs = [list(run["rows"].values()) for run in read(folder, "counterfactual-*.json")]
    names = list(runs[0][0]["by"])
    shares: list[list[Row]] = [
        [{"name": row["name"], **{n: row["by"][n]["share"] for n in names}} for row in rows]
        for rows in runs
    ]
    titles = {"name": "", **{key: key for key in MEASURES}}
    return f"{table(by_name(runs), titles)}\n\n{table(by_name(shares))}"


if __name__ == "__main__":
    run(main, Flags)

"""Train what ships beside the generator of drawn faces: a judge, an evaluator and the pack.

    python -m benchmarks.embedded.generator
    python -m benchmarks.embedded.pack
    python -m benchmarks.embedded.pack --parts doses
    python -m benchmarks.embedded.pack --parts measure --seed 1

`--output_dir` gets everything, and the package a copy. All are trained on the faces that the
generator was trained on (`faces.bin` of `--generator`), half of them with attributes turned over,
and measured on unseen faces of the natural shares. The judge sees original faces alone, and no
method uses it. The critic and the evaluator come from `latentctl.teach`. Weights are saved in half
precision; `README.md` beside them has the figures. The last two commands take minutes and train
nothing: one adds two files to the pack in the package, the other measures what ships on the faces
of another seed.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from latentctl_adapters import embedded, residual_vae
from latentctl_adapters.embedded.counterfactuals import turned
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, Factors, ProceduralFaces
from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import latentctl
from benchmarks.embedded.generator import CHUNK, decibels, drawn, factors_of
from benchmarks.shared.run import Seconds, SeededFlags, run, write
from latentctl import AttributeCritic, Conditional, Decoder, FlowMatching, Latents
from latentctl.conditional import calibrate
from latentctl.conditional.response import tensors_of
from latentctl.conditional.threshold import choose_threshold
from latentctl.controllers import FlowEdit
from latentctl.evaluation import (
    dose_response,
    edit_scores,
    frechet_distance,
    identity,
    multilabel_scores,
)
from latentctl.storage import load_folder, save_folder
from recipes.support.faces import PAPER_ATTRIBUTES as FLIPPED

EDITED = 40  # faces whose attributes are flipped
JUDGE = {"model_name": "resnet18", "model_options": {"channels": (32, 64, 96, 128)}}


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/embedded")
    generator: Path = Path("outputs/drawn_faces")  # The folder of `benchmarks.embedded.generator`.
    faces: int = 120_000  # Faces in `faces.bin` there.
    network_faces: int = 20_000  # Faces that the networks are trained on.
    latents: int = 60_000  # Faces that are encoded.
    passes: int = 2  # Of the networks of `teach`; the judge has twice as many.
    parts: tuple[str, ...] = ("judge", "critic", "flow", "pack", "install", "doses")
    """What is made; `install` copies everything into the package and measures it there; `doses`
    adds the dose-response and the guarantee to the pack there, and changes nothing else;
    `measure` measures what ships."""
    critic_train_steps: int = 2500
    flow_steps: int = 4000


def main(flags: Flags) -> None:
    seconds, folder = Seconds(), flags.output_dir
    if flags.parts == ("doses",):
        add_doses(embedded.WEIGHTS / "pack", flags.seed)
        return
    if flags.parts == ("measure",):
        figures = measured(flags.seed)
        write(folder / f"figures-{flags.seed}.json", figures)
        print(json.dumps(figures, indent=1))
        return
    images = drawn(flags.generator / "faces.bin", flags.faces, flags.seed)
    labels = labels_of(flags.faces, flags.seed)
    # a stride through both kinds of chunks
    rows = torch.arange(0, flags.faces, flags.faces // flags.network_faces)[: flags.network_faces]
    data = images[rows], labels[rows]
    if "judge" in flags.parts:
        options = {"epochs": 2 * flags.passes, "seed": flags.seed + 50, **JUDGE}
        judge = seconds.measure("judge", PixelClassifier.fit, *data, ATTRIBUTES, **options)
        judge.half().save_pretrained(folder / "judge")
    if {"critic", "flow", "pack"} & {*flags.parts}:
        network = residual_vae.ResidualVAE.from_pretrained(flags.generator / "model")
        network.half().save_pretrained(folder / "generator")
        decoder = residual_vae.load(pretrained_model_name_or_path=folder / "generator")
    if {"critic", "flow"} & {*flags.parts}:
        latents = seconds.measure("encode", encoded, decoder, images, labels, flags.latents)
    if "critic" in flags.parts:
        teach(decoder, latents, TensorDataset(*data), flags, seconds)
    if "flow" in flags.parts:
        steps = {"max_train_steps": flags.flow_steps, "seed": flags.seed}
        flow = seconds.measure("flow", FlowMatching.fit, latents, **steps)
        flow.half().save(folder / "flow")
    if "pack" in flags.parts:
        pack(decoder, flags)
    if "install" in flags.parts:
        for part in ("generator", "judge", "evaluator", "pack"):
            shutil.rmtree(embedded.WEIGHTS / part, ignore_errors=True)
            shutil.copytree(folder / part, embedded.WEIGHTS / part)
        figures = measured(flags.seed)
        write(embedded.WEIGHTS / "figures.json", figures)
        print(json.dumps(figures, indent=1))
    if "doses" in flags.parts:
        add_doses(embedded.WEIGHTS / "pack", flags.seed)
    write(folder / f"seconds-{'-'.join(flags.parts)}.json", seconds)


def teach(
    decoder: Decoder, latents: Latents, data: TensorDataset, flags: Flags, seconds: Seconds
) -> None:
    """Writes the critic and the evaluator."""
    critic, evaluator = seconds.measure(
        "teach",
        latentctl.teach,
        decoder,
        data,
        ATTRIBUTES,
        latents=latents,
        teachers=0,
        max_train_samples=len(data),
        passes=flags.passes,
        max_train_steps=flags.critic_train_steps,
        seed=flags.seed,
    )
    critic.half().save(flags.output_dir / "critic")
    folded(evaluator).half().save_pretrained(flags.output_dir / "evaluator")


def pack(decoder: Decoder, flags: Flags) -> None:
    """Writes the pack, with the threshold of the evaluator for its edits."""
    folder = flags.output_dir
    critic = AttributeCritic.load(folder / "critic")
    flow = FlowMatching.load(folder / "flow")
    evaluator = latentctl.PixelCritic(
        decoder, PixelClassifier.from_pretrained(folder / "evaluator"), names=ATTRIBUTES
    )
    parts = {"editor": FlowEdit(critic, flow), "evaluator": evaluator}
    faces = latentctl.condition(decoder, critic, flow, **parts)
    unseen = ProceduralFaces.split("validation", 200, flags.seed).tensors()[0].float() / 255
    edited = Latents(decoder.encode(unseen, batch_size=100).mean)
    evaluator.threshold = choose_threshold(faces, edited, seed=flags.seed)
    faces = latentctl.condition(decoder, critic, flow, **parts)
    critic.half()
    flow.half()
    faces.save_pretrained(folder / "pack")


def add_doses(folder: Path, seed: int) -> None:
    """Adds the dose-response and the guarantee of the pack that ships, on validation faces."""
    faces, (tensors, state) = embedded.pack(), load_folder(folder)
    faces.guarantee = None
    judge = latentctl.PixelCritic(faces.decoder, embedded.judge(), names=faces.names)
    # those of `seed` chose the threshold
    images = ProceduralFaces.split("validation", 900, seed + 1).images(0, 900).float() / 255
    edited = Latents(faces.decoder.encode(images, batch_size=100).mean)
    guarantee = calibrate(faces, edited, judge, seed=seed)
    doses = dose_response(faces, edited[:30])
    tensors |= {"doses": tensors_of(doses), "guarantee": guarantee.tensors()}
    save_folder(folder, tensors, state)
    print(guarantee, *(one.row for one in doses), sep="\n")


def labels_of(count: int, seed: int) -> Tensor:
    """The attributes of the training faces, `(count, 15)`."""
    people = ProceduralFaces.split("train", count, seed)
    parts = [
        factors_of(people, start, min(CHUNK, count - start)).attributes
        for start in range(0, count, CHUNK)
    ]
    return torch.cat(parts)


@torch.no_grad()
def encoded(decoder: Decoder, images: Tensor, labels: Tensor, count: int) -> Latents:
    """Encodings of faces, half of them mirrored."""
    rows = torch.arange(0, len(images), max(1, len(images) // count))[:count]
    means, stds = [], []
    for number, part in enumerate(rows.split(256)):
        x = images[part].float() / 255
        posterior = decoder.encode(x.flip(-1) if number % 2 else x)
        means.append(posterior.mean)
        stds.append(posterior.std)
    return Latents(torch.cat(means), torch.cat(stds), labels[rows], ATTRIBUTES)


def folded(evaluator: latentctl.PixelCritic) -> PixelClassifier:
    """The network of an evaluator, with its calibration in the last layer."""
    network: PixelClassifier = copy.deepcopy(evaluator.networks[0])
    last: nn.Linear = network.net.get_classifier()
    with torch.no_grad():
        last.weight.mul_(evaluator.scale[:, None])
        last.bias.mul_(evaluator.scale).add_(evaluator.bias)
    return network


@torch.no_grad()
def measured(seed: int) -> dict[str, float]:
    """What ships, loaded as a user loads it, on 1,000 unseen faces of the natural shares."""
    faces, judge = embedded.pack(), embedded.judge()
    decoder = faces.decoder
    images, labels = ProceduralFaces.split("test", 1000, seed).tensors()
    x = images.float() / 255
    z = decoder.encode(x, batch_size=100).mean
    y = decoder.decode(z, batch_size=100)
    found = {"psnr": decibels((y - x).square().mean())}

    def seen(pictures: Tensor) -> tuple[Tensor, Tensor]:
        parts = pictures.clamp(0, 1).split(100)
        probability = torch.cat([judge.probability(part) for part in parts])
        return probability, torch.cat([judge.features(part) for part in parts])

    for name, pictures in (("originals", x), ("reconstructions", y)):
        scores = multilabel_scores(seen(pictures)[0], labels)
        found[f"judge_accuracy_{name}"] = scores.accuracy
        found[f"judge_f1_{name}"] = scores.f1
        reader = faces.evaluator.score_samples(pictures).sigmoid()
        found[f"evaluator_accuracy_{name}"] = multilabel_scores(reader, labels).accuracy
    real = seen(x)[1]
    others = ProceduralFaces.split("validation", 1000, seed).images(0, 1000).float() / 255
    samples = faces.sample(1000, y=labels, seed=seed)
    found["frechet_reconstructions"] = frechet_distance(seen(y)[1], real)
    others = decoder.decode(decoder.encode(others, batch_size=100).mean, batch_size=100)
    found["frechet_other_people"] = frechet_distance(seen(others)[1], real)
    found["frechet_samples"] = frechet_distance(seen(samples.x)[1], real)
    found["sample_accuracy"] = multilabel_scores(seen(samples.x)[0], labels).accuracy
    return found | edits(faces, judge, ProceduralFaces.split("test", EDITED, seed))


def edited(
    decoder: Decoder, judge: PixelClassifier, x: Tensor, edit: Callable[[str, Tensor], Tensor]
) -> dict[str, float]:
    """Success of each attribute flipped from the judge's value, and means of the others' figures.

    Identity is the cosine of the judge's features to the reconstruction's. `edit` has the name and
    the new values `(B,)`, and returns images.
    """
    start = decoder.decode(decoder.encode(x).mean)
    before, features = judge.probability(start), judge.features(start)
    found, rows = {}, []
    for name in FLIPPED:
        column = ATTRIBUTES.index(name)
        target = torch.full_like(before, torch.nan)
        target[:, column] = (before[:, column] <= 0.5).float()
        images = edit(name, target[:, column])
        scores = edit_scores(before, judge.probability(images), target)
        same = identity(features, judge.features(images)).mean().item()
        found[name] = scores.success
        rows.append((scores.success, scores.leakage, same))
    means = torch.tensor(rows).mean(0).tolist()
    return dict(zip(("success", "leakage", "identity"), means, strict=True)) | found


def edits(faces: Conditional, judge: PixelClassifier, people: ProceduralFaces) -> dict[str, float]:
    """Figures of the pack's edits of people, and of the truth, reconstructed."""
    decoder, factors = faces.decoder, people.factors(0, len(people))
    x = people.draw(factors).float() / 255

    def packed(name: str, wanted: Tensor) -> Tensor:
        target = torch.full((len(x), len(faces.names)), torch.nan)
        target[:, faces.names.index(name)] = wanted
        return faces.edit(x, y=target).x

    def truth(name: str, wanted: Tensor) -> Tensor:
        new, old = (turned(factors.attributes, name, value) for value in (True, False))
        drawn = people.draw(Factors(factors.identity, torch.where(wanted[:, None] > 0.5, new, old)))
        return decoder.decode(decoder.encode(drawn.float() / 255).mean)

    found = {}
    for title, edit in (("edits", packed), ("truth", truth)):
        figures = edited(decoder, judge, x, edit)
        found |= {f"{title}_{key}": value for key, value in figures.items()}
    return found


if __name__ == "__main__":
    run(main, Flags)

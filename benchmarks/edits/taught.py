"""Real faces by one call of `latentctl.teach` with its defaults, and the default edits.

    LATENTCTL_DATA=... python -m benchmarks.edits.taught --seed 0

The frozen face VAE, its 22,504 labelled training faces, of which `teach` reads at most 20,000, and
fifteen attributes: the ten of `benchmarks.edits.run`, and five that nobody tuned for. A judge of
another architecture is trained on the originals and used by no method. Every attribute of some test
faces is flipped, one at a time, from what the judge sees in the reconstruction, by
`latentctl.condition(decoder, critic, evaluator=evaluator).edit(...)`. Attribute vectors stand
beside.

Success: the judge sees the flip. Leakage: share of the other attributes that the judge sees change,
of all and of those that are not tied to the flipped one. Identity: cosine of MobileFaceNet
embeddings to the reconstruction. `agreement`: the judge's with the receipt's "satisfied", and as a
share of its accuracy on the labels of the test photographs.

Writes the judge, what is taught for each seed, and `taught-SEED.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.pixels.classifier import PixelClassifier
from latentctl_adapters.pixels.face_networks import FaceEmbedder
from torch import Tensor
from torch.utils.data import TensorDataset

import latentctl
from benchmarks.edits.holds import FIFTEEN, OTHERS, Flips, judged
from benchmarks.embedded.pack import folded
from benchmarks.shared.base import BATCH, decode, encode, pixels, weights_file
from benchmarks.shared.face_base import ATTRIBUTES, face_decoder, load_faces
from benchmarks.shared.run import Row, SeededFlags, report, run, write
from latentctl import AttributeCritic, Conditional, Decoder, Latents, PixelCritic
from latentctl.critics.ties import tied_to
from latentctl.evaluation import multilabel_scores
from recipes.support.celeba_attrs.report import attribute_vectors

GROUPS = {"all fifteen": FIFTEEN, "the ten": ATTRIBUTES, "the five others": OTHERS}
HOLDS: tuple[Any, ...] = ("untied", True)
VECTORS, VECTOR_FACES = (1.0, 1.5), 5000
JUDGE: dict[str, Any] = {
    "model_name": "resnet10t",
    "model_options": {"channels": (32, 64, 128, 224), "act_layer": "gelu", "stem_type": "plain"},
}
Figures = dict[str, Tensor]


@dataclass
class Flags(SeededFlags):
    faces: int = 100  # Test faces, each with every attribute flipped.
    max_train_samples: int = 20_000  # Of `teach`.
    judge_epochs: int = 8  # With 3 it never sees a bald head.
    output_dir: Path = Path("outputs/taught")


def main(flags: Flags) -> None:
    decoder = face_decoder()
    parts = [load_faces(split, FIFTEEN) for split in ("train", "realigned")]
    images, labels = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    judge = judge_of(images, labels, flags)
    faces, cost = taught(decoder, TensorDataset(images, labels), flags)
    with torch.no_grad():
        found = measured(faces, judge, images, labels, flags.faces)
    write(flags.output_dir / f"taught-{flags.seed}.json", {**cost, **found})


def judge_of(images: Tensor, labels: Tensor, flags: Flags) -> PixelClassifier:
    """A network on originals, of another architecture than those of `teach`, trained once."""
    folder = flags.output_dir / "judge"
    if not folder.exists():
        options: Any = {"epochs": flags.judge_epochs, "seed": 77, **JUDGE}
        PixelClassifier.fit(images, labels, FIFTEEN, **options).save_pretrained(folder)
    return PixelClassifier.from_pretrained(folder)


def taught(
    decoder: Decoder, data: TensorDataset, flags: Flags
) -> tuple[Conditional, dict[str, float]]:
    """What one call of `teach` makes, and its minutes; what is there already is read."""
    folder = flags.output_dir / f"taught-{flags.seed}"
    if not folder.exists():
        cpu, wall = time.process_time(), time.perf_counter()
        made, judges = latentctl.teach(
            decoder,
            data,
            FIFTEEN,
            max_train_samples=flags.max_train_samples,
            seed=flags.seed,
            output_dir=flags.output_dir / f"teach-{flags.seed}",
        )
        seconds = {"CPU": time.process_time() - cpu, "clock": time.perf_counter() - wall}
        cost = {f"minutes, {key}": value / 60 for key, value in seconds.items()}
        made.save(folder / "critic")
        folded(judges).save_pretrained(folder / "evaluator")
        write(
            folder / "cost.json", report({"name": "teach", **cost, "threshold": judges.threshold})
        )
    critic = AttributeCritic.load(folder / "critic")
    network = PixelClassifier.from_pretrained(folder / "evaluator")
    evaluator = PixelCritic(decoder, network, names=FIFTEEN)
    cost = json.loads((folder / "cost.json").read_text())
    evaluator.threshold = cost["threshold"]
    return latentctl.condition(decoder, critic, evaluator=evaluator), cost


def measured(
    faces: Conditional, judge: PixelClassifier, images: Tensor, labels: Tensor, count: int
) -> dict[str, Any]:
    """Rows of the edits of the first test faces, by group of attributes."""
    decoder = faces.decoder
    test, truth, _ = load_faces("test", FIFTEEN)
    known = multilabel_scores(
        torch.cat([judge.probability(pixels(part)) for part in test.split(BATCH)]),
        truth,
        names=FIFTEEN,
    )
    accuracy = {name: known.per_attribute[name].accuracy for name in FIFTEEN}
    z = encode(decoder, test).mean
    redrawn = multilabel_scores(judged(decoder, judge)(z), truth).accuracy
    print(f"The judge: accuracy {known.accuracy:.3f} on photographs, {redrawn:.3f} on theirs drawn")
    flips = Flips(faces.critic, z[:count], judged(decoder, judge))
    embed = embedder(decoder)
    same = embed(z[:count]).repeat(len(FIFTEEN), 1)
    some = slice(VECTOR_FACES)
    directions = attribute_vectors(encode(decoder, images[some], labels[some], FIFTEEN))
    rows = []
    for name, (edited, claimed) in ways(faces, flips, directions).items():
        figures = figures_of(flips, edited, faces.critic.ties)
        figures["identity"] = (embed(edited) * same).sum(1)
        rows += [summary(name, group, figures, claimed, accuracy) for group in GROUPS]
    return {
        "threshold": faces.threshold,
        "ties": [str(tie) for tie in faces.critic.ties or ()],
        "judge_accuracy": {"photographs": known.accuracy, "reconstructions": redrawn, **accuracy},
        "rows": rows,
    }


def ways(
    faces: Conditional, flips: Flips, directions: Tensor
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Edited latents by name, and what the receipts call satisfied."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for hold in HOLDS:
        pairs = zip(flips.z.split(BATCH), flips.target.split(BATCH), strict=True)
        parts = [faces.edit(Latents(z), y=target, hold=hold) for z, target in pairs]
        satisfied = torch.cat([part.satisfied for part in parts])
        found[f"hold={hold!r}"] = torch.cat([part.z for part in parts]), satisfied
    sign = torch.nan_to_num(2 * flips.target - 1)
    for strength in VECTORS:
        moved = flips.z + strength * (sign @ directions.flatten(1))
        found[f"attribute vectors x{strength:g}"] = moved, None
    return found


def embedder(decoder: Decoder) -> Callable[[Tensor], Tensor]:
    """Embeddings of length 1 of decoded latents."""
    net = FaceEmbedder(weights_file("mobilefacenet/MobileFaceNet.onnx"))
    return lambda z: torch.cat([net(decode(decoder, part)) for part in z.split(BATCH)])


def figures_of(flips: Flips, z: Tensor, ties: Any) -> Figures:
    """Of each edit, `(K * faces,)`: whether it succeeds, and what of the rest has changed."""
    found = flips.see(z)
    changed = ((found > 0.5) != (flips.before > 0.5)) & ~flips.asked
    tied = tied_to(flips.asked, ties, flips.names)
    ten = torch.tensor([name in ATTRIBUTES for name in flips.names])
    return {
        "success": (flips.of_column(found).round() == flips.wanted).float(),
        "leakage": share(changed, ~flips.asked),
        "leakage, untied": share(changed, ~flips.asked & ~tied),
        "leakage, of the ten": share(changed, ~flips.asked & ten),
        "shift": (z - flips.z).square().mean(1).sqrt(),
    }


def share(changed: Tensor, among: Tensor) -> Tensor:
    """The share of some attributes that have changed, `(N,)`."""
    return (changed & among).sum(1) / among.sum(1)


def summary(
    name: str, group: str, figures: Figures, claimed: Tensor | None, accuracy: dict[str, float]
) -> Row:
    """Means over the flips of a group of attributes, its worst one, and how true receipts are."""
    each = {key: value.view(len(FIFTEEN), -1) for key, value in figures.items()}
    chosen = torch.tensor([FIFTEEN.index(attribute) for attribute in GROUPS[group]])
    row: Row = {"name": f"{name}, {group}"}
    row |= {key: value[chosen].mean().item() for key, value in each.items()}
    row["worst"] = each["success"][chosen].mean(1).min().item()
    if claimed is not None:
        some = claimed.view(len(FIFTEEN), -1)[chosen]
        agreement = each["success"][chosen][some].mean().item()
        right = sum(accuracy[attribute] for attribute in GROUPS[group]) / len(chosen)
        row |= {"satisfied": some.float().mean().item(), "agreement": agreement}
        row["of its accuracy"] = agreement / right
    means = zip(*(value[chosen].mean(1).tolist() for value in each.values()), strict=True)
    row["attributes"] = dict(
        zip(GROUPS[group], (dict(zip(each, m, strict=True)) for m in means), strict=True)
    )
    return report(row)


if __name__ == "__main__":
    run(main, Flags)

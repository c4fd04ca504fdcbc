"""Real faces by a pipeline on latents of a tiny autoencoder: round trips, samples and edits.

    LATENTCTL_DATA=... python -m benchmarks.diffusion.faces --part data
    accelerate launch recipes/pretrain_diffusion.py --train_data_dir outputs/diffusion-faces/data \
        --decoder benchmarks/edits/taef2_model.py:wrap_taef2 --channels 64 128 \
        --diffusion_learning_rate 1e-3 --diffusion_train_steps 7000 \
        --output_dir outputs/diffusion-faces
    LATENTCTL_DATA=... python -m benchmarks.edits.taught --seed 0
    LATENTCTL_DATA=... python -m benchmarks.diffusion.faces --seeds 0 1 2

`data` writes the images of the two training sets as one. The pipeline has no condition; the
networks that steer it are those that `latentctl.teach` trained on the labelled training faces for
the face VAE of `benchmarks.edits.taught`, on its reconstructions; the evaluator is calibrated on
photographs here. The judge is another network, of another architecture, that nothing follows: the
one of `benchmarks.edits.taught`.

- Round trips: mean squared error of test faces inverted and drawn again, in [0, 1]; against what
  the autoencoder alone makes of them, and against the photographs.
- Samples: all ten attributes as in the labels of a test face. Accuracy by the judge; the Frechet
  distance in its features is to as many test faces.
- Edits: each of ten attributes of some test faces, flipped, with the default `hold`. Leakage of all
  other attributes and of those that are not tied; identity is the cosine of MobileFaceNet
  embeddings to the round trip of the same face.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import Tensor
from torch.utils.data import TensorDataset

import latentctl
from benchmarks.edits import taught
from benchmarks.edits.holds import Flips, judged
from benchmarks.edits.taef2_model import wrap_taef2
from benchmarks.shared.base import BATCH, pixels
from benchmarks.shared.face_base import ATTRIBUTES, load_faces
from benchmarks.shared.run import BaseFlags, Row, by_name, read, report, run, table, timed, write
from latentctl import Conditional, Decoder, Latents, PixelCritic
from latentctl.critics.ties import find_ties, tied_to
from latentctl.display.picture import grid, png
from latentctl.evaluation import frechet_distance, multilabel_scores
from latentctl.latents import shared_pattern, typicality

CLOSE = 1e-3  # mean square of a round trip
TYPICAL = 0.01  # p-value of a noise that is like one
SHOWN = 8  # faces of a picture


@dataclass
class Flags(BaseFlags):
    part: Literal["data", "measure"] = "measure"
    steps: int = 4  # Of the sampler.
    seeds: tuple[int, ...] = (0,)
    faces: int = 20  # Test faces of a seed that are edited.
    samples: int = 100  # Samples of a seed.
    judge_epochs: int = 8  # Of its training, if it is not in `judge/`.
    max_train_samples: int = 20_000  # Of `teach`.
    teach_dir: Path = Path("outputs/taught/teach-0")
    """Its networks: those of `benchmarks.edits.taught` by default; trained if it is empty."""
    output_dir: Path = Path("outputs/diffusion-faces")


def main(flags: Flags) -> None:
    if flags.part == "data":
        write_images(flags.output_dir / "data")
        return
    vae = wrap_taef2()
    where = {"pretrained_model_name_or_path": flags.output_dir / "pipeline"}
    decoder = latentctl.load(
        "diffusers-pipeline", **where, steps=flags.steps, vae=vae, checkpointing=False
    )
    images, labels = training_faces()
    judge = taught.judge_of(*training_faces(taught.FIFTEEN), flags).select(ATTRIBUTES)
    critic, evaluator = networks(decoder, images, labels, flags)
    faces = latentctl.condition(decoder, critic, evaluator=evaluator)
    for seed in flags.seeds:
        x, y, _ = load_faces("test")
        start = seed * max(flags.faces, flags.samples)
        some = pixels(x[start : start + flags.faces])
        trips, z = round_trips(faces, vae, some)
        found = {
            "trips": trips,
            "samples": samples(faces, judge, x, y, start, flags, seed),
            "edits": edits(faces, judge, z, labels, flags.output_dir / f"edits-{seed}.png"),
        }
        write(flags.output_dir / f"faces-{seed}.json", found)
    for part in ("trips", "samples", "edits"):
        print(table(by_name(r[part] for r in read(flags.output_dir, "faces-*.json"))), "\n")


def training_faces(names: Any = ATTRIBUTES) -> tuple[Tensor, Tensor]:
    parts = [load_faces(split, names) for split in ("train", "realigned")]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def write_images(folder: Path) -> None:
    """The training faces as a parquet file, and the test faces, which the recipe counts alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", training_faces()[0]), ("test", load_faces("test")[0])):
        rows = {"image": [image.permute(1, 2, 0).numpy() for image in images]}
        features = datasets.Features({"image": datasets.Image()})
        made = datasets.Dataset.from_dict(rows, features=features)
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def networks(
    decoder: Decoder, images: Tensor, labels: Tensor, flags: Flags
) -> tuple[PixelCritic, PixelCritic]:
    """What `teach` makes; its networks are read where they were trained before."""
    made = latentctl.teach(
        decoder,
        TensorDataset(images, labels),
        ATTRIBUTES,
        max_train_samples=flags.max_train_samples,
        output_dir=flags.teach_dir,
        resume_from_checkpoint="latest",
    )
    print(f"The threshold of the evaluator is {made.evaluator.threshold}.")
    assert isinstance(made.critic, PixelCritic)
    return made.critic, made.evaluator


@torch.no_grad()
def round_trips(faces: Conditional, vae: Decoder, x: Tensor) -> tuple[list[Row], Tensor]:
    decoder = faces.decoder
    own = decoder.decode(decoder.prior.sample(len(x), seed=1), batch_size=BATCH)
    alone = vae.decode(vae.encode(x).mean)
    rows = []
    for name, start, target in (
        ("test faces, to the autoencoder's", x, alone),
        ("test faces, to the photographs", x, x),
        ("own samples", own, own),
    ):
        z = decoder.encode(start, batch_size=BATCH).mean
        error = (decoder.decode(z, batch_size=BATCH) - target).flatten(1).square().mean(1)
        row: Row = {
            "name": name,
            "median error": error.median().item(),
            "within 0.001": (error <= CLOSE).float().mean().item(),
            "typical": (typicality(z) >= TYPICAL).float().mean().item(),
        }
        rows.append(report(row))
    return rows, decoder.encode(x, batch_size=BATCH).mean


def samples(
    faces: Conditional,
    judge: PixelClassifier,
    x: Tensor,
    y: Tensor,
    start: int,
    flags: Flags,
    seed: int,
) -> list[Row]:
    """Samples of the pipeline, and those with the attributes of test faces."""
    rows = []
    chosen = (torch.arange(flags.samples) + start) % len(x)
    with torch.no_grad():
        real = judge.features(pixels(x[chosen]))
    for name, strength in (("the pipeline's own", 0.0), ("with attributes", 1.0)):
        options: Any = {"y": y[chosen], "strength": strength, "seed": seed}
        out, seconds = timed(faces.sample, flags.samples, **options)
        with torch.no_grad():
            scores = multilabel_scores(judge.probability(out.x), y[chosen], names=ATTRIBUTES)
            distance = frechet_distance(judge.features(out.x), real)
        row: Row = {
            "name": name,
            "accuracy": scores.accuracy,
            "f1": scores.f1,
            "worst": min(one.accuracy for one in scores.per_attribute.values()),
            "Frechet distance": distance,
            "satisfied": out.satisfied.float().mean().item(),
            "typical": (out.typicality >= TYPICAL).float().mean().item(),
            "shared": shared_pattern(out.z),
            "gradients": out.evaluations.float().mean().item(),
            "s a sample": seconds / flags.samples,
        }
        rows.append(report(row))
        picture = png(grid(out.x[: 3 * SHOWN], columns=SHOWN, value_range=(0.0, 1.0)))
        (flags.output_dir / f"{name.replace(' ', '-')}-{seed}.png").write_bytes(picture)
    return rows


def edits(
    faces: Conditional, judge: PixelClassifier, z: Tensor, labels: Tensor, file: Path
) -> list[Row]:
    """Every attribute of the faces flipped, one at a time."""
    decoder = faces.decoder
    with torch.no_grad():
        flips = Flips(faces.critic, z, judged(decoder, judge))
        embed = taught.embedder(decoder)
        same = embed(z).repeat(len(ATTRIBUTES), 1)
    pairs = zip(flips.z.split(BATCH), flips.target.split(BATCH), strict=True)
    outs = [faces.edit(Latents(part), y=target) for part, target in pairs]
    edited = torch.cat([out.z for out in outs])
    with torch.no_grad():
        seen, kept = flips.see(edited), (embed(edited) * same).sum(1)
        drawn = torch.cat([decoder.decode(part) for part in edited.split(BATCH)])
        before = decoder.decode(z[:SHOWN])
    changed = ((seen > 0.5) != (flips.before > 0.5)) & ~flips.asked
    free = ~flips.asked & ~tied_to(flips.asked, find_ties(labels, ATTRIBUTES), ATTRIBUTES)
    done = (flips.of_column(seen).round() == flips.wanted).float()
    satisfied = torch.cat([out.satisfied for out in outs])
    figures = {
        "success": done,
        "leakage": changed.sum(1) / (len(ATTRIBUTES) - 1),
        "leakage, untied": taught.share(changed, free),
        "identity": kept,
        "satisfied": satisfied.float(),
        "typical": (typicality(edited) >= TYPICAL).float(),
        "gradients": torch.cat([out.evaluations for out in outs]).float(),
    }
    of = {name: values.view(len(ATTRIBUTES), -1) for name, values in figures.items()}
    rows = [{"name": "all ten", **{key: v.mean().item() for key, v in figures.items()}}]
    rows[0]["agreement"] = done[satisfied].mean().item()
    for number, name in enumerate(ATTRIBUTES):
        rows.append({"name": name, **{key: v[number].mean().item() for key, v in of.items()}})
    for row in rows:
        report(row)
    columns = drawn.view(len(ATTRIBUTES), len(z), *drawn.shape[1:])[:, :SHOWN]
    picture = torch.cat([before, *columns])
    file.write_bytes(png(grid(picture, columns=SHOWN, value_range=(0.0, 1.0))))
    return rows


if __name__ == "__main__":
    run(main, Flags)

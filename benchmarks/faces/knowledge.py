"""Twenty attributes of real faces, added one by one to a frozen flow over a frozen VAE's latents.

    LATENTCTL_DATA=... python -m benchmarks.faces.knowledge --seed 0

After each addition every older output is computed again and compared bit for bit. Measured on
held-out people: presence against an `AttributeCritic` of all twenty at once, calibration, the gain
of the conditional density over the prior; and the same with 1 %, 10 % and 100 % of the labels.
Writes `knowledge-faces-SEED.json` and pictures into `--output_dir`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

import latentctl
from benchmarks.shared.base import decode, encode, nats, with_fewer_labels
from benchmarks.shared.face_base import ATTRIBUTES, face_decoder, load_faces
from benchmarks.shared.run import Row, SeededFlags, report, run, timed, write
from latentctl import AttributeCritic, Decoder, KnowledgeBase, LatentFlow, Latents
from latentctl.display.picture import grid, png
from latentctl.knowledge import Knowledge
from latentctl.random import generator

TWENTY = (
    *ATTRIBUTES,
    *("Bangs", "Big_Nose", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones"),
    *("Mouth_Slightly_Open", "Mustache", "Pale_Skin", "Wavy_Hair", "Wearing_Lipstick"),
)
FEW = ("Smiling", "Male", "Blond_Hair")
CACHED = 20_000
BINS = 15


@dataclass
class Flags(SeededFlags):
    num_threads: int = 2
    output_dir: Path = Path("outputs/knowledge_faces")
    flow_train_steps: int = 1500


def main(flags: Flags) -> None:
    decoder = face_decoder()
    train, check, test = (cached(decoder, split) for split in ("train", "validation", "test"))
    real = test.sample(torch.randn(test.mean.shape, generator=generator(flags.seed, purpose="eps")))
    started = time.monotonic()
    flow = LatentFlow.fit(
        train.select([]), "coupling", width=256, max_train_steps=flags.flow_train_steps
    )
    gaussian = latentctl.Gaussian.fit(train)
    result: dict[str, Any] = {
        "seed": flags.seed,
        "cached": len(train),
        "flow_seconds": time.monotonic() - started,
        "flow_nats_per_dimension": nats(flow, real),
        "gaussian_nats_per_dimension": nats(gaussian, real),
    }
    base, result["added"] = added_one_by_one(flow, train, check, test, real, flags.seed)
    together = AttributeCritic.fit(train, robustness=0, smooth=False, seed=flags.seed)
    for name, critic in {"joint": together, "knowledge": base}.items():
        result[name] = quality(critic.score(test.mean).sigmoid(), test)
    result["labels"] = label_efficiency(flow, train, check, test, real, flags.seed)
    pictures(decoder, base, flags.output_dir)
    write(flags.output_dir / f"knowledge-faces-{flags.seed}.json", result)
    print({k: v for k, v in result.items() if k not in ("added", "labels")})


def cached(decoder: Decoder, split: str) -> Latents:
    """Encodings with twenty labels; for training with mirror images, and again up to 20,000."""
    images, labels, _ = load_faces(split, TWENTY)
    if split != "train":
        return encode(decoder, images, labels, TWENTY)
    both = torch.cat([images, images.flip(3)])
    latents = encode(decoder, both, labels.repeat(2, 1), TWENTY)
    return latents[torch.arange(CACHED) % len(latents)]


def added_one_by_one(
    flow: LatentFlow, train: Latents, check: Latents, test: Latents, real: Tensor, seed: int
) -> tuple[KnowledgeBase, list[Row]]:
    base = KnowledgeBase(flow, train.latent_shape)
    older: dict[str, tuple[Tensor, ...]] = {}
    rows, log_prior = [], flow.log_prob(real).detach()
    for name in TWENTY:
        started = time.monotonic()
        new, cpu_seconds = timed(base.add, name, train, held_out=check, seed=seed)
        seconds = time.monotonic() - started
        same = all(
            torch.equal(a, b)
            for other, before in older.items()
            for a, b in zip(before, outputs(base[other], real), strict=True)
        )
        older[name] = outputs(new, real)
        present = test.column(name) > 0.5
        gain = (new.log_prob(real) - log_prior) / real[0].numel()
        own, resampled = new.sample(200, seed=1), base.sample(200, present=[name], seed=1)
        row = {
            "name": name,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "older_outputs_identical": same,
            "gain_present": float(gain[present].mean()),
            "gain_absent": float(gain[~present].mean()),
            "own_samples_present": float((new.score(own) > 0).float().mean()),
            "resampled_present": float((new.score(resampled) > 0).float().mean()),
        }
        rows.append(report(row))
    return base, rows


def outputs(knowledge: Knowledge, z: Tensor) -> tuple[Tensor, ...]:
    """What is compared after each addition: log-odds, samples, likelihoods."""
    return knowledge.score(z[:64]), knowledge.sample(8, seed=5), knowledge.log_prob(z[:8])


def quality(probability: Tensor, test: Latents) -> Row:
    """Accuracy and expected calibration error, overall and of each attribute."""
    right = ((probability > 0.5) == (test.labels > 0.5)).float()
    columns = zip(probability.unbind(1), test.labels.long().unbind(1), strict=True)
    errors = [float(binary_calibration_error(p, y, n_bins=BINS)) for p, y in columns]
    return {
        "accuracy": float(right.mean()),
        "each": dict(zip(TWENTY, right.mean(0).tolist(), strict=True)),
        "calibration": {"mean": fmean(errors), "largest": max(errors)},
    }


def label_efficiency(
    flow: LatentFlow, train: Latents, check: Latents, test: Latents, real: Tensor, seed: int
) -> list[Row]:
    """Accuracy and density of knowledges of some labels."""
    rows = []
    for share, kind, latents in with_fewer_labels(train.select(FEW), seed):
        for name in FEW:
            knowledge = Knowledge.fit(name, flow, latents, held_out=check, seed=seed)
            present = test.column(name) > 0.5
            right = (knowledge.score(test.mean)[:, 0] > 0) == present
            row = {"name": name, "share": share, "kind": kind}
            row["accuracy"] = float(right.float().mean())
            rows.append(report({**row, "nats_per_dimension": nats(knowledge, real[present])}))
    return rows


def pictures(decoder: Decoder, base: KnowledgeBase, folder: Path) -> None:
    def save(name: str, *rows: Tensor) -> None:
        faces = decode(decoder, torch.cat(rows))
        (folder / f"{name}.png").write_bytes(png(grid(faces, columns=8)))

    save("by_attribute", *(base[n].sample(8, seed=2) for n in ATTRIBUTES))
    save(
        "together_and_absent",
        base.sample(8, present=["Smiling", "Eyeglasses"], seed=2),
        base.sample(8, present=["Male", "Smiling"], absent=["No_Beard"], seed=2),
        base.sample(8, present=["Blond_Hair"], absent=["Smiling"], seed=2),
        base.sample(8, absent=["Young", "Male"], seed=2),
    )
    walks = []
    for name in ("Smiling", "Male", "Blond_Hair"):
        for axis in range(2):
            c = torch.zeros(8, 2)
            c[:, axis] = torch.linspace(-2, 2, 8)
            # one noise for all, so that only C changes
            noise = torch.randn(1, 256, generator=generator(3)).expand(8, -1)
            walks.append(base.prior.from_base(base[name].density.decode(c, noise)).detach())
    save("walks", *walks)


if __name__ == "__main__":
    run(main, Flags)

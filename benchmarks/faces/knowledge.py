"""Twenty attributes of real faces, added one by one to a frozen flow over a frozen VAE's latents.

    LATENTCTL_DATA=... python benchmarks/knowledge_faces.py --seed 0

After each addition every older answer is asked again and compared bit for bit. Measured on held-out
people: presence against an `AttributeCritic` of all twenty at once, calibration, the gain of the
conditional density over the prior; and the same with 1 %, 10 % and 100 % of the labels. Writes
`knowledge-faces-SEED.json` and pictures into `--output_dir`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
from benchmarks.shared.face_base import ATTRIBUTES, load_face_vae, load_faces
from latentctl import AttributeCritic, Decoder, KnowledgeBase, LatentFlow, Latents
from latentctl.conditional.picture import grid, png
from latentctl.knowledge import Knowledge
from latentctl.random import generator

TWENTY = (
    *ATTRIBUTES,
    "Bangs",
    "Big_Nose",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Mouth_Slightly_Open",
    "Mustache",
    "Pale_Skin",
    "Wavy_Hair",
    "Wearing_Lipstick",
)
FEW = ("Smiling", "Male", "Blond_Hair")
SHARES = (0.01, 0.1, 1.0)
CACHED = 20_000
BINS = 15


@dataclass
class Flags:
    seed: int = 0
    threads: int = 2
    output_dir: Path = Path("outputs/knowledge_faces")
    flow_train_steps: int = 1500


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    decoder = latentctl.wrap(load_face_vae())
    splits = ("train", "validation", "test")
    train, check, test = (cached(decoder, split, flags.seed) for split in splits)
    real = test.sample(torch.randn(test.mean.shape, generator=generator(flags.seed, purpose="eps")))
    started = time.monotonic()
    flow = LatentFlow.fit(
        train.select([]), "coupling", width=256, max_train_steps=flags.flow_train_steps
    )
    result: dict[str, Any] = {
        "seed": flags.seed,
        "cached": len(train),
        "flow_seconds": time.monotonic() - started,
        "flow_nats_per_dimension": float(-flow.log_prob(real).mean().detach()) / real[0].numel(),
    }
    gaussian = latentctl.Gaussian.fit(train)
    result["gaussian_nats_per_dimension"] = float(-gaussian.log_prob(real).mean()) / real[0].numel()
    base, result["added"] = added_one_by_one(flow, train, check, test, real, flags.seed)
    together = AttributeCritic.fit(train, seed=flags.seed)
    with torch.no_grad():
        joint = together(test.mean).sigmoid()
        alone = base(test.mean).sigmoid()
    result["joint"] = accuracy(joint, test) | {"calibration": calibration(joint, test)}
    result["knowledge"] = accuracy(alone, test) | {"calibration": calibration(alone, test)}
    result["labels"] = with_fewer_labels(flow, train, check, test, real, flags.seed)
    pictures(decoder, base, flags.output_dir)
    file = flags.output_dir / f"knowledge-faces-{flags.seed}.json"
    file.write_text(json.dumps(result, indent=2))
    print(json.dumps({k: v for k, v in result.items() if k not in ("added", "labels")}, indent=1))


def cached(decoder: Decoder, split: str, seed: int) -> Latents:
    """Encodings with twenty labels; for training with mirror images, and again up to 20,000."""
    images, labels, _ = load_faces(split, TWENTY)
    x = images.float() / 255
    if split == "train":
        x, labels = torch.cat([x, x.flip(3)]), torch.cat([labels, labels])
    posteriors = [decoder.encode(part) for part in x.split(128)]
    mean = torch.cat([p.mean for p in posteriors])
    std = torch.cat([p.std for p in posteriors if p.std is not None])
    if split == "train":
        rows = torch.arange(CACHED) % len(mean)
        mean, std, labels = mean[rows], std[rows], labels[rows]
    return Latents(mean, std, labels, TWENTY)


def added_one_by_one(
    flow: LatentFlow, train: Latents, check: Latents, test: Latents, real: Tensor, seed: int
) -> tuple[KnowledgeBase, list[dict[str, Any]]]:
    base = KnowledgeBase(flow, train.latent_shape)
    older: dict[str, tuple[Tensor, ...]] = {}
    rows = []
    for name in TWENTY:
        started, worked = time.monotonic(), time.process_time()
        new = base.add(name, train, held_out=check, seed=seed)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - worked
        same = all(
            torch.equal(a, b)
            for other, answer in older.items()
            for a, b in zip(answer, answers(base[other], real), strict=True)
        )
        older[name] = answers(new, real)
        present = test.column(name) > 0.5

        def own(z: Tensor, new: Knowledge = new) -> float:
            return float((new(z) > 0).float().mean())

        with torch.no_grad():
            gain = (new.log_prob(real) - flow.log_prob(real)) / real[0].numel()
        rows.append(
            {
                "name": name,
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "older_answers_identical": same,
                "gain_present": float(gain[present].mean()),
                "gain_absent": float(gain[~present].mean()),
                "own_samples_present": own(new.sample(200, seed=1)),
                "resampled_present": own(base.sample(200, present=[name], seed=1)),
            }
        )
        print(rows[-1], flush=True)
    return base, rows


def answers(knowledge: Knowledge, z: Tensor) -> tuple[Tensor, ...]:
    """What is asked again after each addition: log-odds, samples, likelihoods."""
    with torch.no_grad():
        return knowledge(z[:64]), knowledge.sample(8, seed=5), knowledge.log_prob(z[:8])


def accuracy(probability: Tensor, test: Latents) -> dict[str, Any]:
    right = (
        (probability > 0.5) == (torch.stack([test.column(n) for n in TWENTY], 1) > 0.5)
    ).float()
    each = dict(zip(TWENTY, right.mean(0).tolist(), strict=True))
    return {"accuracy": float(right.mean()), "each": each}


def calibration(probability: Tensor, test: Latents) -> dict[str, float]:
    """Expected calibration error of each attribute, its mean and its largest."""
    from torchmetrics.functional.classification import binary_calibration_error

    errors = [
        float(binary_calibration_error(p, test.column(n).long(), n_bins=BINS))
        for n, p in zip(TWENTY, probability.unbind(1), strict=True)
    ]
    return {"mean": sum(errors) / len(errors), "largest": max(errors)}


def with_fewer_labels(
    flow: LatentFlow, train: Latents, check: Latents, test: Latents, real: Tensor, seed: int
) -> list[dict[str, Any]]:
    """A knowledge with some of the labels, the others unknown; and one that has only the some."""
    rows = []
    for share in SHARES:
        kept = torch.rand(CACHED, generator=generator(seed, purpose="labels")) < share
        for name in FEW:
            labels = train.column(name).clone()
            labels[~kept] = torch.nan
            semi = train.with_labels(labels[:, None], [name])
            kinds = {"semi-supervised": semi}
            if share < 1:
                kinds["labelled rows only"] = semi[kept]
            present = test.column(name) > 0.5
            for kind, latents in kinds.items():
                knowledge = Knowledge.fit(name, flow, latents, held_out=check, seed=seed)
                with torch.no_grad():
                    right = (knowledge(test.mean) > 0) == present
                    nats = -knowledge.log_prob(real[present]).mean() / real[0].numel()
                rows.append(
                    {
                        "name": name,
                        "share": share,
                        "kind": kind,
                        "accuracy": float(right.float().mean()),
                        "nats_per_dimension": float(nats),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def pictures(decoder: Decoder, base: KnowledgeBase, folder: Path) -> None:
    def save(name: str, z: Tensor, columns: int) -> None:
        with torch.no_grad():
            x = torch.cat([decoder.decode(part) for part in z.split(64)])
        (folder / f"{name}.png").write_bytes(png(grid(x, columns=columns)))

    save("by_attribute", torch.cat([base[n].sample(8, seed=2) for n in ATTRIBUTES]), 8)
    two = [
        base.sample(8, present=["Smiling", "Eyeglasses"], seed=2),
        base.sample(8, present=["Male", "Smiling"], absent=["No_Beard"], seed=2),
        base.sample(8, present=["Blond_Hair"], absent=["Smiling"], seed=2),
        base.sample(8, absent=["Young", "Male"], seed=2),
    ]
    save("together_and_absent", torch.cat(two), 8)
    values = torch.linspace(-2, 2, 8)
    walks = []
    for name in ("Smiling", "Male", "Blond_Hair"):
        for axis in range(2):
            c = torch.zeros(8, 2)
            c[:, axis] = values
            # one noise for all, so that only C changes
            e = base[name].density.decode(
                c, torch.randn(1, 256, generator=generator(3)).expand(8, -1)
            )
            walks.append(base.prior.from_base(e).detach())
    save("walks", torch.cat(walks), 8)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

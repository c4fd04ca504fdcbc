"""The frozen bases of the melody benchmarks: train or load them, and measure them on real tunes.

`LATENTCTL_DATA=... python benchmarks/melody_base.py --bars 2 --cache CACHE` trains the base by the
recipe if the folder `CACHE/2bar` holds none, and writes `measures.json` and `prior.png` there:

- held-out melodies (the test split, other tunes than in training) from their posterior's mean,
  greedily and teacher-forced;
- samples of N(0, I), and of a flow over the encodings, beside data: notes in a melody, pitch range,
  intervals and durations, as the total variation of their histograms. The same figure for training
  against test melodies is what chance and other tunes make of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from latentctl_adapters.melody_rewards import REST
from latentctl_adapters.melody_vae import MelodyVAE
from torch import Tensor

import latentctl
from benchmarks.shared.face_base import data_folder
from latentctl.priors import LatentFlow
from recipes.pretrain_melody_vae import measure
from recipes.support.melody.data import Melodies, MelodyDataFlags, load_melodies
from recipes.support.melody.media import notes_of, piano_rolls

ROOT = Path(__file__).resolve().parents[2]
COMPARED = 2000  # melodies on each side of a comparison
MIXED = (
    "--mixed_precision",
    "bf16",
    "--num_threads",
    "1",
)  # 1.6 times as fast on one core with AVX-512 BF16
TRAINED = {
    2: [*MIXED, *["--beta", "0.15", "--transpose", "6", "--vae_train_steps", "3000"]],
    16: [
        *MIXED,
        *["--beta", "0.1", "--latent_size", "512", "--encoder_size", "64", "--decoder_size", "128"],
        *["--vae_batch_size", "32", "--vae_train_steps", "2200"],
        *["--validation_steps", "250", "--validation_samples", "200"],
    ],
}


def histograms(x: Tensor) -> dict[str, Tensor]:
    """Shares of notes in a melody, pitch range, intervals and durations, of melodies `x (N, T)`.

    Intervals are in semitones and cut off at an octave and a half, durations in sixteenths and cut
    off at a bar; a pitch range of more than 4 octaves counts as one of 4.
    """
    counts: dict[str, list[int]] = {name: [] for name in ("notes", "range", "interval", "duration")}
    for row in x.tolist():
        notes = notes_of(row)
        pitches = [note.pitch for note in notes]
        counts["notes"].append(len(notes))
        counts["range"].append(min(max(pitches) - min(pitches), 48) if notes else 0)
        steps = itertools.pairwise(pitches)
        counts["interval"] += [min(max(b - a, -18), 18) + 18 for a, b in steps]
        counts["duration"] += [min(note.length, 16) for note in notes]
    sizes = {"notes": x.shape[1] + 1, "range": 49, "interval": 37, "duration": 17}
    shares = {}
    for name, values in counts.items():
        bins = torch.bincount(torch.tensor(values, dtype=torch.long), minlength=sizes[name])
        shares[name] = bins / bins.sum().clamp(min=1)
    return shares


def compare(x: Tensor, data: Tensor) -> dict[str, float]:
    """Means of melodies `x`, and the total variation of their histograms from those of `data`."""
    ours, theirs = histograms(x), histograms(data)
    means = {f"mean_{k}": (v * torch.arange(len(v))).sum().item() for k, v in ours.items()}
    means["mean_interval"] = (ours["interval"] * (torch.arange(37) - 18).abs()).sum().item()
    distance = {f"tv_{k}": 0.5 * (v - theirs[k]).abs().sum().item() for k, v in ours.items()}
    means["rests"] = (x == REST).float().mean().item()
    means["distinct"] = len(x.unique(dim=0)) / len(x)
    return {**means, **distance}


def base(bars: int, cache: str | Path, *, flags: list[str] | None = None) -> MelodyVAE:
    """The base in `cache/{bars}bar`, trained by the recipe if there is none."""
    folder = Path(cache) / f"{bars}bar"
    if not (folder / "config.json").exists():
        command = [
            *(sys.executable, str(ROOT / "recipes" / "pretrain_melody_vae.py")),
            *("--train_data_dir", str(data_folder() / f"melody{bars}bar"), "--bars", str(bars)),
            *("--output_dir", str(folder), *TRAINED[bars], *(flags or [])),
        ]
        subprocess.run(command, check=True, env={**os.environ})
    return MelodyVAE.from_pretrained(folder)


@torch.no_grad()
def encodings(model: MelodyVAE, melodies: Melodies) -> latentctl.Latents:
    """Mean and standard deviation of the posterior of each melody."""
    parts = [model.encode(melodies[i : i + 512]) for i in range(0, len(melodies), 512)]
    return latentctl.Latents(
        torch.cat([q.mean for q in parts]), torch.cat([q.stddev for q in parts])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=2, choices=sorted(TRAINED))
    parser.add_argument("--cache", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow-steps", type=int, default=0, help="steps of a flow, 0 for none")
    options, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    model = base(options.bars, options.cache, flags=flags)
    folder = Path(options.cache) / f"{options.bars}bar"
    source = str(data_folder() / f"melody{options.bars}bar")
    melodies = load_melodies(MelodyDataFlags(source, options.bars), options.seed)
    test = melodies["test"][:]
    start = time.perf_counter()
    measures: dict[str, object] = {"test": measure(model, test), "melodies": len(test)}
    measures["seconds"] = time.perf_counter() - start

    picked = torch.randperm(len(test), generator=torch.Generator().manual_seed(options.seed))
    data = test[picked[:COMPARED]]
    train = melodies["train"]
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(options.seed))
    decoder = latentctl.wrap(model)
    samples = decoder.decode(decoder.prior.sample(COMPARED, seed=options.seed))
    mean = decoder.encode(data).mean
    std = decoder.encode(data).std
    measures["latents"] = {  # root mean squares
        "norm_of_means": mean.square().sum(1).mean().sqrt().item(),
        "norm_with_noise": (mean.square() + std.square()).sum(1).mean().sqrt().item(),
        "norm_of_prior": mean.shape[1] ** 0.5,
    }
    measures["data"] = compare(train[some[:COMPARED]], data)
    measures["prior"] = compare(samples, data)
    columns = 6 if options.bars == 2 else 3
    rows = {"data": data, "again": decoder.decode(mean[:columns]), "prior": samples[:columns]}
    rows["prior, more"] = samples[columns:]
    if options.flow_steps:
        flow = LatentFlow.fit(
            encodings(model, train), max_train_steps=options.flow_steps, seed=options.seed
        )
        rows["flow"] = decoder.decode(flow.sample(COMPARED, seed=options.seed))
        measures["flow"] = compare(rows["flow"], data)
    (folder / "measures.json").write_text(json.dumps(measures, indent=1))
    pictured = torch.stack([row[:columns] for row in rows.values()])
    (folder / "prior.png").write_bytes(piano_rolls(pictured, row_labels=list(rows)))
    print(json.dumps(measures, indent=1))


if __name__ == "__main__":
    main()

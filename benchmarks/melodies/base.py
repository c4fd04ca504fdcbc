"""The frozen bases of the melody benchmarks: train or load them, and measure them on real tunes.

    LATENTCTL_DATA=... python -m benchmarks.melodies.base --bars 2 --cache CACHE

trains the base by the recipe if the folder `CACHE/2bar` holds none (with further flags of the
recipe, if any are given), and writes `measures.json` and `prior.png` there:

- held-out melodies (the test split, other tunes than in training) from their posterior's mean,
  greedily and teacher-forced;
- samples of N(0, I), and of a flow over the encodings, beside data: notes in a melody, pitch range,
  intervals and durations, as the total variation of their histograms. The same figure for training
  against test melodies is what chance and other tunes contribute.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.melody_rewards import REST
from latentctl_adapters.melody_sound import notes_of
from latentctl_adapters.melody_vae import MelodyVAE
from torch import Tensor

import latentctl
from benchmarks.shared.base import data_folder
from benchmarks.shared.run import report, timed, write
from latentctl.priors import LatentFlow
from recipes.support.melody.data import MelodyDataFlags, load_melodies
from recipes.support.melody.evaluation import encoded, reconstruction_scores
from recipes.support.melody.media import piano_rolls

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "pretrain_melody_vae.py"
COMPARED = 2000  # melodies on each side of a comparison
FAST = "--mixed_precision bf16 --num_threads 1"  # 1.6 times as fast on one core with AVX-512 BF16
TRAINED = {
    2: "--beta 0.15 --transpose 6 --vae_train_steps 3000",
    16: "--beta 0.1 --latent_size 512 --encoder_size 64 --decoder_size 128 --vae_batch_size 32 "
    "--vae_train_steps 2200 --validation_steps 250 --validation_samples 200",
}


def histograms(x: Tensor) -> dict[str, Tensor]:
    """Shares of notes in a melody, pitch range, intervals and durations, of melodies `x (N, T)`.

    Intervals are in semitones and cut off at an octave and a half, durations in sixteenths and cut
    off at a bar; a pitch range of more than 4 octaves counts as one of 4.
    """
    sizes = {"notes": x.shape[1] + 1, "range": 49, "interval": 37, "duration": 17}
    counts: dict[str, list[int]] = {name: [] for name in sizes}
    for row in x.tolist():
        notes = notes_of(row)
        pitches = [note.pitch for note in notes]
        counts["notes"].append(len(notes))
        counts["range"].append(min(max(pitches) - min(pitches), 48) if notes else 0)
        steps = itertools.pairwise(pitches)
        counts["interval"] += [min(max(b - a, -18), 18) + 18 for a, b in steps]
        counts["duration"] += [min(note.length, 16) for note in notes]
    bins = {
        name: torch.bincount(torch.tensor(values, dtype=torch.long), minlength=sizes[name])
        for name, values in counts.items()
    }
    return {name: found / found.sum().clamp(min=1) for name, found in bins.items()}


def compare(x: Tensor, data: Tensor) -> dict[str, float]:
    """Means of melodies `x`, and the total variation of their histograms from those of `data`."""
    ours, theirs = histograms(x), histograms(data)
    means = {f"mean_{k}": (v * torch.arange(len(v))).sum().item() for k, v in ours.items()}
    means["mean_interval"] = (ours["interval"] * (torch.arange(37) - 18).abs()).sum().item()
    distance = {f"tv_{k}": 0.5 * (v - theirs[k]).abs().sum().item() for k, v in ours.items()}
    means["rests"] = (x == REST).float().mean().item()
    means["distinct"] = len(x.unique(dim=0)) / len(x)
    return {**means, **distance}


def base(bars: int, folder: Path, flags: list[str]) -> MelodyVAE:
    """The base in a folder, trained by the recipe if there is none."""
    if not (folder / "model").exists():
        source = str(data_folder() / f"melody{bars}bar")
        command = [sys.executable, str(RECIPE), "--train_data_dir", source, "--bars", str(bars)]
        command += ["--output_dir", str(folder), *FAST.split(), *TRAINED[bars].split(), *flags]
        subprocess.run(command, check=True)
    return MelodyVAE.from_pretrained(folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=2, choices=sorted(TRAINED))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow_steps", type=int, default=0, help="steps of a flow, 0 for none")
    options, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    bars, seed, folder = options.bars, options.seed, options.cache / f"{options.bars}bar"
    model = base(bars, folder, flags)
    melodies = load_melodies(MelodyDataFlags(str(data_folder() / f"melody{bars}bar"), bars), seed)
    train, test = melodies["train"], melodies["test"][:]
    scores, seconds = timed(reconstruction_scores, model, test)
    measures: dict[str, Any] = {"test": scores, "melodies": len(test), "seconds": seconds}

    def some(count: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return torch.randperm(count, generator=random)[:COMPARED]

    data = test[some(len(test))]
    decoder = latentctl.wrap(model)
    posterior = decoder.encode(data)
    mean, std = posterior.mean, posterior.std
    samples = decoder.decode(decoder.prior.sample(COMPARED, seed=seed))
    measures["latents"] = {  # root mean squares
        "norm_of_means": mean.square().sum(1).mean().sqrt().item(),
        "norm_with_noise": (mean.square() + std.square()).sum(1).mean().sqrt().item(),
        "norm_of_prior": mean.shape[1] ** 0.5,
    }
    measures["data"] = compare(train[some(len(train))], data)
    measures["prior"] = compare(samples, data)
    columns = 6 if bars == 2 else 3
    rows = {"data": data, "reconstructed": decoder.decode(mean[:columns])}
    rows |= {"prior": samples, "prior, more": samples[columns:]}
    if options.flow_steps:
        encodings = encoded(decoder, train, len(train), seed)
        flow = LatentFlow.fit(encodings, max_train_steps=options.flow_steps, seed=seed)
        rows["flow"] = decoder.decode(flow.sample(COMPARED, seed=seed))
        measures["flow"] = compare(rows["flow"], data)
    write(folder / "measures.json", measures)
    pictured = torch.stack([row[:columns] for row in rows.values()])
    (folder / "prior.png").write_bytes(piano_rolls(pictured, row_labels=list(rows)))
    for name in ("test", "latents", "data", "prior", "flow"):
        if name in measures:
            report({"name": name, **measures[name]})


if __name__ == "__main__":
    main()

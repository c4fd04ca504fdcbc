"""Edits of real faces on a tiny autoencoder that others trained, whose latent is a grid.

The decoder is `weights/taef2` (see `benchmarks/taef2.py`): deterministic, latent (32, 8, 8) at 64
pixels, so rich that nearly any change of pixels has a latent. Here gradients find adversarial
noise with ease, which is what a taught critic and a price on the shift are for. The judges, the
flips and the limits are those of `benchmarks/edits.py`.

    LATENTCTL_DATA=... python benchmarks/taef2_faces.py --seed 0
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from edits import Flips, Judges, Row, within
from edits_rivals import mean_differences
from face_base import ATTRIBUTES, load_faces
from taef2 import load_taef2
from teachers import TEACHERS, load_network

import latentctl
from latentctl import Ascent, AttributeCritic, Latents, PixelCritics

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

WEIGHTS = (0.03, 0.015, 0.008, 0.004, 0.002)


@dataclass
class Flags:
    seed: int = 0
    faces: int = 50
    """Test faces, each with all ten flips."""
    lessons: int = 6000
    lessons_per_round: int = 3000
    max_train_steps: int = 1200
    width: int = 128
    depth: int = 3
    threads: int = 1
    output_dir: Path = Path("outputs/taef2")


@torch.no_grad()
def encodings(decoder: latentctl.Decoder) -> Latents:
    """Encodings of the training faces and of their mirror images, with labels."""
    images, labels, _ = load_faces("train")
    both = torch.cat([images, images.flip(-1)])
    means = [decoder.encode(part.float() / 255).mean for part in both.split(128)]
    return Latents(torch.cat(means), labels=labels.repeat(2, 1), names=ATTRIBUTES)


def main(flags: Flags) -> None:
    from report import face_sheet

    torch.set_num_threads(flags.threads)
    decoder = latentctl.wrap(load_taef2(), latent_shape=(32, 8, 8), value_range=(0, 1))
    fingerprint = decoder.fingerprint()
    latents = encodings(decoder)
    teacher = PixelCritics(decoder, *(load_network(number) for number in TEACHERS))
    seconds: dict[str, float] = {}
    began = time.process_time()
    plain = AttributeCritic.fit(
        latents, width=flags.width, depth=flags.depth, max_train_steps=600, seed=flags.seed
    )
    seconds["critic of encodings"] = time.process_time() - began
    began = time.process_time()
    taught = latentctl.teach(
        teacher,
        latents,
        lessons=flags.lessons,
        lessons_per_round=flags.lessons_per_round,
        width=flags.width,
        depth=flags.depth,
        max_train_steps=flags.max_train_steps,
        batch_size=128,
        seed=flags.seed,
    )
    seconds["taught critic"] = time.process_time() - began
    print(seconds, flush=True)
    judges = Judges(decoder)
    test = Flips(judges, "test", flags.faces)
    sign = torch.nan_to_num(2 * test.asked - 1)
    vectors = mean_differences(latents.mean.flatten(1), latents.labels)
    rows: dict[str, list[Row]] = {}
    kept: dict[str, torch.Tensor] = {}

    def add(method: str, strength: float, z: torch.Tensor) -> None:
        row = test.judge(f"{method} {strength:g}", z, strength=strength)
        row.pop("said")
        rows.setdefault(method, []).append(row)
        kept[f"{method} {strength:g}"] = z

    for strength in (0.5, 1, 1.5, 2, 3):
        moved = test.z + strength * (sign @ vectors).view_as(test.z)
        add("attribute vectors", strength, moved)
    for threshold in (0.9, 0.99, 0.9999):
        ascent = Ascent(plain, realism_weight=0, steps=100)
        move = ascent.move(test.z, test.targets(plain), threshold=threshold)
        add("plain gradient, no realism, not taught", threshold, move.z)
    for weight in WEIGHTS:
        ascent = Ascent.gentle(taught, shift_weight=weight)
        add("ours: gentle ascent, taught", weight, ascent.move(test.z, test.targets(taught)).z)
    shown = ["attribute vectors", "plain gradient, no realism, not taught"]
    shown.append("ours: gentle ascent, taught")
    columns = [decoder.decode(test.faces[:8])]
    labels = ["as it is"]
    for method in shown:
        best = within(rows[method])
        z = kept[f"{method} {best['strength']:g}"].view(len(ATTRIBUTES), flags.faces, 32, 8, 8)
        for name in ("Smiling", "Eyeglasses", "Blond_Hair", "Young"):
            columns.append(decoder.decode(z[ATTRIBUTES.index(name), :8]))
            labels.append(name)
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    sheet = face_sheet(
        torch.stack(columns, 1).clamp(0, 1), row_labels=[""] * 8, column_labels=labels
    )
    (flags.output_dir / "edits.png").write_bytes(sheet)
    if decoder.fingerprint() != fingerprint:
        raise latentctl.errors.FingerprintError("The frozen decoder has changed.")
    result = {"rows": rows, "cpu_seconds": seconds}
    (flags.output_dir / f"edits-{flags.seed}.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

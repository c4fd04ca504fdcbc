"""Teach a critic of latents by networks on pixels, through the frozen face VAE.

    LATENTCTL_DATA=... python benchmarks/teachers.py
    LATENTCTL_DATA=... python benchmarks/edits_teach.py --seed 0

Writes `taught-SEED.safetensors` into `--output_dir`, for `benchmarks/edits.py`.
"""

from __future__ import annotations

__all__ = ["load_taught", "training_latents"]

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import latentctl
from benchmarks.shared.face_base import ATTRIBUTES, load_face_vae, load_faces
from benchmarks.shared.face_teachers import TEACHERS, load_network
from latentctl import AttributeCritic, Latents, PixelCritic


@dataclass
class Flags:
    seed: int = 0
    threads: int = 1
    output_dir: Path = Path("outputs/edits")
    lessons: int = 16_000
    lessons_per_round: int = 8_000
    rounds: int = 1
    width: int = 1024
    depth: int = 3
    max_train_steps: int = 2000
    """In each round, the first included."""
    gradient_weight: float = 1.0
    teachers: tuple[int, ...] = TEACHERS
    name: str = "taught"


@torch.no_grad()
def training_latents(decoder: latentctl.Decoder) -> Latents:
    """Encodings of the training faces and of their mirror images, with labels."""
    means, stds, labels = [], [], []
    for split in ("train", "realigned"):
        images, target, _ = load_faces(split)
        for x in (images, images.flip(-1)):
            for part in x.split(256):
                posterior = decoder.encode(part.float() / 255)
                means.append(posterior.mean)
                stds.append(posterior.std)
            labels.append(target)
    return Latents(torch.cat(means), torch.cat(stds), torch.cat(labels), ATTRIBUTES)


def load_taught(folder: Path, seed: int, name: str = "taught") -> AttributeCritic:
    """The critic that this script wrote."""
    critic = AttributeCritic(**json.loads((folder / f"{name}-{seed}.json").read_text())["config"])
    critic.load_state_dict(load_file(folder / f"{name}-{seed}.safetensors"))
    return critic.eval()


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    decoder = latentctl.wrap(load_face_vae())
    latents = training_latents(decoder)
    teacher = PixelCritic(decoder, *(load_network(number) for number in flags.teachers))
    began = time.process_time()
    taught = latentctl.teach(
        teacher,
        latents,
        lessons=flags.lessons,
        lessons_per_round=flags.lessons_per_round,
        rounds=flags.rounds,
        gradient_weight=flags.gradient_weight,
        width=flags.width,
        depth=flags.depth,
        max_train_steps=flags.max_train_steps,
        seed=flags.seed,
    )
    seconds = time.process_time() - began
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    file = flags.output_dir / f"{flags.name}-{flags.seed}"
    save_file(taught.state_dict(), file.with_suffix(".safetensors"))
    file.with_suffix(".json").write_text(json.dumps({"config": taught.config, "seconds": seconds}))
    print(f"seed {flags.seed}: {seconds:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

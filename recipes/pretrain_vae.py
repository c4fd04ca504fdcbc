"""Train the reference VAE on faces: `accelerate launch recipes/pretrain_vae.py`.

`--output_dir` gets `model/`, which `latentctl.load("conv-vae", ...)` reads, `flags.json`,
`training/metrics.jsonl`, and a picture of reconstructions and prior samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from support.faces import DataFlags, load_faces
from support.reference_vae import VAEFlags, overview, pretrain
from support.run import RunFlags, run, write_json

import latentctl


@dataclass
class Flags:
    """Train the reference VAE on faces."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/vae"))
    data: DataFlags = field(default_factory=DataFlags)
    vae: VAEFlags = field(default_factory=VAEFlags)


def main(flags: Flags) -> None:
    accelerator = flags.run.accelerator("pretrain_vae")
    folder = Path(flags.run.output_dir)
    faces = load_faces(flags.data, flags.run.seed)
    model = pretrain(faces["train"], flags.vae, flags.run, accelerator, part="training")
    if accelerator.is_main_process:
        model.save_pretrained(folder / "model")
        write_json(folder / "flags.json", flags)
        decoder = latentctl.wrap(model)
        x = faces["test"].pixels().to(decoder.device)
        (folder / "overview.png").write_bytes(overview(decoder, x[:10]))
        z = decoder.encode(x, batch_size=128).mean
        psnr = -10 * (decoder.decode(z, batch_size=128) - x).square().mean().log10().item()
        where = folder / "model"
        print(f"Reconstruction of {len(x)} held-out faces: {psnr:.1f} dB PSNR. Model in {where}.")
    accelerator.end_training()


if __name__ == "__main__":
    run(main, Flags)

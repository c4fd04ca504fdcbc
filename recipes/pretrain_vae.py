"""Train the reference VAE on faces: `accelerate launch recipes/pretrain_vae.py`.

The result in `--output_dir` is a folder that `latentctl.load("conv-vae", ...)` reads, with
`flags.json`, `training/metrics.jsonl`, and a picture of reconstructions and prior samples.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from latentctl_adapters.conv_vae import ConvAE, ConvVAE
from support.faces import DataFlags, Faces, load_faces
from support.run import run
from torch import Tensor

import latentctl
from latentctl.conditional.picture import grid, png
from latentctl.random import seeded
from latentctl.training import Player, Step, fit

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class RunFlags:
    """The run."""

    output_dir: str = "outputs"
    """Where everything goes."""
    seed: int = 0
    """Decides every random number."""
    mixed_precision: str = "no"
    """no or bf16."""
    gradient_accumulation_steps: int = 1
    """Micro-batches in a step."""
    max_grad_norm: float | None = None
    """Clips the gradient of each network."""
    dataloader_num_workers: int = 0
    """Processes that read batches."""
    checkpointing_steps: int | None = None
    """Save the state of training every so many steps."""
    checkpoints_total_limit: int | None = 2
    """How many of these stay."""
    resume_from_checkpoint: str | None = None
    """`latest`, or the path of a checkpoint; a missing one is an error."""
    report_to: str | None = None
    """A tracker of accelerate, such as tensorboard or wandb; metrics.jsonl is always written."""
    logging_dir: str = "logs"
    """Where the tracker writes, inside output_dir."""
    max_bad_steps: int = 3
    """Steps in a row that may be not finite before the run stops."""
    num_threads: int | None = None
    """CPU threads of a process; the cores by default, where accelerate launch would give one."""

    def accelerator(self, project: str) -> Accelerator:
        """The accelerator of this run."""
        from accelerate import Accelerator

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(
            self.num_threads or max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        )
        accelerator = Accelerator(
            mixed_precision=self.mixed_precision,
            log_with=self.report_to,
            project_dir=str(Path(self.output_dir) / self.logging_dir),
        )
        if self.report_to:
            accelerator.init_trackers(project)
        return accelerator

    def fit_options(self, accelerator: Accelerator, part: str) -> dict[str, Any]:
        """What `latentctl.training.fit` takes for the part of the run that is called `part`."""
        resume = self.resume_from_checkpoint
        return {
            "accelerator": accelerator,
            "output_dir": Path(self.output_dir) / part,
            "seed": self.seed,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "max_grad_norm": self.max_grad_norm,
            "dataloader_num_workers": self.dataloader_num_workers,
            "checkpointing_steps": self.checkpointing_steps,
            "checkpoints_total_limit": self.checkpoints_total_limit,
            "resume_from_checkpoint": resume,
            "max_bad_steps": self.max_bad_steps,
        }


@dataclass
class VAEFlags:
    """The base autoencoder."""

    latent_size: int = 128
    """Dimensions of the latent; 1024 in the paper."""
    width: int = 32
    """Channels of the first layer; 256 in the paper."""
    sigma_x: float = 0.1
    """Standard deviation of the pixel likelihood: 0.1 is sharp, 1 is blurry."""
    beta: float = 1.0
    """Weight of the KL divergence."""
    variational: bool = True
    """False for a plain autoencoder."""
    vae_train_steps: int = 1300
    """Optimizer steps."""
    vae_batch_size: int = 32
    """Images in a step of one process."""
    vae_learning_rate: float = 2e-3
    """Peak learning rate."""


def pretrain(
    faces: Faces,
    flags: VAEFlags,
    run: RunFlags,
    accelerator: Accelerator,
    part: str = "vae",
) -> ConvAE:
    """The reference autoencoder, trained on `faces`."""
    kind = ConvVAE if flags.variational else ConvAE
    with seeded(run.seed, "vae"):
        model = kind(
            resolution=faces.images.shape[-1],
            latent_size=flags.latent_size,
            width=flags.width,
            sigma_x=flags.sigma_x,
        )

    def loss(batch: tuple[Tensor, Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch[0].float() / 255
        mirror = step.uniform(1, 1, 1, purpose="mirror") < 0.5
        x = torch.where(mirror, x.flip(-1), x)
        return model.loss(x, step.normal(flags.latent_size), beta=flags.beta)

    optimizer = torch.optim.Adam(model.parameters(), lr=flags.vae_learning_rate)
    parts = accelerator.num_processes * run.gradient_accumulation_steps
    fit(
        Player("vae", model, loss, optimizer),
        faces,
        max_train_steps=flags.vae_train_steps,
        batch_size=flags.vae_batch_size * parts,
        lr_scheduler="cosine",
        lr_warmup_steps=50,
        **run.fit_options(accelerator, part),
    )
    return model.eval()


@torch.no_grad()
def overview(decoder: latentctl.Decoder, x: Tensor, *, seed: int = 0) -> bytes:
    """A picture of ten inputs, their reconstructions, and ten samples of the prior."""
    x = x[:10].to(decoder.device)
    rows = [x, decoder.decode(decoder.encode(x).mean)]
    rows.append(decoder.decode(decoder.prior.sample(len(x), seed=seed).to(decoder.device)))
    value_range = decoder.value_range or (0.0, 1.0)
    return png(grid(torch.cat(rows), columns=len(x), value_range=value_range))


@dataclass
class Flags:
    """Train the reference VAE on faces."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/vae"))
    data: DataFlags = field(default_factory=DataFlags)
    vae: VAEFlags = field(default_factory=VAEFlags)


def main(flags: Flags) -> None:
    logging.basicConfig(format="%(message)s")
    accelerator = flags.run.accelerator("pretrain_vae")
    folder = Path(flags.run.output_dir)
    faces = load_faces(flags.data, flags.run.seed)
    model = pretrain(faces["train"], flags.vae, flags.run, accelerator, part="training")
    if accelerator.is_main_process:
        model.save_pretrained(folder)
        (folder / "flags.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
        decoder = latentctl.wrap(model)
        (folder / "overview.png").write_bytes(overview(decoder, faces["test"].pixels(slice(10))))
        x = faces["test"].pixels().to(decoder.device)
        error = torch.cat([decoder.decode(decoder.encode(p).mean) - p for p in x.split(128)])
        psnr = -10 * error.square().mean().log10().item()
        print(f"Reconstruction of {len(x)} held-out faces: {psnr:.1f} dB PSNR. Model in {folder}.")
    accelerator.end_training()


if __name__ == "__main__":
    run(main, Flags)

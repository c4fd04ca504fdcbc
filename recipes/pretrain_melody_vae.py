"""Train the melody VAE: `accelerate launch recipes/pretrain_melody_vae.py --train_data_dir ...`.

`--output_dir` gets `model/`, which `latentctl.load("melody-vae", ...)` reads, `flags.json`,
`training/metrics.jsonl`, `training/validation.jsonl` and `results.json`. The decoder of two bars is
flat, that of more bars hierarchical.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from latentctl_adapters.melody_rewards import HOLD
from latentctl_adapters.melody_vae import MelodyVAE
from support.melody.data import Melodies, MelodyDataFlags, load_melodies
from support.melody.evaluation import reconstruction_scores
from support.run import RunFlags, run, write_json
from torch import Tensor

from latentctl.errors import InputError
from latentctl.random import seeded
from latentctl.storage.files import append_line
from latentctl.training import Step, train


@dataclass
class MelodyVAEFlags:
    """The autoencoder."""

    pretrained_model_name_or_path: str | None = None  # Weights to continue from.
    latent_size: int = 128  # Dimensions of the latent; 512 in the paper.
    embedding: int = 64  # Dimensions of a token's embedding.
    encoder_size: int = 128  # Units of the encoder in each direction; 2048 in the paper.
    encoder_layers: int = 1  # Layers of the encoder.
    conductor_size: int | None = None  # Units of the conductor; 0 up to 2 bars, else 256.
    conductor_layers: int = 2  # Layers of the conductor.
    decoder_size: int = 256  # Units of the LSTM over notes; 1024 in the paper.
    decoder_layers: int = 1  # Layers of that LSTM; 2 in the paper.
    by_position: bool = True  # Separate weights for each step after the latent; not in the paper.
    beta: float = 0.15  # Weight of the KL divergence.
    beta_warmup: float = 0.3  # Share of the run over which the weight rises from 0.
    free_bits: float = 0.0  # Bits of the KL of a melody that are not penalised.
    token_dropout: float = 0.3  # Share of the decoder's input tokens that are dropped.
    scheduled_sampling: float = 0.0  # Share of its own predictions among them at the end.
    transpose: int = 0  # Largest transposition in semitones, within the range of the data.
    vae_train_steps: int = 3000  # Optimizer steps.
    vae_batch_size: int = 128  # Melodies in a step of one process.
    vae_learning_rate: float = 2e-3  # Peak learning rate.
    validation_steps: int = 500  # Steps from one validation to the next.
    validation_samples: int = 1000  # Melodies of each validation.

    def check(self) -> None:
        """Raises an `InputError` if a share is not in [0, 1], or a weight is negative."""
        for name in ("beta_warmup", "token_dropout", "scheduled_sampling"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"--{name} must be a share in [0, 1], it is {getattr(self, name)}."
                )
        for name in ("beta", "free_bits", "transpose"):
            if not getattr(self, name) >= 0:
                raise InputError(f"--{name} must not be negative, it is {getattr(self, name)}.")


def build(flags: MelodyVAEFlags, bars: int) -> MelodyVAE:
    """The network of the flags, untrained."""
    names = ("latent_size", "embedding", "encoder_size", "encoder_layers", "conductor_layers")
    names += ("decoder_size", "decoder_layers", "by_position")
    conductor = flags.conductor_size
    if conductor is None:
        conductor = 0 if bars <= 2 else 256
    sizes = {name: getattr(flags, name) for name in names}
    return MelodyVAE(bars=bars, conductor_size=conductor, **sizes)


def transposed(x: Tensor, u: Tensor, semitones: int, pitches: tuple[int, int]) -> Tensor:
    """Melodies `x (B, steps)` transposed by uniform draws `u (B, 1)`, within a range of pitches."""
    notes = x < HOLD
    low = x.where(notes, HOLD).amin(1, keepdim=True)
    high = x.where(notes, -1).amax(1, keepdim=True)
    down = (low - pitches[0]).clamp(0, semitones)
    up = (pitches[1] - high).clamp(0, semitones)
    shift = (u * (down + up + 1)).long() - down
    return torch.where(notes & notes.any(1, keepdim=True), x + shift, x)


def loss_of(
    model: MelodyVAE, flags: MelodyVAEFlags, pitches: tuple[int, int]
) -> Callable[[Tensor, Step], tuple[Tensor, dict[str, Tensor]]]:
    """The loss of a training step, with its schedules and augmentations."""

    def loss(x: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        done = step.index / flags.vae_train_steps
        if flags.transpose:
            x = transposed(x, step.uniform(1, purpose="shift"), flags.transpose, pitches)
        eps = step.normal(model.config["latent_size"])
        keep = step.uniform(x.shape[1], purpose="dropout") >= flags.token_dropout
        inputs = x
        if flags.scheduled_sampling:
            with torch.no_grad():
                guess = model.logits(x, model.encode(x).mean, keep).argmax(2)
            own = step.uniform(x.shape[1], purpose="own") < done * flags.scheduled_sampling
            inputs = torch.where(own, guess, x)
        beta = flags.beta * min(1.0, done / flags.beta_warmup) if flags.beta_warmup else flags.beta
        return model.loss(x, eps, keep=keep, inputs=inputs, beta=beta, free_bits=flags.free_bits)

    return loss


@dataclass
class Flags:
    """Train the melody VAE."""

    run: RunFlags = field(
        default_factory=lambda: RunFlags(output_dir="outputs/melody_vae", max_grad_norm=5.0)
    )
    data: MelodyDataFlags = field(default_factory=MelodyDataFlags)
    vae: MelodyVAEFlags = field(default_factory=MelodyVAEFlags)


def main(flags: Flags) -> dict[str, float]:
    """Train, save and evaluate; returns the `reconstruction_scores` of the test melodies."""
    options, folder = flags.vae, Path(flags.run.output_dir)
    options.check()
    accelerator = flags.run.accelerator("pretrain_melody_vae")
    melodies: dict[str, Melodies] = load_melodies(flags.data, flags.run.seed)
    if options.pretrained_model_name_or_path:
        model = MelodyVAE.from_pretrained(options.pretrained_model_name_or_path).train()
        model.check(melodies["train"][:1])
    else:
        with seeded(flags.run.seed, "melody"):
            model = build(options, flags.data.bars)
    shown = melodies["validation"][: options.validation_samples]

    def validate(step: int) -> None:
        if step % options.validation_steps or not accelerator.is_main_process:
            return
        line = {"step": step, **reconstruction_scores(model, shown)}
        append_line(folder / "training" / "validation.jsonl", json.dumps(line))

    train(
        model,
        loss_of(model, options, melodies["train"].pitch_range()),
        melodies["train"],
        name="melody_vae",
        learning_rate=options.vae_learning_rate,
        betas=(0.9, 0.99),
        max_train_steps=options.vae_train_steps,
        on_step=validate,
        **flags.run.fit_options(
            accelerator,
            "training",
            options.vae_batch_size,
            lr_scheduler="cosine",
            lr_warmup_steps=min(50, options.vae_train_steps // 10),
        ),
    )
    results: dict[str, float] = {}
    if accelerator.is_main_process:
        model.save_pretrained(folder / "model")
        write_json(folder / "flags.json", flags)
        results = reconstruction_scores(model, melodies["test"][:])
        write_json(folder / "results.json", results)
        print(
            f"Reconstruction of {len(melodies['test'])} held-out melodies: "
            f"{results['greedy']:.1%} of the steps ({results['teacher_forced']:.1%} "
            f"teacher-forced), {results['exact']:.1%} of the melodies without an error. Model in "
            f"{folder / 'model'}."
        )
    accelerator.end_training()
    return results


if __name__ == "__main__":
    run(main, Flags)

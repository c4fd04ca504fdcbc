"""Train the melody VAE: `accelerate launch recipes/pretrain_melody_vae.py --train_data_dir ...`.

The result in `--output_dir` is a folder that `latentctl.load("melody-vae", ...)` reads, with
`flags.json`, `training/metrics.jsonl`, `training/validation.jsonl` and `results.json`. Two bars are
written by a flat decoder, more of them by a hierarchical one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from latentctl_adapters.melody_rewards import HOLD
from latentctl_adapters.melody_vae import MelodyVAE
from pretrain_vae import RunFlags
from support.melody.data import Melodies, MelodyDataFlags, load_melodies
from support.run import run
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from latentctl.errors import InputError
from latentctl.random import seeded
from latentctl.training import Player, Step, fit

CHUNK = 256


@dataclass
class MelodyVAEFlags:
    """The base autoencoder."""

    pretrained_model_name_or_path: str | None = None
    """Go on from the weights of this folder or hub id, whose sizes then count."""
    latent_size: int = 128
    """Dimensions of the latent; 512 in the paper."""
    embedding: int = 64
    """Dimensions of a token's embedding."""
    encoder_size: int = 128
    """Units of the encoder in each direction; 2048 in the paper."""
    encoder_layers: int = 1
    """Layers of the encoder."""
    conductor_size: int | None = None
    """Units of the conductor, 0 for none; by default 0 up to 2 bars, else 256."""
    conductor_layers: int = 2
    """Layers of the conductor."""
    decoder_size: int = 256
    """Units of the LSTM that writes notes; 1024 in the paper."""
    decoder_layers: int = 1
    """Layers of it; 2 in the paper."""
    by_position: bool = True
    """Weights of each step's own between latent and LSTM; False for the paper's networks."""
    beta: float = 0.15
    """Weight of the KL divergence."""
    beta_warmup: float = 0.3
    """Share of the run over which the weight rises from 0."""
    free_bits: float = 0.0
    """Bits of the KL of a melody that cost nothing."""
    token_dropout: float = 0.3
    """Share of tokens that the decoder is not told, so that it asks the latent."""
    scheduled_sampling: float = 0.0
    """Share of tokens that are told as the model itself guesses them, reached at the end."""
    transpose: int = 0
    """Shift each melody by up to so many semitones, within the pitches of the training data."""
    vae_train_steps: int = 3000
    """Optimizer steps."""
    vae_batch_size: int = 128
    """Melodies in a step of one process."""
    vae_learning_rate: float = 2e-3
    """Peak learning rate."""
    validation_steps: int = 500
    """Steps from one validation to the next."""
    validation_samples: int = 1000
    """Validation melodies that are decoded each time."""

    def check(self) -> None:
        """Raises unless the shares are shares.

        Raises:
            InputError: If one is not in [0, 1], or a weight is negative.
        """
        for name in ("beta_warmup", "token_dropout", "scheduled_sampling"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name} is a share in [0, 1], not {getattr(self, name)}.")
        for name in ("beta", "free_bits", "transpose"):
            if not getattr(self, name) >= 0:
                raise InputError(f"--{name} must not be negative, it is {getattr(self, name)}.")


def build(flags: MelodyVAEFlags, bars: int) -> MelodyVAE:
    """The network of the flags, untrained."""
    conductor = flags.conductor_size
    if conductor is None:
        conductor = 0 if bars <= 2 else 256
    return MelodyVAE(
        bars=bars,
        latent_size=flags.latent_size,
        embedding=flags.embedding,
        encoder_size=flags.encoder_size,
        encoder_layers=flags.encoder_layers,
        conductor_size=conductor,
        conductor_layers=flags.conductor_layers,
        decoder_size=flags.decoder_size,
        decoder_layers=flags.decoder_layers,
        by_position=flags.by_position,
    )


def transposed(x: Tensor, u: Tensor, semitones: int, pitches: tuple[int, int]) -> Tensor:
    """Melodies `x (B, steps)` shifted by up to `semitones`, as far as `pitches` allow.

    Arguments:
        x: Tokens.
        u: Uniform draws in [0, 1), `(B, 1)`, that decide the shift.
        semitones: The largest shift.
        pitches: The lowest and the highest pitch there may be.
    """
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
    """The loss of a training step, with its schedules."""

    def loss(x: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        done = step.index / flags.vae_train_steps
        if flags.transpose:
            x = transposed(x, step.uniform(1, purpose="shift"), flags.transpose, pitches)
        eps = step.normal(model.config["latent_size"])
        keep = step.uniform(x.shape[1], purpose="dropout") >= flags.token_dropout
        told = x
        if flags.scheduled_sampling:
            with torch.no_grad():
                guess = model.logits(x, model.encode(x).mean, keep).argmax(2)
            own = step.uniform(x.shape[1], purpose="own") < done * flags.scheduled_sampling
            told = torch.where(own, guess, x)
        beta = flags.beta * min(1.0, done / flags.beta_warmup) if flags.beta_warmup else flags.beta
        return model.loss(x, eps, keep=keep, told=told, beta=beta, free_bits=flags.free_bits)

    return loss


@torch.no_grad()
def measure(model: MelodyVAE, x: Tensor) -> dict[str, float]:
    """How melodies `x (N, steps)` come back from the mean of their posterior.

    Returns:
        `greedy`, the share of steps that are right; `exact`, the share of melodies that are right
        throughout; `teacher_forced`, the share of steps where each is told the true tokens before
        it; `nll` and `kl` in nats per melody.
    """
    device = next(model.parameters()).device
    sums = dict.fromkeys(("greedy", "exact", "teacher_forced", "nll", "kl"), 0.0)
    for part in x.split(CHUNK):
        part = part.to(device)
        q = model.encode(part)
        right = model.decode(q.mean) == part
        told = model.logits(part, q.mean)
        kl = kl_divergence(q, Normal(0.0, 1.0))
        sums["greedy"] += right.float().mean(1).sum().item()
        sums["exact"] += right.all(1).sum().item()
        sums["teacher_forced"] += (told.argmax(2) == part).float().mean(1).sum().item()
        sums["nll"] -= model.log_prob(part, q.mean).sum().item()
        sums["kl"] += kl.sum().item()
    return {name: value / len(x) for name, value in sums.items()}


@dataclass
class Flags:
    """Train the melody VAE."""

    run: RunFlags = field(
        default_factory=lambda: RunFlags(output_dir="outputs/melody_vae", max_grad_norm=5.0)
    )
    data: MelodyDataFlags = field(default_factory=MelodyDataFlags)
    vae: MelodyVAEFlags = field(default_factory=MelodyVAEFlags)


def main(flags: Flags) -> dict[str, float]:
    """Train, save and measure; returns what `measure` says of the test melodies."""
    logging.basicConfig(format="%(message)s")
    options = flags.vae
    options.check()
    accelerator = flags.run.accelerator("pretrain_melody_vae")
    folder = Path(flags.run.output_dir)
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
        line = {"step": step, **measure(model, shown)}
        with open(folder / "training" / "validation.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    parts = accelerator.num_processes * flags.run.gradient_accumulation_steps
    rate = options.vae_learning_rate
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99))
    fit(
        Player(
            "melody_vae",
            model,
            loss_of(model, options, melodies["train"].pitch_range()),
            optimizer,
        ),
        melodies["train"],
        max_train_steps=options.vae_train_steps,
        batch_size=options.vae_batch_size * parts,
        lr_scheduler="cosine",
        lr_warmup_steps=min(50, options.vae_train_steps // 10),
        on_step=validate,
        **flags.run.fit_options(accelerator, "training"),
    )
    model.eval()
    results: dict[str, float] = {}
    if accelerator.is_main_process:
        model.save_pretrained(folder)
        (folder / "flags.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
        results = measure(model, melodies["test"][:])
        (folder / "results.json").write_text(json.dumps(results, indent=2))
        print(
            f"{len(melodies['test'])} held-out melodies: {results['greedy']:.1%} of the steps come "
            f"back ({results['teacher_forced']:.1%} teacher-forced), {results['exact']:.1%} of the "
            f"melodies without an error. Model in {folder}."
        )
    accelerator.end_training()
    return results


if __name__ == "__main__":
    run(main, Flags)

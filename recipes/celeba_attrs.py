"""Attributes for a frozen face decoder: `accelerate launch recipes/celeba_attrs.py`.

Conditional samples and identity-preserving edits of faces by a frozen autoencoder, with a report by
independent networks on pixels. In order: load or train the autoencoder and freeze it; encode the
faces once; fit the attribute critic and the actor on the cached latents; sample, edit, evaluate.
Without any flag the faces are drawn and the autoencoder is trained here; nothing is downloaded.

    --train_data_dir DIR                        photographs instead of drawn faces
    --pretrained_model_name_or_path DIR_OR_ID   a trained reference VAE
    --decoder FILE.py:FUNCTION                  your own model: a function that returns it
    --pixel_teacher_train_seconds SECONDS       distil the critic from a network on pixels

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from support.celeba_attrs.pictures import Trained
from support.celeba_attrs.pixel_teacher import DistillationFlags, distilled
from support.celeba_attrs.report import write_report
from support.face_evaluation import JudgeFlags, load_judges
from support.faces import DataFlags, load_faces
from support.models import DecoderFlags, load_decoder
from support.reference_vae import VAEFlags, overview, pretrain
from support.run import HubFlags, RunFlags, run, timed, write_json

import latentctl
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching, Gaussian, Latents
from latentctl.controllers import Controller, Transport
from latentctl.decoder import Prior
from latentctl.display.picture import grid, png
from latentctl.errors import FingerprintError, UnknownNameError

SIZES = {"default": (512, 4), "small": (256, 3), "paper": (2048, 4)}


@dataclass
class ControlFlags:
    """The critics and the controller."""

    controller: str = "actor"
    """actor, flow-matching, ascent or transport: the controller of conditional samples."""
    preset: str = "default"
    """default (512 x 4); small (256 x 3); paper (2048 x 4, no teacher, no attribute critic)."""
    teacher_train_steps: int = 500  # Steps of the flow matching that the actor clones; 0: none.
    realism_teacher_train_steps: int = 300  # The same for the actor of realism alone.
    demonstration_steps: int = 500  # Steps in which an actor clones these moves.
    critic_warmup_steps: int = 100  # Steps of the realism critic alone after the cloning.
    max_train_steps: int = 150  # Steps of the adversarial training, critic and actor together.
    realism_train_steps: int = 0  # The same for the actor of realism alone.
    critic_train_steps: int = 600  # Steps of the attribute critic.
    train_batch_size: int = 256  # Latents in a step of one process.
    learning_rate: float = 3e-4  # Learning rate of the realism critics.
    actor_learning_rate: float = 3e-5  # Learning rate of the actors in the adversarial training.
    attribute_weight: float = 0.3  # Weight of the attribute critic in the loss; 0 in the paper.
    distance_weight: float = 0.0  # Weight of the distance penalty; 0 or 0.1 in the paper.


@dataclass
class Flags:
    """Attributes for a frozen face decoder."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/celeba_attrs"))
    data: DataFlags = field(default_factory=DataFlags)
    frozen: DecoderFlags = field(default_factory=DecoderFlags)
    vae: VAEFlags = field(default_factory=VAEFlags)
    control: ControlFlags = field(default_factory=ControlFlags)
    distill: DistillationFlags = field(default_factory=DistillationFlags)
    judges: JudgeFlags = field(default_factory=JudgeFlags)
    hub: HubFlags = field(default_factory=HubFlags)
    num_edits: int = 50  # Held-out faces of which every attribute is flipped once.


def train(
    decoder: latentctl.Decoder,
    latents: Latents,
    flags: ControlFlags,
    run: RunFlags,
    accelerator: Accelerator,
    attributes: AttributeCritic | None = None,
) -> Trained:
    """The critics and the controllers, on cached latents; the decoder is not called."""
    seconds: dict[str, float] = {}
    prior: Prior = decoder.prior
    if latents.std is None:  # a plain autoencoder was trained without a prior
        prior = Gaussian.fit(latents)
    if flags.preset not in SIZES:
        raise UnknownNameError("preset", flags.preset, SIZES)
    width, depth = SIZES[flags.preset]
    paper = flags.preset == "paper"
    if attributes is None:
        with timed(seconds, "attribute critic"):
            attributes = AttributeCritic.fit(
                latents,
                max_train_steps=flags.critic_train_steps,
                **({"width": 2048, "depth": 4, "learning_rate": 1e-4} if paper else {}),
                **run.fit_options(accelerator, "attributes"),
            )

    def matched(part: str, data: Latents, steps: int) -> FlowMatching | None:
        if steps == 0 or paper:
            return None
        with timed(seconds, part.replace("_", " ")):
            return FlowMatching.fit(
                data,
                prior=prior,
                steps=4,  # of Heun's method: nearly as good as 8, in half of the time
                max_train_steps=steps,
                **run.fit_options(accelerator, part, flags.train_batch_size),
            )

    game: dict[str, Any] = {
        "prior": prior,
        "width": width,
        "depth": depth,
        "demonstration_steps": flags.demonstration_steps,
        "learning_rate": 1e-4 if paper else flags.learning_rate,
        "actor_learning_rate": 1e-4 if paper else flags.actor_learning_rate,
        "critic_turns": 10 if paper else 2,
        **({"free_share": 0.0, "ema": None} if paper else {}),
    }
    unlabelled = latents.select([])
    teacher = matched("realism_teacher", unlabelled, flags.realism_teacher_train_steps)
    with timed(seconds, "realism alone"):
        realism_actor = Actor.fit(
            unlabelled,
            teacher=teacher,
            critic_warmup_steps=flags.critic_warmup_steps if flags.realism_train_steps else 0,
            max_train_steps=flags.realism_train_steps,
            **game,
            **run.fit_options(accelerator, "realism", flags.train_batch_size),
        )
    teacher = matched("teacher", latents, flags.teacher_train_steps)
    with timed(seconds, "conditional actor"):
        actor = Actor.fit(
            latents,
            teacher=teacher,
            attributes=attributes,
            attribute_weight=0.0 if paper else flags.attribute_weight,
            distance_weight=flags.distance_weight,
            critic_warmup_steps=flags.critic_warmup_steps,
            max_train_steps=flags.max_train_steps,
            **game,
            **run.fit_options(accelerator, "actor", flags.train_batch_size),
        )
    controllers: dict[str, Controller] = {
        "actor": actor,
        "ascent": Ascent(attributes, actor.realism),
        "transport": Transport(attributes, actor.realism),
    }
    if teacher is not None:
        controllers["flow-matching"] = teacher
    if flags.controller not in controllers:
        raise UnknownNameError("controller", flags.controller, controllers)
    conditional = latentctl.condition(
        decoder,
        attributes,
        controllers[flags.controller],
        editor=Ascent.for_edits(attributes),
        realism=actor.realism,
        prior=prior,
    )
    return Trained(attributes, realism_actor, conditional, seconds)


def main(flags: Flags) -> Path:
    flags.hub.check()
    started, run = time.monotonic(), flags.run
    accelerator = run.accelerator("celeba_attrs")
    folder = Path(run.output_dir)
    seconds: dict[str, float] = {}
    with timed(seconds, "load the faces"):
        faces = load_faces(flags.data, run.seed)
    if accelerator.is_main_process:
        write_json(folder / "config.json", flags)
        pictures = grid(faces["train"].pixels(slice(40)), columns=10)
        (folder / "faces.png").write_bytes(png(pictures))

    decoder = load_decoder(flags.frozen)
    if decoder is None:
        with timed(seconds, "train the autoencoder"):
            model = pretrain(faces["train"], flags.vae, run, accelerator)
        if accelerator.is_main_process:
            model.save_pretrained(folder / "base")
        decoder = latentctl.wrap(model)
    decoder.to(accelerator.device)
    fingerprint = decoder.fingerprint()
    if accelerator.is_main_process:
        (folder / "overview.png").write_bytes(overview(decoder, faces["test"].pixels(slice(10))))

    with timed(seconds, "encode the faces"):
        latents = latentctl.encode_dataset(
            decoder,
            faces["train"].mirrored(),
            folder / "cache" / fingerprint[:16],
            attributes=faces["train"].names,
            batch_size=128,
            accelerator=accelerator,
        )
    attributes = None
    if flags.distill.pixel_teacher_train_seconds > 0:
        with timed(seconds, "distil the attribute critic"):
            attributes = distilled(
                decoder, faces["train"], latents, flags.distill, run, accelerator
            )
    trained = train(decoder, latents, flags.control, run, accelerator, attributes)
    report = folder / "report.html"
    seconds |= trained.seconds
    with timed(seconds, "train or load the judges"):
        judges = load_judges(flags.judges, faces["train"], run.seed, accelerator)
    if accelerator.is_main_process:
        trained.conditional.save_pretrained(folder / "pack")
        if flags.judges.judge is None:
            judges.attributes.save_pretrained(folder / "judge")  # an evaluator for edit_identity.py
        write_report(folder, dataclasses.asdict(flags), trained, latents, faces, judges, seconds)
        flags.hub.push(trained.conditional, run.output_dir)
        print(f"Done in {time.monotonic() - started:.0f} s. The report is {report}.")
    if decoder.fingerprint() != fingerprint:
        raise FingerprintError("The frozen decoder has changed during the run.")
    accelerator.end_training()
    return report


if __name__ == "__main__":
    run(main, Flags)

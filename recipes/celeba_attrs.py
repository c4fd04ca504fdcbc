"""Attributes for a frozen face decoder: `accelerate launch recipes/celeba_attrs.py`.

Real faces and a frozen autoencoder become conditional samples, edits that keep the identity, and a
report on both by judges that never see a latent. In order: load or train the autoencoder and
freeze it; encode the faces once; fit the attribute critic and play the actor's game on the cached
latents; sample, edit, judge. With no flag at all, the faces are drawn and the autoencoder is
trained here, so that nothing is downloaded.

    --train_data_dir DIR                        photographs instead of drawn faces
    --pretrained_model_name_or_path DIR_OR_ID   a trained reference VAE
    --decoder FILE.py:FUNCTION                  your own model: a function that returns it
    --teacher_train_seconds SECONDS             a critic taught by a network on pixels, for edits

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain_vae import RunFlags, VAEFlags, overview, pretrain
from support.celeba_attrs.pixel_teacher import TeachFlags, taught
from support.celeba_attrs.report import write_report
from support.face_evaluation import JudgeFlags, load_judges
from support.faces import DataFlags, load_faces
from support.models import load_decoder
from support.run import run

import latentctl
from latentctl import Actor, Ascent, AttributeCritic, Conditional, FlowMatching, Gaussian, Latents
from latentctl.conditional.picture import grid, png
from latentctl.controllers import Controller, Transport
from latentctl.decoder import Prior

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


@dataclass
class DecoderFlags:
    """The frozen decoder; trained here if none is given."""

    pretrained_model_name_or_path: str | None = None
    """A folder or hub id of a reference VAE."""
    revision: str | None = None
    """Its revision on the hub."""
    decoder: str | None = None
    """FILE.py:FUNCTION that returns any model which `latentctl.wrap` takes."""


@dataclass
class ControlFlags:
    """The critics and the controller."""

    controller: str = "actor"
    """actor, flow-matching, ascent or transport: what conditional samples are made with."""
    preset: str = "default"
    """default (512 x 4); small (256 x 3); paper (2048 x 4, no teacher, no attribute critic)."""
    teacher_train_steps: int = 500
    """Steps of the flow matching that teaches the actor; 0 for none."""
    realism_teacher_train_steps: int = 300
    """Steps of the one that teaches the actor of realism alone; 0 for none."""
    lessons: int = 500
    """Steps in which an actor imitates it."""
    head_start: int = 100
    """Steps of the realism critic alone before a taught actor plays."""
    max_train_steps: int = 150
    """Steps of the actor's game, critic and actor together."""
    realism_train_steps: int = 0
    """Steps of the game of realism alone."""
    critic_train_steps: int = 600
    """Steps of the attribute critic."""
    train_batch_size: int = 256
    """Latents in a step of one process."""
    learning_rate: float = 3e-4
    """Of the realism critics."""
    actor_learning_rate: float = 3e-5
    """Of the actors while they play."""
    attribute_weight: float = 0.3
    """Weight of the attribute critic in the actor's loss; 0 in the paper."""
    distance_weight: float = 0.0
    """Weight of the distance penalty; 0 or 0.1 in the paper."""


@dataclass
class Flags:
    """Attributes for a frozen face decoder."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/celeba_attrs"))
    data: DataFlags = field(default_factory=DataFlags)
    frozen: DecoderFlags = field(default_factory=DecoderFlags)
    vae: VAEFlags = field(default_factory=VAEFlags)
    control: ControlFlags = field(default_factory=ControlFlags)
    teach: TeachFlags = field(default_factory=TeachFlags)
    judges: JudgeFlags = field(default_factory=JudgeFlags)
    num_edits: int = 50
    """Held-out faces of which every attribute is flipped once."""


SIZES = {"default": (512, 4), "small": (256, 3), "paper": (2048, 4)}


@dataclass
class Trained:
    """What the run learned, and how long each part took."""

    attributes: AttributeCritic
    teacher: FlowMatching | None
    realism_actor: Actor
    conditional: Conditional
    seconds: dict[str, float]


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
    if latents.std is None:  # a plain autoencoder was trained with no prior
        prior = Gaussian.fit(latents)
    if flags.preset not in SIZES:
        raise latentctl.errors.UnknownNameError("preset", flags.preset, SIZES)
    width, depth = SIZES[flags.preset]

    paper = flags.preset == "paper"
    if attributes is None:
        started = time.monotonic()
        attributes = AttributeCritic.fit(
            latents,
            max_train_steps=flags.critic_train_steps,
            **({"width": 2048, "depth": 4, "learning_rate": 1e-4} if paper else {}),
            **run.fit_options(accelerator, "attributes"),
        )
        seconds["attribute critic"] = time.monotonic() - started

    parts = accelerator.num_processes * run.gradient_accumulation_steps
    batch_size = flags.train_batch_size * parts

    def matched(part: str, data: Latents, steps: int) -> FlowMatching | None:
        if steps == 0 or paper:
            return None
        started = time.monotonic()
        flow = FlowMatching.fit(
            data,
            prior=prior,
            steps=4,  # of Heun's method: nearly as good as 8, and the lessons take half the time
            max_train_steps=steps,
            batch_size=batch_size,
            **run.fit_options(accelerator, part),
        )
        seconds[part.replace("_", " ")] = time.monotonic() - started
        return flow

    game: dict[str, Any] = {
        "prior": prior,
        "width": width,
        "depth": depth,
        "lessons": flags.lessons,
        "head_start": flags.head_start,
        "batch_size": batch_size,
        "learning_rate": 1e-4 if paper else flags.learning_rate,
        "actor_learning_rate": 1e-4 if paper else flags.actor_learning_rate,
        "critic_turns": 10 if paper else 2,
        **({"free_share": 0.0, "ema": None} if paper else {}),
    }
    unlabelled = latents.select([])
    teacher = matched("realism_teacher", unlabelled, flags.realism_teacher_train_steps)
    started = time.monotonic()
    realism_actor = Actor.fit(
        unlabelled,
        teacher=teacher,
        max_train_steps=flags.realism_train_steps,
        **{**game, "head_start": flags.head_start if flags.realism_train_steps else 0},
        **run.fit_options(accelerator, "realism"),
    )
    seconds["realism alone"] = time.monotonic() - started

    teacher = matched("teacher", latents, flags.teacher_train_steps)
    started = time.monotonic()
    actor = Actor.fit(
        latents,
        teacher=teacher,
        attributes=attributes,
        attribute_weight=0.0 if paper else flags.attribute_weight,
        distance_weight=flags.distance_weight,
        max_train_steps=flags.max_train_steps,
        **game,
        **run.fit_options(accelerator, "actor"),
    )
    seconds["conditional actor"] = time.monotonic() - started

    controllers: dict[str, Controller] = {
        "actor": actor,
        "ascent": Ascent(attributes, actor.realism),
        "transport": Transport(attributes, actor.realism),
    }
    if teacher is not None:
        controllers["flow-matching"] = teacher
    if flags.controller not in controllers:
        raise latentctl.errors.UnknownNameError("controller", flags.controller, controllers)
    conditional = latentctl.condition(
        decoder,
        attributes,
        controllers[flags.controller],
        editor=Ascent.for_edits(attributes),
        realism=actor.realism,
        prior=prior,
    )
    return Trained(attributes, teacher, realism_actor, conditional, seconds)


def main(flags: Flags) -> Path:
    logging.basicConfig(format="%(message)s")
    started = time.monotonic()
    run = flags.run
    accelerator = run.accelerator("celeba_attrs")
    folder = Path(run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(flags), indent=2))
    seconds: dict[str, float] = {}

    faces = load_faces(flags.data, run.seed)
    if accelerator.is_main_process:
        pictures = grid(faces["train"].pixels(slice(40)), columns=10)
        (folder / "faces.png").write_bytes(png(pictures))
    seconds["load the faces"] = time.monotonic() - started

    began = time.monotonic()
    decoder = load_decoder(
        flags.frozen.decoder, flags.frozen.pretrained_model_name_or_path, flags.frozen.revision
    )
    if decoder is None:
        model = pretrain(faces["train"], flags.vae, run, accelerator)
        if accelerator.is_main_process:
            model.save_pretrained(folder / "base")
        decoder = latentctl.wrap(model)
        seconds["train the autoencoder"] = time.monotonic() - began
    decoder.to(accelerator.device)
    fingerprint = decoder.fingerprint()
    if accelerator.is_main_process:
        (folder / "overview.png").write_bytes(overview(decoder, faces["test"].pixels(slice(10))))

    began = time.monotonic()
    latents = latentctl.encode_dataset(
        decoder,
        faces["train"].mirrored(),
        folder / "cache" / fingerprint[:16],
        attributes=faces["train"].names,
        batch_size=128,
        accelerator=accelerator,
    )
    seconds["encode the faces"] = time.monotonic() - began

    attributes = None
    if flags.teach.teacher_train_seconds > 0:
        began = time.monotonic()
        attributes = taught(decoder, faces["train"], latents, flags.teach, run, accelerator)
        seconds["teach the attribute critic"] = time.monotonic() - began
    trained = train(decoder, latents, flags.control, run, accelerator, attributes)
    seconds |= trained.seconds
    report = folder / "report.html"
    if accelerator.is_main_process:
        trained.conditional.save_pretrained(folder / "pack")
        began = time.monotonic()
        judges = load_judges(flags.judges, faces["train"], run.seed)
        if flags.judges.judge is None:
            judges.attributes.save(folder / "judge")  # an evaluator for edit_identity.py
        seconds["train or load the judges"] = time.monotonic() - began
        write_report(folder, flags, trained, latents, faces, judges, seconds)
        print(f"Done in {time.monotonic() - started:.0f} s. The report is {report}.")
    if decoder.fingerprint() != fingerprint:
        raise latentctl.errors.FingerprintError("The frozen decoder has changed during the run.")
    accelerator.end_training()
    return report


if __name__ == "__main__":
    run(main, Flags)

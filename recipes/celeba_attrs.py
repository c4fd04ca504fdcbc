"""Attributes for a frozen face decoder: `accelerate launch recipes/celeba_attrs.py`.

Conditional samples and identity-preserving edits of faces by a frozen autoencoder, with a report by
independent networks on pixels. In order: load the autoencoder and freeze it; encode the faces once;
teach the attribute critic by networks on pixels that are trained here; fit the actor on the cached
latents; sample, edit, evaluate. Without any flag the faces are drawn and the autoencoder is the one
that ships with the package; nothing is downloaded.

    --train_data_dir DIR                        photographs instead of drawn faces
    --decoder FILE.py:FUNCTION                  your own model: a function that returns it
    --pretrained_model_name_or_path DIR_OR_ID   a trained reference VAE
    --train_vae                                 train such a VAE here first

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
from latentctl_adapters import embedded
from support.celeba_attrs.pictures import Trained, first_picture
from support.celeba_attrs.report import write_report
from support.celeba_attrs.teaching import TeachFlags, taught
from support.face_evaluation import JudgeFlags, load_judges
from support.faces import DataFlags, Faces, load_faces
from support.models import DecoderFlags, load_decoder
from support.parts import Parts
from support.reference_vae import VAEFlags, overview, pretrain
from support.run import HubFlags, RunFlags, run, write_json

import latentctl
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching, Gaussian, Latents, PixelCritic
from latentctl.controllers import Controller, FlowEdit, Transport
from latentctl.decoder import Prior
from latentctl.errors import FingerprintError, InputError, UnknownNameError

PARTS = {  # seconds on two cores
    "load the faces": 10.0,
    "encode the faces": 10.0,
    "teach the critic": 50.0,
    "flow matching": 60.0,
    "actor": 45.0,
    "evaluate and draw": 40.0,
}
CONTROLLERS = ("flow-matching", "actor", "ascent", "transport")
SIZES = {"default": (512, 4), "small": (256, 3), "paper": (2048, 4)}


@dataclass
class ControlFlags:
    """The critics and the controller."""

    controller: str = "flow-matching"
    """flow-matching, actor, ascent or transport: the controller of conditional samples. An actor
    is trained for the last three."""
    preset: str = "default"
    """default (512 x 4); small (256 x 3); paper (2048 x 4, without flow matching)."""
    flow_train_steps: int = 1000
    """Steps of the flow matching, which an actor clones; 0: none."""
    realism_teacher_train_steps: int = 0
    """The same for an actor of realism alone, which is a row of the report; 0: none."""
    demonstration_steps: int = 500  # Steps in which an actor clones these moves.
    critic_warmup_steps: int = 100  # Steps of the realism critic alone after the cloning.
    max_train_steps: int = 150  # Steps of the adversarial training, critic and actor together.
    realism_train_steps: int = 0  # The same for the actor of realism alone.
    train_batch_size: int = 256  # Latents in a step of one process.
    learning_rate: float = 3e-4  # Learning rate of the realism critics.
    actor_learning_rate: float = 3e-5  # Learning rate of the actors in the adversarial training.
    attribute_weight: float = 0.3  # Weight of the attribute critic in the loss; 0 in the paper.
    distance_weight: float = 0.0  # Weight of the distance penalty; 0 or 0.1 in the paper.

    @property
    def matches(self) -> bool:
        """Whether flow matching is trained."""
        return self.flow_train_steps > 0 and self.preset != "paper"

    def check(self) -> None:
        """Raises where the settings contradict each other."""
        if self.preset not in SIZES:
            raise UnknownNameError("preset", self.preset, SIZES)
        if self.controller not in CONTROLLERS:
            raise UnknownNameError("controller", self.controller, CONTROLLERS)
        if self.controller == "flow-matching" and not self.matches:
            raise InputError(
                "With --preset paper or --flow_train_steps 0 there is no flow matching to sample "
                "by. Add --controller actor."
            )


@dataclass
class Flags:
    """Attributes for a frozen face decoder."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/celeba_attrs"))
    data: DataFlags = field(default_factory=DataFlags)
    frozen: DecoderFlags = field(default_factory=DecoderFlags)
    train_vae: bool = False  # Train the reference VAE here, on the faces.
    vae: VAEFlags = field(default_factory=VAEFlags)
    teach: TeachFlags = field(default_factory=TeachFlags)
    control: ControlFlags = field(default_factory=ControlFlags)
    judges: JudgeFlags = field(default_factory=JudgeFlags)
    hub: HubFlags = field(default_factory=HubFlags)
    num_edits: int = 50  # Held-out faces of which every attribute is flipped once.

    @property
    def uses_shipped(self) -> bool:
        """Whether the generator is the one that ships with the package."""
        return self.data.drawn and not self.train_vae and not self.frozen.named


def train(
    decoder: latentctl.Decoder,
    latents: Latents,
    critic: AttributeCritic,
    evaluator: PixelCritic | None,
    flags: ControlFlags,
    run: RunFlags,
    accelerator: Accelerator,
    parts: Parts,
) -> Trained:
    """The controllers, on cached latents; the decoder is not called."""
    prior: Prior = decoder.prior
    if latents.std is None:  # a plain autoencoder was trained without a prior
        prior = Gaussian.fit(latents)
    width, depth = SIZES[flags.preset]
    paper = flags.preset == "paper"

    def matched(part: str, data: Latents, steps: int) -> FlowMatching | None:
        if steps == 0 or paper:
            return None
        with parts(part):
            return FlowMatching.fit(
                data,
                prior=prior,
                steps=4,  # of Heun's method: nearly as good as 8, in half of the time
                max_train_steps=steps,
                **run.fit_options(accelerator, part.replace(" ", "_"), flags.train_batch_size),
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
    realism_actor = None
    if flags.realism_teacher_train_steps or flags.realism_train_steps:
        unlabelled = latents.select([])
        teacher = matched("realism teacher", unlabelled, flags.realism_teacher_train_steps)
        with parts("realism alone"):
            realism_actor = Actor.fit(
                unlabelled,
                teacher=teacher,
                critic_warmup_steps=flags.critic_warmup_steps if flags.realism_train_steps else 0,
                max_train_steps=flags.realism_train_steps,
                **game,
                **run.fit_options(accelerator, "realism", flags.train_batch_size),
            )
    flow = matched("flow matching", latents, flags.flow_train_steps)
    controllers: dict[str, Controller] = {} if flow is None else {"flow-matching": flow}
    realism = None
    if flags.controller not in controllers:
        with parts("actor"):
            actor = Actor.fit(
                latents,
                teacher=flow,
                attributes=critic,
                attribute_weight=0.0 if paper else flags.attribute_weight,
                distance_weight=flags.distance_weight,
                critic_warmup_steps=flags.critic_warmup_steps,
                max_train_steps=flags.max_train_steps,
                **game,
                **run.fit_options(accelerator, "actor", flags.train_batch_size),
            )
        realism = actor.realism
        controllers |= {
            "actor": actor,
            "ascent": Ascent(critic, realism),
            "transport": Transport(critic, realism),
        }
    conditional = latentctl.condition(
        decoder,
        critic,
        controllers[flags.controller],
        editor=FlowEdit(critic, flow) if flags.controller == "flow-matching" and flow else None,
        evaluator=evaluator,
        realism=realism,
        prior=prior,
    )
    return Trained(critic, realism_actor, conditional)


def base(
    flags: Flags, faces: dict[str, Faces], accelerator: Accelerator, parts: Parts
) -> latentctl.Decoder:
    """The frozen decoder: the one that is named, a VAE trained here, or the one that ships."""
    decoder = load_decoder(flags.frozen)
    if flags.train_vae and decoder is not None:
        raise InputError("Give --train_vae, or the decoder to load, not both.")
    if flags.train_vae:
        with parts("train the autoencoder"):
            model = pretrain(faces["train"], flags.vae, flags.run, accelerator)
        if accelerator.is_main_process:
            model.save_pretrained(Path(flags.run.output_dir) / "base")
        decoder = latentctl.wrap(model)
    if decoder is None:
        if not flags.data.drawn or flags.data.resolution != 64:
            raise InputError(
                "The generator that ships with the package draws faces of 64 pixels, not these. "
                "Name yours by --decoder or --pretrained_model_name_or_path, or add --train_vae."
            )
        decoder = embedded.decoder()
    return decoder.to(accelerator.device)


def main(flags: Flags) -> None:
    flags.hub.check()
    flags.control.check()
    if flags.teach.teachers is None:
        flags.teach.teachers = 0 if flags.uses_shipped else 2
    started, run = time.monotonic(), flags.run
    accelerator = run.accelerator("celeba_attrs")
    folder = Path(run.output_dir)
    parts = Parts(expected(flags), announce=accelerator.is_main_process)
    if accelerator.is_main_process:
        write_json(folder / "config.json", flags)
        if flags.uses_shipped:
            (folder / "first.png").write_bytes(first_picture(embedded.pack(), run.seed))
            print(f"A first picture, by the pack that ships with it: {folder / 'first.png'}")
    with parts("load the faces"):
        faces = load_faces(flags.data, run.seed)
    decoder = base(flags, faces, accelerator, parts)
    fingerprint = decoder.fingerprint()
    if accelerator.is_main_process:
        (folder / "overview.png").write_bytes(overview(decoder, faces["test"].pixels(slice(10))))
    with parts("encode the faces"):
        latents = latentctl.encode_dataset(
            decoder,
            faces["train"].mirrored(),
            folder / "cache" / fingerprint[:16],
            attributes=faces["train"].names,
            batch_size=128,
        )
    shipped = None  # an evaluator for the generator that ships with the package
    if flags.uses_shipped:
        shipped = embedded.evaluator(decoder, faces["train"].names)
    with parts("teach the critic"):
        critic, evaluator = taught(
            decoder, faces["train"], latents, flags.teach, run, accelerator, shipped
        )
    trained = train(decoder, latents, critic, evaluator, flags.control, run, accelerator, parts)
    report = folder / "report.html"
    judges = load_judges(flags.judges, faces["train"], run.seed, accelerator, flags.data.drawn)
    if accelerator.is_main_process:
        trained.conditional.save_pretrained(folder / "pack")
        judges.attributes.save_pretrained(folder / "judge")  # an evaluator for edit_identity.py
        write_report(folder, dataclasses.asdict(flags), trained, latents, faces, judges, parts)
        flags.hub.push(trained.conditional, run.output_dir)
        print(f"Done in {time.monotonic() - started:.0f} s. The report is {report}.")
    if decoder.fingerprint() != fingerprint:
        raise FingerprintError("The frozen decoder has changed during the run.")
    accelerator.end_training()


def expected(flags: Flags) -> dict[str, float]:
    """The parts of a run with these flags, with their seconds on two cores."""
    named = dict(PARTS)
    if flags.train_vae:
        named = {
            "load the faces": named.pop("load the faces"),
            "train the autoencoder": 180,
            **named,
        }
    if not flags.control.matches:
        named.pop("flow matching")
    if flags.control.controller == "flow-matching":
        named.pop("actor")
    return named


if __name__ == "__main__":
    run(main, Flags)

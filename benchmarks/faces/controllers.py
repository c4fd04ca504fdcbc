"""The controllers of conditional faces that the benchmarks of faces share, and how they are judged.

The frozen base is the face VAE, the judges are the attribute judge, a face recognition network and
a face detector, and the attribute critic, the flow matching and the actor are trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

import latentctl
from benchmarks.shared.face_base import encoded_faces
from benchmarks.shared.face_networks import load_judges
from benchmarks.shared.run import Row, Seconds, SeededFlags
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching, Latents
from latentctl.controllers import Controller, Transport
from recipes.support.celeba_attrs.report import edit_rows
from recipes.support.face_evaluation import decode, encode, sample_row


@dataclass
class FaceFlags(SeededFlags):
    teacher_train_steps: int = 2500  # Steps of each flow matching.
    demonstration_steps: int = 2000  # Steps in which an actor clones the flow matching.
    actor_train_steps: int = 150
    """Steps of a cloned actor's adversarial training; more raise accuracy and cost realism."""
    num_edits: int = 100


class FaceBenchmark:
    """Real faces, their encodings, the judges, and what is trained on the encodings."""

    def __init__(self, flags: FaceFlags) -> None:
        self.flags, self.seconds = flags, Seconds()
        self.decoder, self.latents, self.test = encoded_faces(flags.output_dir / "cache")
        self.judges = load_judges()
        self.real = self.judges(self.test.pixels())
        self.mean = encode(self.decoder, self.test)
        self.reconstructed = self.judges(decode(self.decoder, self.mean))
        self.starts = self.decoder.prior.sample(len(self.test), seed=3)
        self.cloning: dict[str, Any] = {
            "demonstration_steps": flags.demonstration_steps,
            "actor_learning_rate": 3e-5,
        }

    def fit(self, name: str, kind: Any, latents: Latents | None = None, **options: Any) -> Any:
        """`kind.fit` on the encodings, timed."""
        data = self.latents if latents is None else latents
        return self.seconds.measure(name, kind.fit, data, seed=self.flags.seed, **options)

    @cached_property
    def attributes(self) -> AttributeCritic:
        return self.fit("attribute critic", AttributeCritic, max_train_steps=1000)

    @cached_property
    def flow(self) -> FlowMatching:
        steps = self.flags.teacher_train_steps
        return self.fit("flow matching", FlowMatching, max_train_steps=steps)

    def cloned(self, name: str, **sizes: int) -> Actor:
        """An actor cloned from the flow matching, then trained against a realism critic."""
        return self.fit(
            name,
            Actor,
            teacher=self.flow,
            attributes=self.attributes,
            attribute_weight=0.3,
            critic_turns=2,
            max_train_steps=self.flags.actor_train_steps,
            **self.cloning,
            **sizes,
        )

    @cached_property
    def actor(self) -> Actor:
        return self.cloned("actor")

    @cached_property
    def ascent(self) -> Ascent:
        return Ascent(self.attributes, self.actor.realism)

    def controllers(self) -> dict[str, Callable[[], Controller]]:
        """What makes the controllers that both benchmarks of conditional faces measure."""
        return {
            "Actor": lambda: self.actor,
            "FlowMatching, 8 steps": lambda: self.flow,
            "Ascent, realism 0.05, 100 steps": lambda: self.ascent,
            "Transport (ODE), 25 steps": lambda: Transport(self.attributes),
        }

    def row(self, name: str, z: Tensor, x: Tensor, targets: Tensor | None, **more: Any) -> Row:
        """A row of the table of samples: latents moved from `starts`, and their images."""
        more["shift"] = (z - self.starts).square().mean(1).sqrt().mean().item()
        return sample_row(name, self.judges(x), targets, self.real, self.reconstructed, **more)

    @cached_property
    def conditional(self) -> latentctl.Conditional:
        return latentctl.condition(self.decoder, self.attributes, self.actor)

    def edits(self, editors: Mapping[str, Controller] | None = None) -> list[Row]:
        """Rows of the table of edits."""
        count = self.flags.num_edits
        return edit_rows(self, self.latents, self.test, self.judges, count, editors)[0]

"""What one visitor does: starts, requests, results, and their history."""

from __future__ import annotations

__all__ = ["STRENGTHS", "Demand", "Result", "Session", "Start"]

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..conditional import Conditional, Outcome
from ..conditional.origin import Maker
from ..critics import Critic
from ..errors import InputError
from ..latents import Latents
from .pictures import uris
from .region import Region, mask_of
from .remembered import remembering
from .source import Source

HISTORY = 40  # results that can be undone
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True, eq=False)
class Start:
    """A latent from which edits begin."""

    z: Tensor
    """`(1, *latent_shape)`."""
    x: Tensor
    """The picture before any edit, `(1, *sample_shape)`: the upload, or the sample."""
    words: str
    """Where it is from."""
    code: str
    """Lines of Python that assign `start` from `faces`."""
    note: str = ""
    """A warning about it."""


@dataclass(frozen=True)
class Demand:
    """What a visitor wants of a start."""

    wanted: tuple[tuple[str, float], ...] = ()
    """Probabilities by attribute."""
    hold: tuple[str, ...] | None = None
    """The attributes that are held; None leaves it to the library."""
    where: str = ""
    """A logical expression over attributes."""
    strength: float = 1.0
    region: Region = ()
    """The cells of the latent that may change; () for all."""

    @classmethod
    def of(cls, controls: Mapping[str, Any], where: str = "") -> Demand:
        """From what the page sends: `wanted`, `hold` and `strength`.

        Raises:
            InputError: If it is something else.

        Example:
            >>> Demand.of({"wanted": {"Smiling": 1}, "strength": 0.5}).wanted
            (('Smiling', 1.0),)
        """
        try:
            wanted = tuple((str(k), float(v)) for k, v in dict(controls["wanted"]).items())
            hold = controls.get("hold")
            held = None if hold is None else tuple(map(str, hold))
            return cls(wanted, held, where.strip(), float(controls.get("strength", 1.0)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "The page sent controls that cannot be read. Reload the page."
            ) from error

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wanted."""
        return not self.wanted and not self.where

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `Conditional.edit` but `mask`; defaults are left out."""
        found: dict[str, Any] = dict(self.wanted)
        if self.where:
            found["where"] = self.where
        if self.hold is not None:
            found["hold"] = list(self.hold)
        if self.strength != 1:
            found["strength"] = self.strength
        return found

    def carried_out(self, faces: Conditional, z: Tensor, **options: Any) -> Outcome:
        """The edit of latents `z (B, *latent_shape)`; `options` replace its own arguments."""
        if self.is_empty:
            return faces.edit(Latents(z), strength=0.0, hold=False)
        mask = mask_of(self.region, faces.decoder) if self.region else None
        return faces.edit(Latents(z), **{"seed": 0, "mask": mask, **self.arguments(), **options})


@dataclass(frozen=True, eq=False)
class Result:
    """A start, what was wanted of it, and what came of it."""

    start: Start
    demand: Demand
    faces: Conditional
    outcome: Outcome
    before: Tensor
    """Probability of each attribute at the start, `(K,)`, by the receipt's critic."""
    seconds: float

    @functools.cached_property
    def picture(self) -> str:
        """The picture after the edit, as an address."""
        return uris(self.faces.decoder, self.outcome.x)[0]


@dataclass(eq=False)
class Session:
    """One visitor: what they edit, their history, and the attributes that they taught.

    Example of a visit: `begin(session.sample(7))`, `edit(Demand(...))`, `undo()`.
    """

    source: Source
    faces: Conditional = field(init=False)
    taught: dict[str, Any] = field(default_factory=dict)
    """Critics of taught attributes by name."""
    past: list[Result] = field(default_factory=list)
    """The results, oldest first; the one that is shown is `past[place]`."""
    place: int = -1
    version: int = 0
    """Counts the times that the page's controls have to follow the session."""
    draft: Result | None = None
    """The result of a slider that is still moving."""
    wanted: Demand = Demand()
    """What is wanted of samples, in the Sample tab."""
    pool: Any = None
    """The pictures to be marked, of the Teach tab."""
    samples: Any = None
    """The last samples, of the Sample tab."""
    quick: tuple[Conditional, Conditional, Maker] | None = None
    """`faces`, the same that keeps its last results, and the pack's fingerprints."""

    def __post_init__(self) -> None:
        self.faces = self.source.faces

    @property
    def shown(self) -> Result:
        """The result on the page."""
        return self.draft or self.past[self.place]

    def sample(self, seed: int) -> Start:
        """The sample of a seed, with all attributes free."""
        code = f"start = latentctl.Latents(faces.sample(1, seed={seed}).z)"
        out = self.source.faces.sample(1, seed=seed)
        return Start(out.z, out.x, f"sample, seed {seed}", code)

    def picture(self, place: int) -> Start:
        """The start of one of the pictures to begin with."""
        pictures = self.source.pictures
        if pictures is None or not 0 <= place < len(pictures):
            raise InputError(f"There is no picture {place} to begin with.")
        x = pictures[place : place + 1].to(self.source.decoder.device)
        code = (
            f"{self.source.code_of(place)}\n"
            f"start = latentctl.Latents(faces.decoder.encode(picture).mean)"
        )
        return Start(self.source.decoder.encode(x).mean, x, f"picture {place + 1}", code)

    def opening(self) -> Start:
        """What a visit begins with: the first picture, or the sample of seed 0."""
        return self.picture(0) if len(self.source.gallery) else self.sample(0)

    def begin(self, start: Start) -> Result:
        """Shows a start; the history goes on."""
        self.version += 1
        return self._keep(self._result(start, Demand()))

    def edit(self, demand: Demand, *, moving: bool = False) -> Result:
        """The result of a demand; that of a moving slider is no entry of the history yet."""
        shown = self.shown
        if demand == shown.demand and shown.faces is self.faces:
            result = shown
        else:
            result = self._result(shown.start, demand)
        if moving:
            self.draft = result
            return result
        return result if result is self.past[self.place] else self._keep(result)

    def undo(self) -> Result:
        """The result before, if there is one."""
        return self.go(self.place - 1)

    def redo(self) -> Result:
        """The result after, if there is one."""
        return self.go(self.place + 1)

    def go(self, place: int) -> Result:
        """The result at a place of the history, or the nearest one."""
        self.draft = None
        self.place = min(max(0, place), len(self.past) - 1)
        self.version += 1
        return self.shown

    def reset(self) -> Result:
        """The start without any demand."""
        self.version += 1
        return self.edit(Demand())

    def strengths(self) -> Iterator[tuple[float, Tensor]]:
        """The demand that is shown at several strengths, each with its sample `(1, ...)`."""
        shown = self.shown
        faces = self._quick(shown.faces)[0]
        for strength in STRENGTHS:
            yield strength, shown.demand.carried_out(faces, shown.start.z, strength=strength).x

    def use(self, faces: Conditional) -> None:
        """Edits by other attributes from now on; older results stay as they are."""
        self.faces = faces
        self.version += 1
        shown = self.shown
        known = tuple((name, value) for name, value in shown.demand.wanted if name in faces.names)
        demand = Demand(known, strength=shown.demand.strength, region=shown.demand.region)
        self._keep(self._result(shown.start, demand))

    def _result(self, start: Start, demand: Demand) -> Result:
        began = time.perf_counter()
        faces, maker = self._quick(self.faces)
        judge: Critic = faces.critic if faces.evaluator is None else faces.evaluator
        before = torch.sigmoid(judge.score(start.z))[0].cpu()
        outcome = demand.carried_out(faces, start.z)
        assert outcome.origin is not None
        origin = dataclasses.replace(outcome.origin, maker=maker)
        outcome = dataclasses.replace(outcome, origin=origin)
        return Result(start, demand, self.faces, outcome, before, time.perf_counter() - began)

    def _quick(self, faces: Conditional) -> tuple[Conditional, Maker]:
        """The generator that keeps its last results, and the fingerprints of the pack itself."""
        if self.quick is None or self.quick[0] is not faces:
            self.quick = faces, remembering(faces), Maker(faces.parts)
        return self.quick[1:]

    def _keep(self, result: Result) -> Result:
        self.past = [*self.past[: self.place + 1], result][-HISTORY:]
        self.place, self.draft = len(self.past) - 1, None
        return result

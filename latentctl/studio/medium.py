"""What a decoder yields: pictures or melodies, as the page shows, reads and gives them away."""

from __future__ import annotations

__all__ = ["Medium", "Melodies", "Pictures", "Score", "medium_of"]

import abc
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..display import grid, png
from ..errors import InputError
from ..rewards import Reward
from ..rewards.rule import Rule
from . import pictures, uploads
from .receipt import words
from .session import Result, Start
from .source import Source


@runtime_checkable
class Score(Protocol):
    """The `show=` of a decoder of melodies, such as `latentctl_adapters.piano_roll.piano_roll`."""

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures `(B, 1 or 3, h, w)` in [0, 1] of melodies `(B, T)`."""

    def marked(self, x: Tensor, steps: Tensor) -> Tensor:
        """Such pictures with the notes at steps `(B, T)` in another colour."""

    def outside(self, x: Tensor, rules: dict[str, Reward]) -> Tensor:
        """The steps `(1, T)` of the notes of one melody that break a rule."""

    def wave(self, x: Tensor) -> bytes:
        """The WAV file of one melody `(1, T)`."""

    def midi(self, x: Tensor) -> bytes:
        """The MIDI file of one melody `(1, T)`."""

    def read(self, path: str | Path, steps: int) -> Tensor:
        """The melody `(1, steps)` of a MIDI file; an `InputError` without one."""


class Medium(abc.ABC):
    """How samples are shown, read and given away.

    Arguments:
        source: What is served.
    """

    title: ClassVar[str]
    """Of the tab in which samples are edited."""
    thing: ClassVar[str]
    """One of them, in a sentence."""
    file_types: ClassVar[tuple[str, ...]]
    """Of uploads."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @abc.abstractmethod
    def shown(self, result: Result) -> dict[str, str]:
        """What the stage shows while a slider moves: addresses of files, by place."""

    @abc.abstractmethod
    def kept(self, result: Result) -> dict[str, str]:
        """What it shows besides when the slider stands still."""

    @abc.abstractmethod
    def read(self, path: str | Path) -> Tensor:
        """The sample `(1, *sample_shape)` of an upload."""

    @abc.abstractmethod
    def start_of(self, path: str | Path) -> Start:
        """The start of an upload."""

    def said(self, result: Result) -> list[str]:
        """Sentences of the receipt that only this medium has."""
        return []


class Pictures(Medium):
    """Samples as pictures."""

    title, thing, file_types = "Edit", "picture", ("image",)

    def shown(self, result: Result) -> dict[str, str]:
        before, after = result.start.x, result.outcome.x
        return {
            "after": result.picture,
            "difference": pictures.difference(self.source.decoder, before, after),
        }

    def kept(self, result: Result) -> dict[str, str]:
        return {"before": pictures.uris(self.source.decoder, result.start.x)[0]}

    def read(self, path: str | Path) -> Tensor:
        return uploads.read_upload(path, self.source.decoder)

    def start_of(self, path: str | Path) -> Start:
        return uploads.start_of(path, self.source)


class Melodies(Medium):
    """Samples as piano rolls and as sound, with the notes that break a rule marked."""

    title, thing, file_types = "Melodies", "melody", (".mid", ".midi")

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        show = source.decoder.display.show
        assert isinstance(show, Score)
        self.score = show

    def shown(self, result: Result) -> dict[str, str]:
        both = torch.cat([result.start.x.cpu(), result.outcome.x.cpu()])  # one range of pitches
        rules = dict(self.source.rules)
        steps = torch.cat([self.score.outside(x[None], rules) for x in both])
        found = [png(grid(x[None], margin=0)) for x in self.score.marked(both, steps)]
        before, after = map(pictures.data_uri, found)
        names = " or ".join(map(words, rules))
        legend = f"Red notes break {names}." if rules else ""
        return {"before": before, "after": after, "legend": legend}

    def kept(self, result: Result) -> dict[str, str]:
        before, after = result.start.x, result.outcome.x
        return {
            "before_sound": pictures.data_uri(self.score.wave(before), "audio/wav"),
            "after_sound": pictures.data_uri(self.score.wave(after), "audio/wav"),
            "midi": pictures.data_uri(self.score.midi(after), "audio/midi"),
        }

    def said(self, result: Result) -> list[str]:
        both = torch.cat([result.start.x.cpu(), result.outcome.x.cpu()])
        found = []
        for name, reward in self.source.rules.items():
            was, now = Rule(name, reward)(both)[0].tolist()
            verdict = "kept" if now >= 1 else "not kept"
            found.append(f"The rule {words(name)} itself: {was:.2f} → {now:.2f}, {verdict}.")
        return found

    def read(self, path: str | Path) -> Tensor:
        decoder = self.source.decoder
        if not decoder.can_encode:
            raise InputError(f"{decoder.name} cannot encode melodies, so none can be uploaded.")
        uploads.check_size(Path(path))
        steps = decoder.sample_shape[0]
        try:
            return self.score.read(path, steps).to(decoder.device)
        except InputError as problem:
            name = Path(path).name
            raise InputError(f"{name!r} cannot be used: {problem}") from problem

    def start_of(self, path: str | Path) -> Start:
        decoder, name = self.source.decoder, Path(path).name
        x = self.read(path)
        z = decoder.encode(x).mean
        code = (
            f"melody = faces.decoder.display.show.read({name!r}, {decoder.sample_shape[0]})\n"
            f"start = latentctl.Latents(faces.decoder.encode(melody).mean)"
        )
        wrong = int((decoder.decode(z) != x).sum())
        note = f"Its reconstruction differs in {wrong} of {x.shape[1]} steps." if wrong else ""
        return Start(z, x, f"upload, {name}", code, note=note)


def medium_of(source: Source) -> Medium:
    """The medium of what the decoder of a source yields."""
    return (Melodies if isinstance(source.decoder.display.show, Score) else Pictures)(source)

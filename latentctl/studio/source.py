"""What a studio serves: a `Conditional`, pictures to begin with, and the lines that load it."""

from __future__ import annotations

__all__ = ["Source"]

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..conditional import Conditional
from ..critics import Critic
from ..decoder import Decoder
from ..latents import Latents
from ..rewards import Reward

REFERENCES = 64  # pictures with which an upload is compared
FEW_REFERENCES = 8  # of a pipeline, where each is an inversion of all steps
ENCODINGS = 1024  # latents of the prior that stand for encodings, where there are few pictures


@dataclass(eq=False)
class Source:
    """What all visitors share; nothing but `complete` changes it after it is made."""

    faces: Conditional
    """The generator with its attributes."""

    code: str
    """Lines of Python that make `faces`."""

    pictures: Tensor | None = None
    """Samples `(N, *sample_shape)` to begin with, which the decoder can encode; or None."""

    code_of: Callable[[int], str] = lambda place: ""
    """Lines of Python that assign `picture` of a place of `pictures`."""

    note: str = "What the decoder knows is edited, sampled and taught, and nothing is retrained."
    """A sentence on what is served."""

    rules: Mapping[str, Reward] = field(default_factory=dict)
    """Of melodies: the notes that break one are marked, and the receipt has its reward."""

    evaluated: Callable[[], Conditional] | None = None
    """Makes `faces` with their evaluator, where that takes seconds and can follow the page."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self) -> None:
        """Gives `faces` their evaluator, or waits for the thread that does; once."""
        with self.lock:
            if self.evaluated is not None:
                self.faces = self.evaluated()
                self.evaluated = None

    @property
    def decoder(self) -> Decoder:
        return self.faces.decoder

    @functools.cached_property
    def gallery(self) -> Tensor:
        """Latents of the pictures, `(N, *latent_shape)`; none without pictures or encoder."""
        if self.pictures is None or not self.decoder.can_encode:
            return torch.empty(0, *self.decoder.latent_shape)
        return self.decoder.encode(self.pictures, batch_size=64).mean

    @functools.cached_property
    def encodings(self) -> Latents:
        """Latents like those of data: of the pictures, or of the prior where they are few."""
        if len(self.gallery) >= ENCODINGS:
            return Latents(self.gallery)
        drawn = self.faces.prior.sample(ENCODINGS, seed=0).to(self.decoder.device)
        return Latents(torch.cat([self.gallery, drawn]))

    @functools.cached_property
    def usual_error(self) -> float:
        """Mean squared error of reconstructions that 95 % of the reference pictures stay below."""
        count = FEW_REFERENCES if self.decoder.latents_are_noise else REFERENCES
        with torch.no_grad():
            if len(self.gallery):
                z, x = self.gallery[:count], self.pictures[:count]  # type: ignore[index]
            else:
                x = self.decoder.decode(self.encodings.mean[:count], batch_size=count)
                z = self.decoder.encode(x).mean
            return float(error(self.decoder, x.to(self.decoder.device), z).cpu().quantile(0.95))

    @functools.cached_property
    def usual_realism(self) -> float | None:
        """Log-odds of realism that 95 % of the references exceed; None without a critic of it."""
        if self.faces.realism is None:
            return None
        z = self.gallery if len(self.gallery) else self.encodings.mean[:REFERENCES]
        return float(self.faces.realism.score(z)[:, 0].cpu().quantile(0.05))

    def judge_of(self, faces: Conditional) -> Critic:
        """The critic whose probabilities the receipts of `faces` have."""
        return faces.critic if faces.evaluator is None else faces.evaluator


@torch.no_grad()
def error(decoder: Decoder, x: Tensor, z: Tensor) -> Tensor:
    """Mean squared error `(B,)` of samples and what their latents decode to, in [0, 1] units."""
    low, high = decoder.picture_range
    difference = (decoder.decode(z, batch_size=64) - x) / (high - low)
    return difference.flatten(1).square().mean(1)

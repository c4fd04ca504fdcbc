"""The attempts of a trial run, and the error that names the one that came furthest."""

from __future__ import annotations

__all__ = ["PARTS", "SKIPS", "Attempts"]

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from latentctl.errors import AdapterError

PARTS = (
    'Say which parts encode and decode: latentctl.wrap(model, encode="name", decode="name"), or '
    "latentctl.wrap((encoder, decoder))."
)
SKIPS = (
    "A network with skip connections past its latent (a U-Net) cannot be steered by it: the latent "
    "alone does not determine the sample."
)
CONSTANT = (
    "It takes more than the latent. Hold the rest fixed: decode=lambda z: model.decode(z, "
    f"label.expand(len(z))). {SKIPS}"
)
TOKENS = (
    "It encodes whole numbers (tokens), and decodes to floats. Give both one representation: "
    "encode=lambda x: model.encode(x.argmax(-1)) for logits (B, T, V)."
)
CODES = (
    "Its latents are whole numbers, codes of a codebook (VQ), between which nothing can move. Wrap "
    "the vectors before the codebook: latentctl.wrap(model, encode=lambda x: model.encoder(x), "
    "decode=lambda z: model.decoder(model.quantize(z)))."
)
MISSING = r"missing \d+ required positional"
WHOLE = r"scalar types: Long"


@dataclass
class Attempts:
    """What was tried, by how many calls of the model it passed.

    Arguments:
        name: Name of the model in messages.
        parts: Its encoder and decoder in messages.
    """

    name: str
    parts: str
    passed: int = 0
    """Calls of the model that the present attempt has passed."""
    tried: dict[str, list[str]] = field(default_factory=dict)
    furthest: tuple[int, bool, str, Exception | None] = (-1, False, "", None)

    def begin(self) -> None:
        """Begins an attempt."""
        self.passed = 0

    def failed(self, what: str, error: Exception) -> None:
        """Notes why an attempt failed."""
        words = str(error).strip().splitlines() or [""]
        told = isinstance(error, AdapterError)  # its message was written for the user
        self.tried.setdefault(f"{type(error).__name__}: {words[0][: None if told else 160]}", [])
        self.tried[f"{type(error).__name__}: {words[0][: None if told else 160]}"].append(what)
        if (self.passed, told) > self.furthest[:2]:
            self.furthest = (self.passed, told, what, error)

    def error(self, latent_shape: Sequence[int] | None, guessed: str) -> AdapterError:
        """The error of all attempts, which leads with the one that came furthest."""
        _, _, what, error = self.furthest
        if error is None:
            return AdapterError(
                f"The shape of the latents of {self.name} ({self.parts}) cannot be found: its "
                f"layers do not show it. {guessed}Pass latent_shape=."
            )
        given = "" if latent_shape is None else " with the latent_shape that was given"
        text = "".join(f"\n- {', '.join(whats)}: {why}" for why, whats in self.tried.items())
        hint = f"{CONSTANT}\n" if re.search(MISSING, text) else ""
        return AdapterError(
            f"The trial run of {self.name} ({self.parts}) failed{given}. It came furthest with "
            f"{what}: {error}\n{hint}{guessed}Pass latent_shape=, encode= or decode= (a name or a "
            f"callable), or only the part that decodes. Tried:{text}"
        )

"""Attributes that are taught by marked pictures, and what can be expected of them."""

from __future__ import annotations

__all__ = ["FEWEST", "MOST", "Lesson", "Pool", "extended", "full", "saved_pack", "teach"]

import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..conditional import Conditional, condition
from ..critics import ExampleCritic
from ..critics.network import NetworkCritic
from ..errors import InputError
from ..latents import Latents
from ..random import permutation
from .receipt import words
from .script import PACK
from .source import Source

FEWEST, MOST = 5, 100  # marked pictures
FOLDS = 5
SEPARATES = 0.9  # balanced accuracy of a known attribute that is worth a warning
MARKS = ("", "with", "without")
LONGEST = 60  # characters of a name


@dataclass(eq=False)
class Pool:
    """Pictures that can be marked."""

    z: Tensor
    """`(N, *latent_shape)`."""
    captions: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    """"with", "without" or "" of each."""
    drawn: int = 0
    """The samples among them."""
    drawings: list[str] | None = None
    """The pictures as the page shows them, as far as they are drawn."""

    def grow(self, z: Tensor, captions: list[str]) -> None:
        """More pictures, unmarked."""
        self.z = torch.cat([self.z, z])
        self.captions += captions
        self.marks += [""] * len(z)

    def turn(self, place: int) -> str:
        """The next mark of a picture: none, with it, without it, and none again.

        Raises:
            InputError: If there is no such picture.
        """
        if not 0 <= place < len(self.marks):
            raise InputError(f"There is no example {place} among the {len(self.marks)}.")
        self.marks[place] = MARKS[(MARKS.index(self.marks[place]) + 1) % len(MARKS)]
        return self.marks[place]

    def marked(self, mark: str) -> Tensor:
        """The latents with a mark."""
        return self.z[[index for index, found in enumerate(self.marks) if found == mark]]


@dataclass(frozen=True, eq=False)
class Lesson:
    """A taught attribute, and what to expect of it."""

    critic: ExampleCritic
    accuracy: float
    """Balanced accuracy on held-out examples, by cross-validation."""
    confounds: tuple[tuple[str, float], ...]
    """Known attributes that separate the examples as well, with their balanced accuracy."""
    count: int

    def sentences(self) -> list[str]:
        """What the visitor should know."""
        return [
            f"{words(self.critic.names[0])} was taught by {self.count} examples. Expected accuracy "
            f"on others: {self.accuracy:.0%} (cross-validation; 50% is chance)."
        ]

    def warnings(self) -> list[str]:
        """What the visitor should mend."""
        found = []
        if self.accuracy < 0.7:
            found.append("That accuracy is low: mark more examples, and clearer ones.")
        if self.confounds:
            names = ", ".join(f"{words(n)} ({share:.0%})" for n, share in self.confounds)
            found.append(
                f"The examples agree in something else too, which separates them as well: {names}. "
                f"Mark examples in which the two differ."
            )
        return found


def teach(name: str, pool: Pool, source: Source, known: Conditional) -> Iterator[str | Lesson]:
    """Fits an attribute to the marked pictures of a pool; yields what is done, then the lesson.

    Arguments:
        name: Its name, which no attribute has.
        pool: The pictures.
        source: Gives the encodings, and the critic whose features help.
        known: The attributes that may separate the examples as well.

    Raises:
        InputError: If the name is taken or empty, or too few or too many pictures are marked.
    """
    name = _checked(name, known)
    with_it, without = pool.marked("with"), pool.marked("without")
    count = len(with_it) + len(without)
    if count < FEWEST or min(len(with_it), len(without)) < 2:
        raise InputError(
            f"{len(with_it)} examples are marked as with it and {len(without)} as without. Mark at "
            f"least {FEWEST}, of each kind at least 2."
        )
    if count > MOST:
        raise InputError(f"{count} examples are marked; at most {MOST} are used. Unmark some.")
    yield f"Fitting {words(name)} to {count} examples."
    critic = _fit(name, with_it, without, source)
    accuracy = yield from _cross_validated(name, with_it, without, source)
    confounds = _confounds(with_it, without, source, known)
    yield Lesson(critic, accuracy, confounds, count)


def extended(source: Source, taught: Mapping[str, ExampleCritic]) -> Conditional:
    """The generator with taught attributes: a sum of packs, without an evaluator of its own."""
    whole = source.faces
    for critic in taught.values():
        whole = whole + condition(source.decoder, critic)
    return whole


def saved_pack(faces: Conditional, folder: Path) -> Path:
    """A ZIP file in `folder` with the pack of a generator, without the decoder's weights."""
    pack = faces.save_pretrained(folder / PACK)
    file = shutil.make_archive(str(folder / PACK), "zip", folder, pack.name)
    shutil.rmtree(pack)
    return Path(file)


def full(most: int) -> InputError:
    """The error of a pool that grows too large."""
    return InputError(f"There are at most {most} examples to mark. Reload the page to begin anew.")


def _checked(name: str, known: Conditional) -> str:
    plain = "_".join(name.split())
    if not plain:
        raise InputError("The attribute has no name yet. Enter one.")
    if len(plain) > LONGEST or not plain.replace("_", "").isalnum():
        raise InputError(
            f"{name!r} is no name for an attribute. Use letters, digits and spaces, at most "
            f"{LONGEST}."
        )
    if plain.lower() in {taken.lower() for taken in known.names}:
        raise InputError(f"There is an attribute {plain} already. Choose another name.")
    if plain in ("x", "y", "where", "hold", "mask", "strength", "seed", "count", "start", "self"):
        raise InputError(f"{plain!r} is an argument of `edit` or `sample`. Choose another name.")
    return plain


def _fit(name: str, with_it: Tensor, without: Tensor, source: Source) -> ExampleCritic:
    known = source.faces.critic
    return ExampleCritic.fit(
        name,
        with_it,
        without,
        latents=_near(source.encodings, with_it),
        known=known if isinstance(known, NetworkCritic) else None,
    )


def _near(latents: Latents, z: Tensor) -> Latents:
    return latents if latents.mean.device == z.device else Latents(latents.mean.to(z.device))


def _cross_validated(
    name: str, with_it: Tensor, without: Tensor, source: Source
) -> Generator[str, None, float]:
    """Balanced accuracy on examples that were held out, in up to `FOLDS` parts."""
    folds = min(FOLDS, len(with_it), len(without))
    parts = [
        permutation(len(z), seed=0, epoch=0, purpose=f"folds {kind}") % folds
        for kind, z in enumerate((with_it, without))
    ]
    right: list[list[Tensor]] = [[], []]
    for fold in range(folds):
        yield f"Testing it on examples that were left out: {fold + 1} of {folds}."
        kept = [z[part != fold] for z, part in zip((with_it, without), parts, strict=True)]
        critic = _fit(name, kept[0], kept[1], source)
        for kind, (z, part) in enumerate(zip((with_it, without), parts, strict=True)):
            scores = critic.score(z[part == fold])[:, 0]
            right[kind].append((scores > 0) == (kind == 0))
    return float(sum(torch.cat(hits).float().mean() for hits in right) / 2)


def _confounds(
    with_it: Tensor, without: Tensor, source: Source, known: Conditional
) -> tuple[tuple[str, float], ...]:
    judge = source.judge_of(known)
    shares = [(judge.score(z) > 0).float().mean(0) for z in (with_it, without)]
    balanced = (shares[0] - shares[1]).abs() / 2 + 0.5
    found = [(n, s) for n, s in zip(judge.names, balanced.tolist(), strict=True) if s >= SEPARATES]
    return tuple(sorted(found, key=lambda pair: -pair[1])[:3])

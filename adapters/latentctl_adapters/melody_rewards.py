r"""Rules of music as rewards: `reward(x) -> (B,)` in [0, 1], 1 where the rule holds.

A melody is a row of `x (B, T)`, an integer token a sixteenth: 0 ... 127 starts the note of that
MIDI pitch, 128 holds it, 129 rests. With :math:`|x|` notes, and :math:`P` a set of pitch classes,

.. math::
    c_\mathrm{pitch}(x, P) = \#\{\text{notes in } P\} / |x|, \qquad
    c_\mathrm{density}(x, d) = \min(1, |x| / d)

A reward is any such function, of a batch or of one sample, as `latentctl.sample_by_rule` takes it.
It should increase gradually towards 1, so that there is a signal to learn from. Rules about notes
give an empty melody 0; otherwise silence would satisfy them all.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = [
    "BAR",
    "C_MAJOR",
    "HOLD",
    "REST",
    "c_major",
    "contour",
    "density",
    "in_range",
    "in_scale",
    "onsets",
    "product",
    "repetition",
    "rhythm",
    "scale",
]

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from latentctl.errors import InputError, ShapeError, UnknownNameError
from latentctl.rewards import Reward

HOLD, REST = 128, 129
BAR = 16  # sixteenths
C_MAJOR = (0, 2, 4, 5, 7, 9, 11)
MODES = {"major": 0, "dorian": 2, "phrygian": 4, "lydian": 5, "mixolydian": 7, "minor": 9}


def onsets(x: Tensor) -> Tensor:
    """Where a note starts, `(B, T)` booleans, of melodies `x (B, T)`.

    Raises:
        ShapeError: If `x` is not a batch of melodies.
        InputError: If it is not of integers in 0 ... 129.
    """
    if x.ndim != 2:
        raise ShapeError(f"Melodies are (B, T), these are {tuple(x.shape)}. Add a batch axis.")
    if x.dtype == torch.bool or x.is_floating_point() or x.is_complex():
        raise InputError(f"Melodies are integer tokens, not {x.dtype}. Use x.long().")
    if bool(((x < 0) | (x > REST)).any()):
        raise InputError(
            f"Tokens are 0 to 127 (a note starts), {HOLD} (hold) and {REST} (rest); found "
            f"{int(x.min())} to {int(x.max())}."
        )
    return x < HOLD


def scale(tonic: int = 0, mode: str = "major") -> tuple[int, ...]:
    """Pitch classes of a scale on `tonic` (0 is C), from `major` to natural `minor`.

    Example:
        >>> scale(7)  # G major
        (0, 2, 4, 6, 7, 9, 11)
    """
    if mode not in MODES:
        raise UnknownNameError("mode", mode, MODES)
    return tuple(sorted((pitch - MODES[mode] + tonic) % 12 for pitch in C_MAJOR))


def in_scale(x: Tensor, *, pitch_classes: Sequence[int] = C_MAJOR) -> Tensor:
    """Share of the notes that are in a set of pitch classes, `(B,)`; 0 without notes.

    Example:
        >>> c, c_sharp = 60, 61
        >>> in_scale(torch.tensor([[c, HOLD, c_sharp, REST], [c, c, c, c], [REST] * 4]))
        tensor([0.5000, 1.0000, 0.0000])
    """
    notes = onsets(x)
    allowed = torch.tensor(sorted({int(p) % 12 for p in pitch_classes}), device=x.device)
    return _share(notes & torch.isin(x % 12, allowed), notes)


def c_major(x: Tensor) -> Tensor:
    """Share of the notes that are in C major, `(B,)`."""
    return in_scale(x, pitch_classes=C_MAJOR)


def density(x: Tensor, *, notes: int) -> Tensor:
    """The number of notes over `notes`, at most 1, `(B,)`.

    Example:
        >>> density(torch.tensor([[60, HOLD, 62, REST], [60, 60, 60, 60]]), notes=4)
        tensor([0.5000, 1.0000])
    """
    if notes < 1:
        raise InputError(f"notes is a number of notes of at least 1, not {notes}.")
    return (onsets(x).sum(1) / notes).clamp(max=1)


def in_range(x: Tensor, *, low: int, high: int) -> Tensor:
    """Share of the notes from MIDI pitch `low` to `high`, both included, `(B,)`; 0 without notes.

    Example:
        >>> in_range(torch.tensor([[60, 62, 84, REST]]), low=60, high=72)
        tensor([0.6667])
    """
    if low > high:
        raise InputError(f"low must not exceed high, found {low} and {high}.")
    notes = onsets(x)
    return _share(notes & (x >= low) & (x <= high), notes)


def contour(x: Tensor, *, direction: int = 1) -> Tensor:
    """Share of the intervals that rise (1), stay (0) or fall (-1), `(B,)`; 0 below two notes.

    Example:
        >>> contour(torch.tensor([[60, HOLD, 62, 64], [64, 62, REST, 67]]))
        tensor([1.0000, 0.5000])
    """
    if direction not in (-1, 0, 1):
        raise InputError(f"direction is 1, 0 or -1, not {direction}.")
    notes = onsets(x)
    places = torch.arange(x.shape[1], device=x.device).expand_as(x)
    # each note is compared to the previous one, however long that was held
    latest = torch.where(notes, places, -1).cummax(1).values
    before = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], dim=1)
    intervals = notes & (before >= 0)
    step = (x - x.gather(1, before.clamp_min(0))).sign()
    return _share(intervals & (step == direction), intervals)


def repetition(x: Tensor, *, period: int = BAR) -> Tensor:
    """Share of the steps that equal those `period` steps before, `(B,)`.

    Example:
        >>> repetition(torch.tensor([[60, 62, 60, 62], [60, 62, 64, 62]]), period=2)
        tensor([1.0000, 0.5000])
    """
    onsets(x)
    if not 0 < period < x.shape[1]:
        raise InputError(f"period is in 1 ... {x.shape[1] - 1} steps, not {period}.")
    return (x[:, period:] == x[:, :-period]).float().mean(1)


def rhythm(x: Tensor, *, pattern: Sequence[int]) -> Tensor:
    """Jaccard index of the steps with a note and those of a repeated pattern, `(B,)`.

    Arguments:
        x: Melodies, `(B, T)`.
        pattern: 1 where a note starts and 0 elsewhere; T is a multiple of its length.

    Example:
        >>> quarters = [1, 0, 0, 0]
        >>> rhythm(torch.tensor([[60, HOLD, HOLD, HOLD], [60, HOLD, 62, HOLD]]), pattern=quarters)
        tensor([1.0000, 0.5000])
    """
    notes = onsets(x)
    wanted = torch.tensor([bool(p) for p in pattern], device=x.device)
    if not bool(wanted.any()) or x.shape[1] % len(wanted):
        raise InputError(
            f"A pattern has a note, and a length that divides the melody's {x.shape[1]} steps; "
            f"this one is {list(pattern)}."
        )
    wanted = wanted.repeat(x.shape[1] // len(wanted)).expand_as(notes)
    return _share(notes & wanted, notes | wanted)


def product(rewards: Iterable[Reward]) -> Reward:
    """The product of several vectorised rules as one reward, 1 where all hold.

    Example:
        >>> from functools import partial
        >>> rule = product([c_major, partial(density, notes=4)])
        >>> rule(torch.tensor([[60, HOLD, 61, REST]]))
        tensor([0.2500])
    """
    rules = list(rewards)
    if not rules:
        raise InputError("A product needs at least one reward.")

    def reward(x: Tensor) -> Tensor:
        return math.prod((torch.as_tensor(rule(x)) for rule in rules[1:]), start=rules[0](x))

    return reward


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Share of the steps in `whole` that are in `part`, `(B,)`; 0 where there is none."""
    return part.sum(1) / whole.sum(1).clamp_min(1)

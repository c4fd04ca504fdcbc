"""Rules of different kinds for melodies, as `reward(x) -> (B,)` in [0, 1].

Some rise gradually, some are all or nothing, some are rare, some cannot be kept. Those of `ASIDE`
were written down before the exploration was tuned, and were run once at the end.
"""

from __future__ import annotations

from functools import partial

import torch
from latentctl_adapters.melody_rewards import (
    c_major,
    density,
    in_range,
    in_scale,
    onsets,
)
from torch import Tensor

from latentctl.rewards import Reward

PENTATONIC = (5, 7, 9, 0, 2)  # of F
BEAT = 4  # sixteenths


def ends_on_c_or_a(x: Tensor) -> Tensor:
    """1 if the last note is a C or an A: all or nothing."""
    notes = onsets(x)
    last = x.gather(1, _last(notes)[:, None]).squeeze(1) % 12
    return (notes.any(1) & ((last == 0) | (last == 9))).float()


def no_repeated_pitch(x: Tensor) -> Tensor:
    """Share of different pitches in the notes; 0 without notes."""
    notes = onsets(x)
    used = torch.zeros(len(x), 130, dtype=torch.bool).scatter_(1, x, notes)
    return used.sum(1) / notes.sum(1).clamp_min(1)


def second_bar_higher(x: Tensor, *, semitones: float = 3.0) -> Tensor:
    """Rises from an octave lower to `semitones` higher of the second half's mean pitch; graded."""
    first, second = (_mean_pitch(half) for half in x.chunk(2, dim=1))
    rise = ((second - first + 12) / (semitones + 12)).clamp(0, 1)
    return rise.nan_to_num(0)


def syncopated(x: Tensor, *, share: float = 0.5) -> Tensor:
    """Share of the notes off the beat over `share`, at most 1; 0 without notes."""
    notes = onsets(x)
    off = notes & (torch.arange(x.shape[1]) % BEAT != 0)
    return (off.sum(1) / notes.sum(1).clamp_min(1) / share).clamp(max=1)


def returns(x: Tensor) -> Tensor:
    """1 if the last note has the pitch of the first, of at least six: all or nothing."""
    notes = onsets(x)
    ends = [x.gather(1, place[:, None]).squeeze(1) for place in (_first(notes), _last(notes))]
    return ((notes.sum(1) >= 6) & (ends[0] == ends[1])).float()


def same_rhythm(x: Tensor) -> Tensor:
    """Jaccard index of the onsets of the two halves."""
    first, second = onsets(x).chunk(2, dim=1)
    return (first & second).sum(1) / (first | second).sum(1).clamp_min(1)


def every_beat(x: Tensor) -> Tensor:
    """1 if a note starts on each beat: all or nothing."""
    return onsets(x)[:, ::BEAT].all(1).float()


def _mean_pitch(x: Tensor) -> Tensor:
    notes = onsets(x)
    return (x * notes).sum(1) / notes.sum(1)


def _first(notes: Tensor) -> Tensor:
    return notes.int().argmax(1)


def _last(notes: Tensor) -> Tensor:
    return notes.shape[1] - 1 - notes.int().flip(1).argmax(1)


FOUR: dict[str, Reward] = {
    "ends_on_c_or_a": ends_on_c_or_a,
    "no_repeated_pitch": no_repeated_pitch,
    "second_bar_higher": second_bar_higher,
    "syncopated": syncopated,
}
SINGLE: dict[str, Reward] = {
    **FOUR,
    "c_major": c_major,
    "octave": partial(in_range, low=60, high=72),
    "returns": returns,
}
PAPER: dict[str, Reward] = {"c_major": c_major, "dense": partial(density, notes=17)}
PAIR: dict[str, Reward] = {  # contradict each other
    "low": partial(in_range, low=36, high=64),
    "high": partial(in_range, low=69, high=96),
}
IMPOSSIBLE: dict[str, Reward] = {"forty_notes": partial(density, notes=40)}
ASIDE: dict[str, Reward] = {
    "pentatonic": partial(in_scale, pitch_classes=PENTATONIC),
    "same_rhythm": same_rhythm,
    "every_beat": every_beat,
}

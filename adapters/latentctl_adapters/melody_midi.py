"""Tunes from MIDI files, and melodies as MIDI files.

A melody is taken from notes as in MusicVAE: 4/4 time, a grid of sixteenths, the highest note where
several sound together, windows of a few bars, one bar apart. A note that sounds at the start of a
window starts again there. Left out are windows with fewer than `max(3, bars)` notes, with one pitch
only, or with a rest of more than a bar.
"""

from __future__ import annotations

__all__ = ["Span", "Tune", "monophonic", "read_midi", "windows", "write_midi"]

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentctl.errors import InputError

from .melody_rewards import BAR, HOLD, REST
from .melody_sound import notes_of

STEP = 120  # ticks of a sixteenth
VELOCITY = 90
FOUR_FOUR = ((4, 4), (2, 2))

Span = tuple[int, int, int]
"""First step, step after the last, MIDI pitch."""


@dataclass
class Tune:
    """One line of notes of a file."""

    notes: list[list[Span]]
    """The notes of each section in 4/4, in sixteenths from its first bar line."""
    polyphonic: bool = False
    """Whether some notes sounded together, of which the highest are kept."""


def monophonic(notes: Iterable[Span]) -> tuple[list[Span], bool]:
    """The highest line of some notes, and whether any were left out or shortened for it.

    A note starts unless a higher one sounds; it ends the note before it.

    Example:
        >>> monophonic([(0, 4, 60), (0, 4, 64), (2, 6, 62), (4, 8, 59)])
        ([(0, 4, 64), (4, 8, 59)], True)
    """
    line: list[Span] = []
    cut = False
    for start, end, pitch in sorted(notes, key=lambda note: (note[0], -note[2])):
        end = max(end, start + 1)  # shorter than a sixteenth
        if line and line[-1][1] > start:
            cut = True
            before = line[-1]
            if before[2] > pitch or before[0] == start:
                continue
            line[-1] = (before[0], start, before[2])
        line.append((start, end, pitch))
    return line, cut


def windows(notes: Sequence[Span], bars: int) -> Iterator[Tensor]:
    """Windows of `bars` bars of a line of notes, one bar apart, as tokens `(16 * bars,)`."""
    if not notes:
        return
    length, steps = -(-notes[-1][1] // BAR) * BAR, bars * BAR
    pitch = torch.full((length,), -1)
    onset = torch.zeros(length, dtype=torch.bool)
    for start, end, value in notes:
        pitch[start:end] = value
        onset[start] = True
    for first in range(0, length - steps + 1, BAR):
        sounds = pitch[first : first + steps]
        starts = onset[first : first + steps].clone()
        starts[0] = sounds[0] >= 0
        window = torch.where(starts, sounds, torch.where(sounds >= 0, HOLD, REST))
        onsets = window[window < HOLD]
        if len(onsets) >= max(3, bars) and len(onsets.unique()) > 1 and _rest(window) <= BAR:
            yield window


def _rest(window: Tensor) -> int:
    """The longest rest, in steps."""
    sounding = (window != REST).nonzero().flatten().tolist()
    edges = [-1, *sounding, len(window)]
    longest: int = max(b - a - 1 for a, b in itertools.pairwise(edges))
    return longest


def read_midi(path: str | Path) -> list[Tune]:
    """The tunes of a MIDI file: one for each track with notes that is no drum kit.

    Raises:
        InputError: If it cannot be read, holds no notes, or has no section in 4/4.
        ImportError: If symusic is not installed.
    """
    import symusic

    try:
        score = symusic.Score(str(path))
    except Exception as error:  # of the C++ parser
        raise InputError(f"corrupt: {(str(error).splitlines() or [''])[0]}") from error
    grid = max(score.ticks_per_quarter, 1) / 4
    tracks = [track.notes for track in score.tracks if len(track.notes) and not track.is_drum]
    if not tracks:
        raise InputError("empty: no notes")
    end = max(note.time + note.duration for notes in tracks for note in notes)
    signs = sorted((sign.time, sign.numerator, sign.denominator) for sign in score.time_signatures)
    signs = signs or [(0, 4, 4)]  # the default of MIDI
    ends = [sign[0] for sign in signs[1:]] + [end + 1]
    sections = [
        (first, last)
        for (first, over, under), last in zip(signs, ends, strict=True)
        if (over, under) in FOUR_FOUR and last > first
    ]
    if not sections:
        found = ", ".join(sorted({f"{over}/{under}" for _, over, under in signs}))
        raise InputError(f"no 4/4: it is in {found}")
    tunes = []
    for notes in tracks:
        lines, cut = [], False
        for first, last in sections:
            line, some_cut = monophonic(
                (
                    round((note.time - first) / grid),
                    round((min(note.time + note.duration, last) - first) / grid),
                    note.pitch,
                )
                for note in notes
                if first <= note.time < last
            )
            lines.append(line)
            cut = cut or some_cut
        tunes.append(Tune(lines, cut))
    return tunes


def write_midi(tokens: Tensor, path: str | Path, *, qpm: float = 120.0, program: int = 0) -> None:
    """Write one melody `(steps,)` as a MIDI file, in 4/4.

    Arguments:
        tokens: 0 to 127 (a note starts), 128 (hold), 129 (rest). A hold after a rest is a rest.
        path: The file.
        qpm: Quarter notes per minute.
        program: General MIDI instrument; 0 is a piano.

    Raises:
        InputError: If these are not the tokens of one melody.
        ImportError: If symusic is not installed.
    """
    import symusic

    outside = (tokens < 0) | (tokens > REST)
    if tokens.ndim != 1 or tokens.is_floating_point() or bool(outside.any()):
        raise InputError(f"A melody is a row of tokens 0 to {REST}, not {tuple(tokens.shape)}.")
    score = symusic.Score(4 * STEP)
    score.tempos.append(symusic.Tempo(0, qpm))
    score.time_signatures.append(symusic.TimeSignature(0, 4, 4))
    track = symusic.Track(name="melody", program=program)
    for pitch, start, length in notes_of(tokens):
        track.notes.append(symusic.Note(start * STEP, length * STEP, pitch, VELOCITY))
    score.tracks.append(track)
    score.dump_midi(str(path))

"""Melodies as pictures and sound: piano rolls as PNG, and a synthesiser that writes WAV.

A melody is a row of integers, one a sixteenth: 0 ... 127 starts the note of that MIDI pitch, 128
holds it, 129 is a rest. A note is eight harmonics of its pitch with exponential decay, as of a
plucked string; higher harmonics decay faster.
"""

from __future__ import annotations

__all__ = ["Note", "notes_of", "piano_rolls", "wave_of"]

import io
import wave
from collections.abc import Sequence
from typing import NamedTuple

import torch
from latentctl_adapters.melody_rewards import C_MAJOR, HOLD, REST
from torch import Tensor

from latentctl.errors import InputError, ShapeError

from ..figures import BLUE, INK, LINE, NOT_SATISFIED, SOFT, drawing, png_of

BAR = 16  # sixteenths
RATE = 16_000  # samples a second
HARMONICS = 8


class Note(NamedTuple):
    """A note: its MIDI pitch, its first sixteenth and its length in sixteenths."""

    pitch: int
    start: int
    length: int


def notes_of(melody: Tensor | Sequence[int]) -> list[Note]:
    """The notes of one melody `(T,)`; a hold after a rest is a rest."""
    notes: list[Note] = []
    sounding = False
    for step, token in enumerate(torch.as_tensor(melody).tolist()):
        if token == HOLD and sounding:
            notes[-1] = notes[-1]._replace(length=notes[-1].length + 1)
            continue
        sounding = token < HOLD
        if sounding:
            notes.append(Note(token, step, 1))
    return notes


def piano_rolls(
    melodies: Tensor,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    pitch_classes: Sequence[int] = C_MAJOR,
) -> bytes:
    """The PNG of `R` by `C` piano rolls; notes outside the pitch classes are red.

    Arguments:
        melodies: `(R, C, T)` integers. The rolls of a row share one range of pitches.
        row_labels: At the left, `R` or none.
        column_labels: Above, `C` or none.
        pitch_classes: Those that are not red; 0 is C.

    Raises:
        ShapeError: If melodies or labels are not of one `R` by `C`.
        InputError: If a token is out of range.
    """
    if melodies.ndim != 3 or melodies.numel() == 0:
        raise ShapeError(f"Piano rolls need melodies (R, C, T), these are {tuple(melodies.shape)}.")
    if melodies.is_floating_point() or int(melodies.min()) < 0 or int(melodies.max()) > REST:
        raise InputError(f"Melodies are integers from 0 to {REST}.")
    rows, columns, steps = melodies.shape
    if len(row_labels) not in (0, rows) or len(column_labels) not in (0, columns):
        raise ShapeError(f"The labels do not fit {rows} rows and {columns} columns of melodies.")
    wide = max(1.8, min(4.5, steps / 16))
    with drawing(size=(wide * columns + 0.9, rows + 0.4)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for r in range(rows):
            pitches = melodies[r][melodies[r] < HOLD]
            low, high = (int(pitches.min()), int(pitches.max())) if len(pitches) else (60, 72)
            low, high = min(low, high - 11) - 1, high + 1
            for c in range(columns):
                roll = axes[r, c]
                for note in notes_of(melodies[r, c]):
                    colour = BLUE if note.pitch % 12 in pitch_classes else NOT_SATISFIED
                    # a gap at its end separates two notes of one pitch
                    roll.barh(note.pitch, note.length - 0.15, 0.85, note.start, color=colour)
                for octave in range(low // 12, high // 12 + 1):
                    if low <= 12 * octave <= high:
                        roll.axhline(12 * octave, color=SOFT, linewidth=0.4, zorder=0)
                for bar in range(0, steps, 4 if steps <= 2 * BAR else BAR):
                    colour = SOFT if bar % BAR == 0 else LINE
                    roll.axvline(bar, color=colour, linewidth=0.5, zorder=0)
                roll.set(xlim=(0, steps), ylim=(low, high), xticks=[], yticks=[])
                if r == 0 and column_labels:
                    roll.set_title(column_labels[c])
                if c == 0 and row_labels:
                    roll.set_ylabel(row_labels[r], rotation=0, ha="right", va="center", color=INK)
        return png_of(figure)


def wave_of(melody: Tensor | Sequence[int], *, beats_per_minute: float = 110) -> bytes:
    """The sound of one melody `(T,)` as a WAV file, 16 bits, mono.

    Raises:
        InputError: If the tempo is not positive.
    """
    if not beats_per_minute > 0:
        raise InputError(f"The tempo must be positive, it is {beats_per_minute} beats a minute.")
    step = 60 / beats_per_minute / 4
    tail = 0.4  # seconds for the decay of the last note
    sound = torch.zeros(round((len(torch.as_tensor(melody)) * step + tail) * RATE))
    for note in notes_of(melody):
        first = round(note.start * step * RATE)
        tone = _tone(note.pitch, note.length * step)
        sound[first : first + len(tone)] += tone[: len(sound) - first]
    samples = (sound.clamp(-1, 1) * 32767).to(torch.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples.numpy().tobytes())
    return file.getvalue()


def _tone(pitch: int, seconds: float, release: float = 0.06) -> Tensor:
    """One note, which decays while it is held and ends within `release` seconds after it."""
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    t = torch.arange(round((seconds + release) * RATE)) / RATE
    orders = torch.arange(1, HARMONICS + 1)
    orders = orders[orders * frequency < RATE / 2][:, None]
    decay = torch.exp(-t * (1.2 + 0.7 * orders))
    tone = (torch.sin(2 * torch.pi * frequency * orders * t) * decay / orders**1.3).sum(0)
    attack = (t / 0.008).clamp(max=1)
    ending = ((seconds + release - t) / release).clamp(0, 1)
    return 0.3 * tone * attack * ending

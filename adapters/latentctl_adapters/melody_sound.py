"""Melodies as notes and as sound: a synthesiser that writes WAV.

A melody is a row of integers, one a sixteenth: 0 ... 127 starts the note of that MIDI pitch, 128
holds it, 129 is a rest. A note is eight harmonics of its pitch with exponential decay, as of a
plucked string; higher harmonics decay faster.
"""

from __future__ import annotations

__all__ = ["RATE", "Note", "notes_of", "wave_of"]

import io
import wave
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latentctl.errors import InputError

from .melody_rewards import HOLD

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

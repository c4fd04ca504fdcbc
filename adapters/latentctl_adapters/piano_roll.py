"""Melodies as piano rolls, as sound and as MIDI files."""

from __future__ import annotations

__all__ = ["PianoRoll", "piano_roll"]

import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from latentctl.errors import InputError
from latentctl.rewards import Reward
from latentctl.rewards.rule import Rule

from .melody_midi import Span, read_midi, windows, write_midi
from .melody_rewards import BAR, HOLD, REST, onsets
from .melody_sound import notes_of, wave_of

STEP, KEY = 6, 4  # pixels of a sixteenth and of a key
LEAST = 12  # keys
LONGEST = 4096 * BAR  # steps of a file that are read
OUTSIDE = (0.81, 0.25, 0.31)


class PianoRoll:
    """How melodies are shown, played and read: the `show=` of a decoder of melodies `(B, T)`.

    Example:
        >>> PianoRoll()(torch.tensor([[60, 128, 129, 64]])).shape
        torch.Size([1, 1, 48, 24])
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures `(B, 1, h, w)` of melodies `(B, T)`: time to the right, high notes at the top.

        All melodies share one range of pitches. A note is grey, and black where it starts.
        """
        starts, pitch = onsets(x), _sounding(x)
        notes = pitch[pitch >= 0]
        low, high = (int(notes.min()), int(notes.max())) if len(notes) else (60, 60)
        keys = torch.arange(max(high, low + LEAST - 1), low - 1, -1)[:, None]
        on = pitch[:, None] == keys
        picture = 1 - on.float() * torch.where(starts[:, None], 1.0, 0.6)
        return picture[:, None].repeat_interleave(KEY, 2).repeat_interleave(STEP, 3)

    def marked(self, x: Tensor, steps: Tensor) -> Tensor:
        """The pictures `(B, 3, h, w)` of melodies, with the notes at some steps in red.

        Arguments:
            x: Melodies, `(B, T)`.
            steps: Where they are red, `(B, T)` booleans.
        """
        picture = self(x).expand(-1, 3, -1, -1)
        red = torch.tensor(OUTSIDE)[:, None, None]
        columns = steps.repeat_interleave(STEP, 1)[:, None, None]
        return torch.where(columns & (picture < 1), red + (1 - red) * picture, picture)

    def outside(self, x: Tensor, rules: dict[str, Reward]) -> Tensor:
        """The steps `(1, T)` of the notes without which a rule gives a melody `x (1, T)` more.

        Example:
            >>> share_of_c = lambda x: ((x == 60).sum(1) / (x < 128).sum(1).clamp_min(1))
            >>> PianoRoll().outside(torch.tensor([[60, 62, 128, 129]]), {"c": share_of_c})
            tensor([[False,  True,  True, False]])
        """
        notes, found = notes_of(x[0]), torch.zeros_like(x, dtype=torch.bool)
        without = x.repeat(len(notes) + 1, 1)
        for row, note in enumerate(notes):
            without[row, note.start : note.start + note.length] = REST
        for name, reward in rules.items():
            scores = Rule(name, reward)(without)[0]
            for note, score in zip(notes, scores[:-1].tolist(), strict=True):
                found[0, note.start : note.start + note.length] |= score > float(scores[-1]) + 1e-6
        return found

    def wave(self, x: Tensor) -> bytes:
        """The WAV file of one melody `(1, T)`."""
        return wave_of(x[0])

    def midi(self, x: Tensor) -> bytes:
        """The MIDI file of one melody `(1, T)`.

        Raises:
            InputError: If symusic is not installed.
        """
        _require_symusic()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "melody.mid"
            write_midi(x[0].cpu(), path)
            return path.read_bytes()

    def read(self, path: str | Path, steps: int) -> Tensor:
        """The first melody `(1, steps)` of a MIDI file.

        Raises:
            InputError: If there is none, the file cannot be read, or symusic is not installed.
        """
        _require_symusic()
        bars = steps // BAR
        for tune in read_midi(path):
            for section in tune.notes:
                for window in windows([note for note in section if _near(note)], bars):
                    return window[None]
        raise InputError(
            f"There is no melody of {bars} bars in the file: it needs {bars} bars of 4/4 with "
            f"{max(3, bars)} notes of two pitches, and no rest of more than a bar."
        )


piano_roll = PianoRoll()


def _near(note: Span) -> bool:
    return note[1] <= LONGEST


def _sounding(x: Tensor) -> Tensor:
    """The pitch that sounds at each step of melodies, `(B, T)`; -1 at rests."""
    sounding, last = [], torch.full_like(x[:, 0], -1)
    for token in x.unbind(1):
        last = torch.where(token == HOLD, last, torch.where(token < HOLD, token, -1))
        sounding.append(last)
    return torch.stack(sounding, 1)


def _require_symusic() -> None:
    if importlib.util.find_spec("symusic") is None:
        raise InputError("MIDI files are read and written by symusic: pip install latentctl[midi].")

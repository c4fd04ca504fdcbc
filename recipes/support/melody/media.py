"""Sheets of piano rolls as PNG."""

from __future__ import annotations

__all__ = ["piano_rolls"]

from collections.abc import Sequence

from latentctl_adapters.melody_rewards import BAR, C_MAJOR, HOLD, REST
from latentctl_adapters.melody_sound import notes_of
from torch import Tensor

from latentctl.errors import InputError, ShapeError

from ..figures import BLUE, INK, LINE, NOT_SATISFIED, SOFT, drawing, png_of


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

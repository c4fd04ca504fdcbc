"""Melodies as piano rolls."""

from __future__ import annotations

__all__ = ["piano_roll"]

import torch
from torch import Tensor

from .melody_rewards import HOLD, onsets

STEP, KEY = 6, 4  # pixels of a sixteenth and of a key
LEAST = 12  # keys


def piano_roll(x: Tensor) -> Tensor:
    """Pictures `(B, 1, h, w)` of melodies `(B, T)`: time to the right, high notes at the top.

    All melodies share one range of pitches. A note is grey, and black where it starts.

    Example:
        >>> piano_roll(torch.tensor([[60, 128, 129, 64]])).shape
        torch.Size([1, 1, 48, 24])
    """
    starts = onsets(x)
    sounding, last = [], torch.full_like(x[:, 0], -1)
    for token in x.unbind(1):
        last = torch.where(token == HOLD, last, torch.where(token < HOLD, token, -1))
        sounding.append(last)
    pitch = torch.stack(sounding, 1)
    notes = pitch[pitch >= 0]
    low, high = (int(notes.min()), int(notes.max())) if len(notes) else (60, 60)
    keys = torch.arange(max(high, low + LEAST - 1), low - 1, -1)[:, None]
    on = pitch[:, None] == keys
    picture = 1 - on.float() * torch.where(starts[:, None], 1.0, 0.6)
    return picture[:, None].repeat_interleave(KEY, 2).repeat_interleave(STEP, 3)

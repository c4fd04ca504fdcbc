"""Piano rolls and the synthesiser of the recipes."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import torch
from latentctl_adapters.melody_rewards import HOLD, REST
from latentctl_adapters.melody_sound import RATE, Note, notes_of, wave_of
from test_recipes import PNG

from latentctl.errors import InputError, ShapeError

pytest.importorskip("matplotlib")

from support.melody.media import piano_rolls
from support.report import Report

A4 = 69


def melody(*tokens):
    return torch.tensor([*tokens, *[REST] * (32 - len(tokens))])


def sound(data):
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)


def test_notes_are_held_and_end_at_rests():
    notes = notes_of(melody(HOLD, 60, HOLD, HOLD, 60, REST, HOLD, 62))
    assert notes == [Note(60, 1, 3), Note(60, 4, 1), Note(62, 7, 1)]


def test_a_note_outside_the_scale_is_drawn_in_another_colour():
    grid = torch.stack([melody(60, HOLD, 62), melody(60, HOLD, 61)])[None]
    plain = piano_rolls(grid[:, [0, 0]], row_labels=["a"], column_labels=["prior", "rule"])
    wrong = piano_rolls(grid, row_labels=["a"], column_labels=["prior", "rule"])
    assert plain.startswith(PNG)
    pixels = [red(image) for image in (plain, wrong)]
    assert pixels[0] == 0 < pixels[1]
    assert red(piano_rolls(grid, pitch_classes=range(12))) == 0


def red(image):
    from PIL import Image

    rgb = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)
    return int(((rgb[..., 0] > 190) & (rgb[..., 1] < 90) & (rgb[..., 2] < 110)).sum())


def test_a_melody_sounds_at_its_pitch_and_is_silent_at_rests():
    samples = sound(wave_of(melody(A4, *[HOLD] * 7), beats_per_minute=120))
    step = RATE // 8
    assert len(samples) == pytest.approx(32 * step + 0.4 * RATE, abs=2)
    held = samples[:8000].astype(float)
    spectrum = np.abs(np.fft.rfft(held * np.hanning(len(held))))
    assert np.fft.rfftfreq(len(held), 1 / RATE)[spectrum.argmax()] == pytest.approx(440, abs=3)
    assert np.abs(samples[10 * step :]).max() == 0 < np.abs(held).max() < 32767


def test_bad_input_is_refused():
    with pytest.raises(ShapeError, match=r"\(R, C, T\)"):
        piano_rolls(melody(60))
    with pytest.raises(ShapeError, match="labels do not fit"):
        piano_rolls(melody(60)[None, None], row_labels=["a", "b"])
    with pytest.raises(InputError, match="0 to 129"):
        piano_rolls(melody(130)[None, None])
    with pytest.raises(InputError, match="tempo"):
        wave_of(melody(60), beats_per_minute=0)


def test_the_report_plays_sound(tmp_path):
    report = Report("Melodies")
    report.players([("a `note`", wave_of(melody(60)))])
    page = report.save(tmp_path / "report.html").read_text()
    assert 'src="data:audio/wav;base64,UklGR' in page
    with pytest.raises(InputError, match="WAV"):
        report.players([("a note", b"MThd")])

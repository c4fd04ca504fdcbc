"""A pack on a melody VAE in the studio: piano rolls, sound, MIDI files and rules."""

from __future__ import annotations

import base64
import io
import wave

import pytest
import torch
from latentctl_adapters.melody_rewards import REST, c_major, in_range
from latentctl_adapters.piano_roll import piano_roll

from latentctl.errors import InputError
from latentctl.studio import receipt, script
from latentctl.studio.medium import Melodies, Pictures, medium_of
from latentctl.studio.session import Demand, Session


@pytest.fixture
def session(melodies):
    visit = Session(melodies)
    visit.begin(visit.opening())
    return visit


def bytes_of(address):
    return base64.b64decode(address.split(",", 1)[1])


def test_the_decoder_decides_what_is_shown(melodies, source):
    assert isinstance(medium_of(melodies), Melodies) and isinstance(medium_of(source), Pictures)


def test_an_edit_is_seen_heard_and_taken_away(melodies, session, tmp_path):
    pytest.importorskip("symusic")
    medium = medium_of(melodies)
    result = session.edit(Demand(wanted=(("c_major", 1.0),)))
    shown, kept = medium.shown(result), medium.kept(result)
    assert bytes_of(shown["after"]).startswith(b"\x89PNG") and "C major" in shown["legend"]
    with wave.open(io.BytesIO(bytes_of(kept["after_sound"]))) as sound:
        assert sound.getnframes() > 32 * 1000
    (tmp_path / "edited.mid").write_bytes(bytes_of(kept["midi"]))
    assert medium.said(result)[0].startswith("The rule C major itself:")
    assert receipt.files(result.outcome)[0].startswith(b"\x89PNG")
    names = {"faces": melodies.faces}
    lines = script.lines(result, melodies).replace('"edited.png"', repr(str(tmp_path / "a.png")))
    exec(lines, names)
    assert torch.equal(names["out"].x, result.outcome.x)


def test_a_midi_file_is_edited(melodies, session, tmp_path):
    pytest.importorskip("symusic")
    medium, path = medium_of(melodies), tmp_path / "tune.mid"
    x = torch.full((1, 32), REST)
    x[0, ::4] = torch.arange(60, 68)
    path.write_bytes(piano_roll.midi(x))
    start = medium.start_of(path)
    assert torch.equal(start.x, x) and "Its reconstruction differs" in start.note
    session.begin(start)
    result = session.edit(Demand(wanted=(("c_major", 1.0),)))
    names = {"faces": melodies.faces}
    lines = script.lines(result, melodies).replace('"edited.png"', repr(str(tmp_path / "a.png")))
    exec(lines.replace("'tune.mid'", repr(str(path))), names)
    assert torch.equal(names["out"].x, result.outcome.x)
    path.write_text("no notes")
    with pytest.raises(InputError, match="cannot be used"):
        medium.start_of(path)
    path.write_bytes(piano_roll.midi(torch.full((1, 32), 60)[:, :16]))
    with pytest.raises(InputError, match="no melody of 2 bars"):
        medium.start_of(path)


def test_notes_that_break_a_rule_are_marked():
    x = torch.tensor([[60, 128, 61, 129, 62, 90, 128, 129]])
    low = {"low": lambda x: in_range(x, low=40, high=80)}
    assert piano_roll.outside(x, {"c_major": c_major}).nonzero()[:, 1].tolist() == [2, 5, 6]
    assert piano_roll.outside(x, low).nonzero()[:, 1].tolist() == [5, 6]
    steps = piano_roll.outside(x, low)
    red = (piano_roll.marked(x, steps)[0, 0] > piano_roll.marked(x, steps)[0, 1]).any(0)
    assert red.view(8, -1).any(1).tolist() == steps[0].tolist()
    assert not piano_roll.outside(torch.full((1, 8), REST), low).any()

"""What the command `studio` serves, and the page that is there at once."""

from __future__ import annotations

import socket
import urllib.request

import pytest
import torch
from PIL import Image

from latentctl.cli.main import main, parser
from latentctl.cli.studio import source_of
from latentctl.cli.waiting import Waiting
from latentctl.errors import InputError
from latentctl.studio import script
from latentctl.studio.session import Demand, Session

MODEL = """
import latentctl
from conftest import ToyVAE, toy_decoder


def load():
    return toy_decoder(ToyVAE())


def faces():
    return latentctl.Conditional.from_pretrained("pack", load())
"""


@pytest.mark.parametrize("pack", ["pack --decoder model.py:load", "model.py:faces"])
def test_the_lines_load_the_pack_and_the_pictures(served_faces, tmp_path, monkeypatch, pack):
    monkeypatch.chdir(tmp_path)
    served_faces.save_pretrained("pack")
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((12, 9), 60).convert("RGB").save(f"photos/{number}.png")
    words = f"studio {pack} --images photos --device cpu"
    source = source_of(parser().parse_args(words.split()))
    visit = Session(source)
    visit.begin(visit.picture(2))
    result = visit.edit(Demand(wanted=(("Smiling", 0.0),)))
    names: dict = {}
    exec(script.lines(result, source), names)
    assert torch.equal(names["out"].x, result.outcome.x)


@pytest.mark.parametrize(
    "words, said",
    [
        ("studio pack", "A pack needs the decoder"),
        ("studio --decoder model.py:load", "A pack needs the decoder"),
    ],
)
def test_half_a_request_is_refused(words, said):
    with pytest.raises(InputError, match=said):
        source_of(parser().parse_args(words.split()))


def test_a_page_is_there_at_once_and_gives_way():
    waiting = Waiting()
    try:
        answer = urllib.request.urlopen(waiting.address)
        assert "X-Waiting" in answer.headers and b"being loaded" in answer.read()
        with pytest.raises(InputError, match=f"Port {waiting.port} is taken"):
            Waiting(waiting.port)
    finally:
        waiting.close()
    Waiting(waiting.port).close()  # the port is free again


def test_a_port_that_is_taken_is_said(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["studio", "--port", str(port), "--no_browser"]) == 2
    assert "taken" in capsys.readouterr().err


def test_the_evaluator_of_the_drawn_faces_follows():
    pytest.importorskip("timm")
    source = source_of(parser().parse_args(["studio", "--device", "cpu"]))
    early = source.faces
    assert early.evaluator is None
    source.complete()
    late = source.faces
    assert late.evaluator is not None and late.decoder is early.decoder
    assert late.names == early.names
    source.complete()
    assert source.faces is late


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["studio", "--no_browser"]) == 2
    assert "latentctl[ui]" in capsys.readouterr().err

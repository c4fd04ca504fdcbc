"""How results are shown: samples as pictures, objects in one line, and tables in notebooks."""

from __future__ import annotations

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import NAMES, ToyVAE, toy_decoder
from latentctl_adapters.piano_roll import piano_roll
from PIL import Image

from latentctl import (
    Ascent,
    AttributeCritic,
    Gaussian,
    KnowledgeBase,
    LatentFlow,
    Latents,
    PixelCritic,
    condition,
    wrap,
)
from latentctl.display import Display, grid, html_table
from latentctl.errors import InputError

EVIL = "<script>alert('x')</script>"


def read(data):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data))))


@pytest.fixture
def faces():
    critic = AttributeCritic((8,), NAMES, width=8)
    ascent = Ascent(critic, steps=3)
    return condition(toy_decoder(ToyVAE()), critic, ascent, editor=ascent)


@pytest.fixture
def out(faces):
    return faces.edit(torch.rand(6, 3, 4, 4), Smiling=True)


@pytest.mark.parametrize(
    "show, shape, size",
    [
        (None, (3, 8, 9), (8, 9)),
        (None, (1, 8, 9), (8, 9)),
        (None, (4, 8, 9), (8, 9)),
        (None, (2, 100), (2, 100)),
        (None, (8, 9), (64, 72)),
        (None, (100,), (64, 100)),
        (None, (5000,), (64, 512)),
        (None, (12,), (64, 96)),
        (None, (3, 6, 8, 9), (8, 9)),
        ((1, 7, 8), (56,), (7, 8)),
        ("curve", (3, 50), (64, 150)),
        (lambda x: x.view(-1, 1, 5, 5) * 0, (25,), (5, 5)),
    ],
)
def test_samples_of_every_shape_are_pictures(show, shape, size):
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    pictures = Display(show)(x)
    assert pictures.shape == (3, 3, *size) and bool(((pictures >= 0) & (pictures <= 1)).all())


def test_images_keep_their_values():
    x = torch.rand(2, 3, 5, 6) * 2 - 1
    assert torch.equal(Display(None, (-1, 1))(x), (x + 1) / 2)
    flat = Display((3, 5, 6), (-1, 1))(x.flatten(1))
    assert torch.equal(flat, (x + 1) / 2)


def test_a_roll_marks_the_symbol_of_each_step():
    x = torch.tensor([[3, 4, 10, 3]])
    roll = Display()(x)[0, 0]
    cells = roll[::8, ::8]
    assert cells.shape == (8, 4) and [int(c) for c in (cells == 0).nonzero()[:, 0]] == [0, 6, 7, 7]


def test_a_curve_is_joined_and_rises():
    curve = Display()(torch.linspace(0, 1, 200)[None])[0, 0]
    rows = [float((column == 0).nonzero().float().mean()) for column in curve.T]
    assert rows[0] > 60 and rows[-1] < 3 and all(a >= b for a, b in itertools.pairwise(rows))


def test_a_melody_is_a_piano_roll():
    melody = torch.tensor([[60, 128, 129, 64], [61, 62, 128, 128]])
    roll = piano_roll(melody)
    cells = roll[:, 0, ::4, ::6]
    low = cells.shape[1] - 1  # the row of pitch 60
    assert cells[0, low].tolist() == pytest.approx([0, 0.4, 1, 1])
    assert cells[0, low - 4].tolist() == pytest.approx([1, 1, 1, 0])
    assert cells[1, low - 2].tolist() == pytest.approx([1, 0, 0.4, 0.4])


@pytest.mark.parametrize("show", ["film", "", "Curve"])
def test_an_unknown_way_to_show_is_refused(show):
    with pytest.raises(InputError, match="picture, curve, roll, table"):
        Display(show)


def test_what_cannot_be_shown_says_how_it_could():
    with pytest.raises(InputError, match=r"\(5, 8, 9\) cannot be shown.*show="):
        Display()(torch.rand(2, 5, 8, 9))
    with pytest.raises(InputError, match="no flattened pictures"):
        Display((1, 4, 4))(torch.rand(2, 15))
    with pytest.raises(InputError, match="curve or a table"):
        Display("roll")(torch.rand(2, 15))


def test_outcomes_of_vectors_and_sequences_are_saved(tmp_path):
    flat = wrap(torch.nn.Linear(4, 12), decode="forward", show=(1, 3, 4))
    assert flat.display.show == (1, 3, 4)
    for decoder in (flat, wrap(torch.nn.Linear(4, 12), decode="forward")):
        out = condition(decoder, AttributeCritic((4,), ["Loud"], width=8)).sample(4)
        image = read(out.save(tmp_path / "new" / "samples.png").read_bytes())
        assert torch.equal(image, grid(decoder.display(out.x)))
        assert decoder.through(LatentFlow((4,), width=8)).display.show == decoder.display.show


def test_a_completion_is_saved_with_a_row_for_each_input(faces, tmp_path):
    out = faces.complete(torch.rand(3, 3, 4, 4), torch.arange(4) < 2, count=2, steps=2)
    image = read(out.save(tmp_path / "a.png").read_bytes())
    assert torch.equal(image, grid(out.x.flatten(0, 1), columns=2))
    assert len(out) == 3 and "inputs: 3" in repr(out) and out._repr_html_().count("<img") == 6


def test_an_outcome_is_indexed(out):
    assert len(out) == 6 and len(list(out)) == 6
    for index, rows in (
        (0, [0]),
        (-1, [5]),
        (slice(2, 5), [2, 3, 4]),
        ([3, 1], [3, 1]),
        (torch.tensor([4]), [4]),
        (out.satisfied, out.satisfied.nonzero().flatten().tolist()),
        (slice(0, 0), []),
    ):
        part = out[index]
        assert len(part) == len(rows) and part.names == out.names
        for name in ("x", "z", "start", "satisfied", "probability", "shift", "before", "target"):
            found, expected = getattr(part, name), getattr(out, name)[rows]
            assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    with pytest.raises(IndexError):
        out[6]
    assert "Outcome(0 samples" in repr(out[:0]) and out[:0]._repr_html_()


def test_receipts_have_the_numbers_of_the_outcome(out):
    rows = out.receipts()
    assert (
        len(rows) == 6 and rows[0]["requested_Smiling"] == 1 and rows[0]["leakage_Smiling"] is None
    )
    for number, row in enumerate(rows):
        assert row["satisfied"] == bool(out.satisfied[number])
        assert row["evaluations"] == int(out.evaluations[number])
        for column, name in enumerate(out.names):
            assert row[f"probability_{name}"] == float(out.probability[number, column])
        assert row["requested_Male"] is None and row["leakage_Male"] == float(
            out.leakage[number, 1]
        )


def test_reprs_are_short_and_say_what_it_is(faces, out):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    pixels = PixelCritic(faces.decoder, network, names=NAMES)
    evaluated = condition(faces.decoder, faces.critic, evaluator=pixels, prior=Gaussian((8,), 1.0))
    for thing, words in (
        (
            faces.decoder,
            ["toy", "(8,)", "(3, 4, 4)", "[0, 1]", "encoder: yes", "N(0, I)", "on cpu"],
        ),
        (faces.critic, ["AttributeCritic", "Smiling, Male, Hat", "(8,)"]),
        (faces.critic["Hat"] & ~faces.critic["Male"], ["And", "Hat, Male"]),
        (KnowledgeBase(faces.prior, (8,)), ["KnowledgeBase"]),
        (faces, ["toy", "Smiling, Male, Hat", "Ascent", "N(0, I), the decoder's own", "0.95"]),
        (evaluated, ["evaluator: PixelCritic", "prior: Gaussian", "0.8"]),
        (faces.controller, ["Ascent", "steps: 3"]),
        (LatentFlow((8,), width=8), ["LatentFlow", "coupling", "width: 8"]),
        (out, ["6 samples", "satisfied", "leakage", "shift"]),
    ):
        text = repr(thing)
        assert "\n" not in text and len(text) < 600, text
        assert all(word in text for word in words), text


class Page(HTMLParser):
    """Checks that every element that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_notebook_tables_are_escaped_and_well_formed(tmp_path):
    names = [EVIL, "Male"]
    critic = AttributeCritic((8,), names, width=8)
    decoder = toy_decoder(ToyVAE())
    decoder.name = EVIL
    faces = condition(decoder, critic, editor=Ascent(critic, steps=2))
    out = faces.edit(torch.rand(20, 3, 4, 4), y=[[1, None]])
    latents = Latents(torch.zeros(4, 8), None, torch.ones(4, 2), names)
    things = [out, faces, decoder, critic, critic[EVIL], latents, faces.sample(2)]
    for thing in things:
        page, text = Page(), thing._repr_html_()
        page.feed(text)
        assert not page.open and "table" in page.seen and "script" not in page.seen
        assert "&lt;script&gt;" in text and EVIL not in text
    shown = out._repr_html_()
    assert shown.count("<img") == 32 and "4 more are not shown" in shown
    assert len(re.findall("✓|✗", shown)) == 16 and "requested 1" in shown and "held" in shown
    first = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
    assert torch.equal(read(first), grid(out.before[:1], margin=0))
    assert "<img" not in html_table("x", {"<img>": "<img>"})


def test_samples_that_cannot_be_drawn_are_named_in_the_table(faces):
    faces.decoder.display = Display((1, 2, 2))
    out = faces.sample(2, Smiling=True)
    assert out._repr_html_().count("not shown") == 2

"""What a visitor does, without a browser: history, receipts, lines of Python, uploads, teaching."""

from __future__ import annotations

import json
import zipfile

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from PIL import Image

from latentctl import Conditional, Decoder, Latents, PixelCritic, condition
from latentctl.controllers import Ascent
from latentctl.errors import InputError, UnknownNameError
from latentctl.studio import comparing, pictures, receipt, script, teaching, uploads
from latentctl.studio.session import HISTORY, Demand, Session
from latentctl.studio.source import Source


def demand(strength=1.0, hold=None, where="", **wanted):
    return Demand.of({"wanted": wanted, "hold": hold, "strength": strength}, where)


@pytest.fixture
def session(source):
    visit = Session(source)
    visit.begin(visit.opening())
    return visit


def test_undo_and_redo_walk_the_history(session):
    first = session.shown
    second = session.edit(demand(Smiling=1.0))
    third = session.edit(demand(Smiling=1.0, Male=0.0))
    assert session.undo() is second and session.undo() is first and session.undo() is first
    assert session.redo() is second and session.redo() is third and session.redo() is third
    assert session.go(0) is first
    other = session.edit(demand(Hat=1.0))  # what was undone is gone
    assert session.past == [first, other] and session.redo() is other
    assert session.reset().demand.is_empty


def test_a_moving_slider_is_one_entry_of_the_history(session):
    for value in (0.6, 0.7, 0.8):
        draft = session.edit(demand(Smiling=value), moving=True)
        assert session.shown is draft and len(session.past) == 1
    kept = session.edit(demand(Smiling=0.8))
    assert kept is draft and session.past[1:] == [kept]  # nothing is computed twice
    assert session.undo().demand.is_empty


def test_what_was_computed_is_kept_with_the_same_bits(served_faces, monkeypatch):
    decoder, critic = served_faces.decoder, served_faces.critic
    evaluator = PixelCritic(decoder, lambda x: ToyVAE().encode(x).mean[:, :3], names=critic.names)
    visit = Session(Source(condition(decoder, critic, evaluator=evaluator), ""))
    calls = []
    for kind, name in ((Ascent, "search"), (Decoder, "decode"), (PixelCritic, "score_samples")):
        monkeypatch.setattr(kind, name, counted(calls, name, getattr(kind, name)))
    visit.begin(visit.sample(3))
    before = float(visit.shown.before[0])
    places = [before + share * (1 - before) for share in (0.2, 0.5, 0.3)]
    calls.clear()
    results = [visit.edit(demand(Smiling=place), moving=True) for place in places]
    assert calls.count("search") == 1 and calls.count("decode") == calls.count("score_samples")
    calls.clear()
    again = visit.edit(demand(Smiling=places[0]), moving=True)
    strip = dict(visit.strengths())
    assert "search" not in calls and again is not results[0]
    for result, place in zip(results, places, strict=True):
        plain = visit.faces.edit(Latents(result.start.z), Smiling=place, seed=0)
        assert abs(float(plain.probability[0, 0]) - place) <= 0.01 + 1e-6
        for name in ("x", "z", "probability", "shift", "evaluations"):
            assert torch.equal(getattr(result.outcome, name), getattr(plain, name))
        assert receipt.files(result.outcome) == receipt.files(plain)
    assert torch.equal(strip[1.0], results[0].outcome.x)


def counted(calls, name, function):
    def called(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    return called


def test_the_history_is_bounded(session):
    for number in range(HISTORY + 5):
        session.begin(session.sample(number))
    assert len(session.past) == HISTORY and session.place == HISTORY - 1


def test_visitors_do_not_see_each_other(source):
    one, other = Session(source), Session(source)
    for visit in (one, other):
        visit.begin(visit.opening())
    one.edit(demand(Smiling=1.0))
    one.taught["New"] = object()
    assert len(other.past) == 1 and other.shown.demand.is_empty and not other.taught


@pytest.mark.parametrize(
    "wrong",
    [None, {}, {"wanted": 3}, {"wanted": {"Smiling": "x"}}, {"wanted": {}, "strength": []}],
)
def test_controls_that_cannot_be_read_are_refused(wrong):
    with pytest.raises(InputError, match="Reload the page"):
        Demand.of(wrong)


def test_errors_leave_the_session_as_it_is(session):
    shown = session.edit(demand(Smiling=1.0))
    for wrong in (demand(Nothing=1.0), demand(Smiling=1.0, hold=["No"]), demand(where="a &")):
        with pytest.raises((InputError, UnknownNameError)):
            session.edit(wrong)
        assert session.shown is shown and len(session.past) == 2


def test_the_receipt_marks_what_was_reached_and_what_leaked(session):
    result = session.edit(demand(Smiling=0.0, hold=[]))
    rows = {row["name"]: row for row in receipt.rows(result)}
    assert rows["Smiling"]["mark"] == "reached" and not rows["Hat"]["held"]
    assert {"leaked"}.isdisjoint(row["mark"] for row in rows.values())
    said = receipt.sentences(result)
    assert said[0].startswith("Smiling 1.00 → 0.0") and "as wanted" in said[0]
    assert "AttributeCritic that the edit itself follows" in said[-1]
    held = session.edit(demand(Smiling=0.1, hold=["Male"]))
    assert [row["held"] for row in receipt.rows(held)] == [False, True, False]
    picture, document = receipt.files(held.outcome)
    assert picture.startswith(b"\x89PNG")
    assert json.loads(document)["samples"][0]["requested_Smiling"] == pytest.approx(0.1)


def test_an_evaluator_is_named(served_faces, source):
    from latentctl import PixelCritic

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    evaluator = PixelCritic(served_faces.decoder, network, names=served_faces.names)
    judged = condition(served_faces.decoder, served_faces.critic, evaluator=evaluator)
    visit = Session(Source(judged, source.code))
    result = visit.begin(visit.opening())
    assert "independent evaluator (Sequential)" in receipt.sentences(result)[-1]
    expected = evaluator.score(result.start.z).sigmoid()[0]
    assert torch.equal(result.before, expected)


def run(code, folder, monkeypatch, **names):
    monkeypatch.chdir(folder)
    exec(compile(code, "lines", "exec"), names)
    return names["out"]


def same(out, result):
    return all(
        torch.equal(getattr(out, name), getattr(result.outcome, name))
        for name in ("x", "z", "probability", "shift")
    )


def test_the_lines_of_python_give_the_same_bits(
    session, source, served_faces, tmp_path, monkeypatch
):
    served_faces.save_pretrained(tmp_path / "pack")
    Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / "photo.png")
    starts = (
        session.sample(3),
        session.picture(5),
        uploads.start_of(tmp_path / "photo.png", source),
    )
    demands = (
        demand(Smiling=0.87, hold=["Male"], strength=0.75),
        demand(where="(Smiling & ~Hat) | Male"),
        demand(),
    )
    for start in starts:
        session.begin(start)
        for wanted in demands:
            result = session.edit(wanted)
            code = script.lines(result, source)
            assert same(run(code, tmp_path, monkeypatch, pictures=source.pictures), result), code
            files = [(tmp_path / name).read_bytes() for name in ("edited.png", "edited.png.json")]
            assert files == [*receipt.files(result.outcome)]


def test_the_lines_for_a_taught_attribute(session, source, served_faces, tmp_path, monkeypatch):
    served_faces.save_pretrained(tmp_path / "pack")
    critic = taught(source).critic
    session.use(teaching.extended(source, {"Bright": critic}))
    result = session.edit(demand(Bright=1.0))
    file = teaching.saved_pack(session.faces, tmp_path)
    zipfile.ZipFile(file).extractall(tmp_path)
    code = script.lines(result, source)
    assert script.PACK in code
    assert same(run(code, tmp_path, monkeypatch, pictures=source.pictures), result)
    loaded = Conditional.from_pretrained(tmp_path / script.PACK, toy_decoder(ToyVAE()))
    assert {*loaded.names} == {*served_faces.names, "Bright"}


def test_a_strip_of_strengths(session):
    session.edit(demand(Smiling=1.0))
    strip = dict(session.strengths())
    assert torch.equal(strip[0.0], session.source.decoder.decode(session.shown.start.z))
    assert torch.equal(strip[1.0], session.shown.outcome.x)


class TestUploads:
    def test_a_picture_is_brought_to_the_decoders_size(self, source, tmp_path):
        Image.new("RGBA", (31, 17), (255, 0, 0, 128)).save(tmp_path / "a.png")
        x = uploads.read_upload(tmp_path / "a.png", source.decoder)
        assert x.shape == (1, 3, 4, 4)

    def test_what_is_unlike_the_data_is_said(self, source, tmp_path):
        Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 9).convert("RGB").save(tmp_path / "a.png")
        assert source.usual_error < 1e-3
        assert "unlike what the generator" in uploads.start_of(tmp_path / "a.png", source).note

    @pytest.mark.parametrize("kind", ["text", "wide", "empty", "truncated", "heavy"])
    def test_what_is_no_picture_or_too_large_is_refused(self, source, tmp_path, kind, monkeypatch):
        file = tmp_path / "a.png"
        Image.new("L", (20_000 if kind == "wide" else 90, 90)).save(file)
        if kind == "heavy":
            monkeypatch.setattr(uploads, "MOST_BYTES", 10)
        if kind == "text":
            file.write_text("import os")
        if kind == "empty":
            file.write_bytes(b"")
        if kind == "truncated":
            file.write_bytes(file.read_bytes()[:70])
        words = {"wide": "20,000 x 90 pixels", "heavy": "at most", "truncated": "cannot be used"}
        with pytest.raises(InputError, match=words.get(kind, "not a picture that can be read")):
            uploads.read_upload(file, source.decoder)


def taught(source, kind="Hat", name="Bright", count=12):
    """A lesson of the sign of a latent, or of a known attribute."""
    z = source.encodings.mean[:60]
    has = source.faces.critic["Hat"](z)[:, 0] > 0 if kind == "Hat" else z[:, 4] > 0
    pool = teaching.Pool(z, [""] * 60, [""] * 60)
    for mark, rows in (("with", has), ("without", ~has)):
        for place in rows.nonzero().flatten().tolist()[: count // 2]:
            pool.marks[place] = mark
    *said, lesson = teaching.teach(name, pool, source, source.faces)
    assert said[-1].startswith("Testing it on examples that were left out")
    return lesson


class TestTeaching:
    def test_a_new_attribute_is_a_new_slider(self, session, source):
        lesson = taught(source, "other", "My thing", 20)
        assert lesson.critic.names == ("My_thing",) and lesson.count == 20
        session.edit(demand(Smiling=1.0))
        session.use(teaching.extended(source, {"My_thing": lesson.critic}))
        assert session.shown.demand == demand(Smiling=1.0)
        assert session.edit(demand(My_thing=1.0)).outcome.satisfied.all()
        session.use(teaching.extended(source, {}))
        assert session.faces is source.faces

    def test_a_known_attribute_that_separates_as_well_is_named(self, source):
        lesson = taught(source, "Hat", "Bright")
        assert "Hat" in dict(lesson.confounds)
        assert any("agree in something else" in said for said in lesson.warnings())
        assert not taught(source, "other", "Other", 40).confounds

    def test_the_expected_accuracy_is_that_on_others(self, source):
        lesson = taught(source, "other", "Other", 40)
        z = source.encodings.mean[60:]
        right = (lesson.critic(z)[:, 0] > 0) == (z[:, 4] > 0)
        assert abs(right.float().mean() - lesson.accuracy) < 0.15

    @pytest.mark.parametrize("name", ["", "Smiling", "smiling", "a<b>", "where", "x" * 99])
    def test_names_that_cannot_be_are_refused(self, source, name):
        with pytest.raises(InputError, match="name"):
            taught(source, name=name)

    def test_too_few_marks_are_refused(self, source):
        with pytest.raises(InputError, match="at least 5"):
            taught(source, count=4)

    def test_marks_turn(self):
        pool = teaching.Pool(torch.zeros(1, 8), ["a"], [""])
        assert [pool.turn(0) for _ in range(3)] == ["with", "without", ""]
        with pytest.raises(InputError, match="no example 4"):
            pool.turn(4)


def test_one_request_by_several_controllers(session, source):
    with pytest.raises(InputError, match="Nothing is requested"):
        next(comparing.compare(session.shown, source))
    rows = dict(comparing.compare(session.edit(demand(Smiling=0.0)), source))
    assert len(rows) == 3 and rows["A plain vector"].outcome.probability[0, 0] < 0.2
    where = dict(comparing.compare(session.edit(demand(where="~Smiling")), source))
    assert "cannot satisfy" in where["A plain vector"]


def test_pictures_are_inside_the_page(session, source):
    x = source.pictures[:2]
    assert all(uri.startswith("data:image/png;base64,") for uri in pictures.uris(source.decoder, x))
    assert pictures.difference(source.decoder, x[:1], x[1:]).startswith("data:image/png")

from __future__ import annotations

import base64
import io
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from support.report import Report, face_sheet, loss_curves
from torch import Tensor

from latentctl.display.picture import grid, png
from latentctl.errors import InputError, ShapeError, UnknownNameError
from latentctl.random import generator

pytest.importorskip("matplotlib")

RECIPES = str(Path(__file__).parents[2] / "recipes")
VOID = {"meta", "img", "br", "hr", "link", "input"}
LOADS = {"src", "srcset", "data", "poster", "action", "background"}
NAMES = ["Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses"]
NAMES += ["Male", "No_Beard", "Smiling", "Wearing_Hat", "Young"]
GREEN, RED = (42, 157, 111), (207, 63, 79)


class Page(HTMLParser):
    """What a browser would see: tags, texts, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.classes: dict[str, str | None] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += text
            self.classes[self.cells[-1]] = self.tags[-1][1].get("class")

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(report: Report, folder: Path) -> Page:
    return Page(report.save(folder / "report.html").read_text(encoding="utf-8"))


def faces(*shape: int) -> Tensor:
    return torch.rand(*shape, 3, 16, 16, generator=generator(0))


def pixels(data: bytes) -> np.ndarray:
    from matplotlib import image

    return np.round(image.imread(io.BytesIO(data))[..., :3] * 255).astype(int)


def count(data: bytes, colour: tuple[int, int, int]) -> int:
    return int((pixels(data) == colour).all(-1).sum())


def log(steps: int = 60) -> list[dict[str, object]]:
    return [
        {"step": s + 1, "player": "actor" if s % 3 == 2 else "critic", "loss": math.exp(-s / 9)}
        for s in range(steps)
    ]


@pytest.fixture
def report() -> Report:
    report = Report("A <run>", "on `faces` & more")
    report.section("First", "One.\n\nTwo **bold** and `code_name`, 2 * 3 * 4.")
    report.picture(png(grid(faces(4))), 'four "faces" of `z`')
    report.section("Second")
    report.picture(face_sheet(faces(2, 3)), "sheet")
    report.table(["what", "value"], [["accuracy", 0.91234]], caption="numbers")
    report.section("Third")
    report.settings({"seed": 0, "train_data_dir": None, "names": ["Bald", "Male"]})
    return report


class TestPage:
    def test_is_well_formed_and_loads_nothing(self, report, tmp_path):
        seen = page(report, tmp_path)
        assert len(seen.named("img")) == 2
        assert all(i["src"].startswith("data:image/png;base64,") for i in seen.named("img"))
        assert not {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "base"}
        for tag, attrs in seen.tags:
            loaded = [v for k, v in attrs.items() if k in LOADS]
            assert tag == "img" or loaded == []
            assert attrs.get("href", "#").startswith("#")
            assert not any(name.startswith("on") for name in attrs)
        text = (tmp_path / "report.html").read_text()
        assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", text))

    def test_every_link_leads_to_a_section(self, report, tmp_path):
        seen = page(report, tmp_path)
        ids = [attrs["id"] for attrs in seen.named("section")]
        assert [link["href"] for link in seen.named("a")] == [f"#{i}" for i in ids]
        assert len(set(ids)) == 3

    def test_paragraphs_and_inline_marks(self, report, tmp_path):
        page(report, tmp_path)
        text = (tmp_path / "report.html").read_text()
        assert "<p>One.</p>" in text
        assert "<strong>bold</strong> and <code>code_name</code>, 2 * 3 * 4.</p>" in text

    def test_markup_in_texts_is_shown_and_not_run(self, tmp_path):
        evil = "<script>alert('1')</script><img src=x onerror=y> \" & `<b>`"
        report = Report(evil, evil)
        report.section(evil, evil)
        report.picture(png(grid(faces(1))), evil)
        report.table([evil, "v"], [[evil, evil]], caption=evil, goals=[evil])
        report.settings({evil: evil})
        seen = page(report, tmp_path)
        assert "script" not in [tag for tag, _ in seen.tags]
        assert len(seen.named("img")) == 1
        assert "onerror" not in seen.named("img")[0]
        assert seen.named("img")[0]["alt"] == evil.replace("`", "")
        shown = evil.replace("`", "")
        assert seen.cells == [shown, "v", "goal", shown, shown, shown, evil, evil]

    def test_equal_input_gives_equal_bytes(self, tmp_path):
        def write(name: str) -> bytes:
            report = Report("run")
            report.picture(face_sheet(faces(2, 2), column_labels=["a", "b"]), "sheet")
            report.picture(loss_curves(log(), keys=["loss"]), "loss")
            return report.save(tmp_path / name).read_bytes()

        assert write("a.html") == write("b.html")

    def test_save_replaces_the_page_as_a_whole(self, report, tmp_path, monkeypatch):
        path = report.save(tmp_path / "new" / "report.html")
        before = path.read_bytes()
        report.section("Later")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "fsync", full)
            report.save(path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == ["report.html"]
        assert report.save(path).read_bytes() != before

    def test_drawing_leaves_matplotlib_alone_and_importing_does_not_load_it(self):
        code = (
            f"import sys; sys.path.insert(0, {RECIPES!r}); from support import report\n"
            "assert 'matplotlib' not in sys.modules\n"
            "import matplotlib; before = dict(matplotlib.rcParams)\n"
            "report.loss_curves([{'step': 1, 'loss': 1.0}])\n"
            "assert dict(matplotlib.rcParams) == before\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


class TestPicture:
    def test_embeds_the_bytes_unchanged(self, tmp_path):
        data = png(grid(faces(2)))
        (tmp_path / "two.png").write_bytes(data)
        report = Report("run")
        report.picture(tmp_path / "two.png", "a file")
        report.picture(data, "bytes", width=300)
        first, second = page(report, tmp_path).named("img")
        assert base64.b64decode(first["src"].split(",")[1]) == data
        assert first["src"] == second["src"]

    def test_is_shown_at_the_size_its_resolution_asks_for(self, tmp_path):
        report = Report("run")
        plot = loss_curves(log())
        sheet = face_sheet(faces(2, 3))
        for image in (plot, sheet, png(grid(faces(1), margin=0))):
            report.picture(image, "")
        report.picture(plot, "", width=321)
        widths = [
            int(re.fullmatch(r"--width: (\d+)px", figure["style"])[1])
            for figure in page(report, tmp_path).named("figure")
        ]
        assert widths == [round(2 * 3.3 * 96), pixels(sheet).shape[1], 16, 321]

    def test_refuses_what_is_no_png(self, tmp_path):
        report = Report("run")
        with pytest.raises(InputError, match=r"missing\.png, which does not exist"):
            report.picture(tmp_path / "missing.png", "")
        with pytest.raises(InputError, match="PNG"):
            report.picture(b"\xff\xd8\xff\xe0 a JPEG", "")
        with pytest.raises(InputError, match="truncated"):
            report.picture(png(grid(faces(1)))[:-9], "")


class TestTable:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (0.91234, "0.912"),
            (0.9, "0.900"),
            (-0.05, "-0.0500"),
            (12.345, "12.3"),
            (99.96, "100"),
            (1234.5, "1234"),
            (1.234e-7, "1.23e-07"),
            (0.0, "0"),
            (1200, "1200"),
            (None, "–"),
            (math.nan, "–"),
            (-math.inf, "-∞"),
            (True, "yes"),
            (torch.tensor(0.5), "0.500"),
            (torch.tensor(math.nan), "–"),
            (np.float32(0.25), "0.250"),
            (np.int64(7), "7"),
            ("0.93 ± 0.01", "0.93 ± 0.01"),
        ],
    )
    def test_cell(self, value, shown, tmp_path):
        report = Report("run")
        report.table(["what", "value"], [["x", value]])
        assert page(report, tmp_path).cells == ["what", "value", "x", shown]

    def test_status_has_a_colour_and_the_word(self, tmp_path):
        report = Report("run")
        rows = [["FID", 1.2, "met"], ["F1", 0.5, "missed"], ["metre", 1.0, None]]
        report.table(["what", "value", "status"], rows, goals=["≤ 1", "≥ 0.9", "none"])
        seen = page(report, tmp_path)
        assert seen.cells[:8] == ["what", "value", "goal", "status", "FID", "1.20", "≤ 1", "met"]
        assert (seen.classes["met"], seen.classes["missed"]) == ("met", "missed")
        assert seen.classes["metre"] is None

    def test_goals_stand_last_without_a_status(self, tmp_path):
        report = Report("run")
        report.table(["what", "value"], [["FID", 1.2]], goals=["≤ 1"])
        assert page(report, tmp_path).cells == ["what", "value", "goal", "FID", "1.20", "≤ 1"]

    def test_refuses_ragged_rows_and_missing_goals(self):
        report = Report("run")
        with pytest.raises(ShapeError, match="1 cells"):
            report.table(["what", "value"], [["x"]])
        with pytest.raises(ShapeError, match="1 goals for 2 rows"):
            report.table(["what"], [["x"], ["y"]], goals=["≥ 1"])

    def test_settings_are_exact(self, report, tmp_path):
        report.settings({"lr": 0.000123456})
        cells = page(report, tmp_path).cells
        assert cells[-2:] == ["lr", "0.000123456"]
        assert cells[-6:-2] == ["train_data_dir", "–", "names", "Bald, Male"]


class TestFaceSheet:
    def test_shows_every_image_where_it_belongs(self):
        colours = torch.linspace(0.1, 0.9, 6).view(2, 3, 1, 1, 1).expand(2, 3, 3, 16, 16)
        shown = pixels(face_sheet(colours, scale=2))
        assert shown.shape == (2 * 38 + 6, 3 * 38 + 6, 3)
        centers = shown[6 + 16 :: 38, 6 + 16 :: 38, 0]
        assert np.abs(centers - np.linspace(25.5, 229.5, 6).reshape(2, 3)).max() <= 1

    def test_both_shapes_are_the_same_sheet(self):
        x, labels = faces(2, 3), {"row_labels": ["a", "b"], "column_labels": ["c", "d", "e"]}
        assert face_sheet(x, **labels) == face_sheet(x.flatten(0, 1), **labels)
        assert face_sheet(x, **labels) != face_sheet(x.flip(0), **labels)

    @pytest.mark.parametrize("side", [32, 64, 128])
    def test_ten_long_names_overlap_neither_each_other_nor_the_images(self, side):
        x = torch.full((1, 10, 3, side, side), 0.8)
        data = pixels(face_sheet(x, column_labels=[*NAMES[:9], "Wearing_Lipstick"], scale=1))
        bare = pixels(face_sheet(x, scale=1))
        height = len(bare)
        assert (np.abs(data[-height:, : bare.shape[1]] - bare)[6:] == 0).all()
        ink = (data < 128).all(-1)
        assert ink[:-height].any()
        assert not ink[:, -1].any()
        assert not ink[0].any()
        if side == 128:  # upright: white between names
            dark = ink.any(0)
            step = (bare.shape[1] - 9) // 10
            assert not dark[9 - 5 :: step][:11].any()

    def test_marks_frame_the_satisfied_and_the_missed_only(self):
        x = torch.full((1, 3, 3, 16, 16), 0.5)
        marked = torch.tensor([[1.0, 0.0, math.nan]])
        assert count(face_sheet(x), GREEN) == count(face_sheet(x), RED) == 0
        data = pixels(face_sheet(x, marked=marked))
        green, red = ((data == colour).all(-1).any(0).nonzero()[0] for colour in (GREEN, RED))
        assert (green.min(), green.max()) == (4, 39)
        assert (red.min(), red.max()) == (42, 77)
        both = face_sheet(x, marked=torch.tensor([[True, False, True]]))
        assert count(both, GREEN) == 2 * count(face_sheet(x, marked=marked), GREEN)

    def test_notes_and_row_labels_make_room(self):
        x = faces(2, 2)
        bare = pixels(face_sheet(x)).shape
        noted = pixels(face_sheet(x, notes=[["0.97", "0.2"], ["", "1"]])).shape
        named = pixels(face_sheet(x, row_labels=["costs $1", "or $2"])).shape
        assert noted[0] > bare[0] and noted[1] == bare[1]
        assert named[1] > bare[1] and named[0] == bare[0]
        assert pixels(face_sheet(x, row_labels=["", ""])).shape == bare

    @pytest.mark.parametrize(
        ("shape", "more", "says"),
        [
            ((4,), {}, "0 row labels"),
            ((5,), {"row_labels": "ab", "column_labels": "cd"}, "2 row labels"),
            ((0, 2), {}, r"\(0, 2, 3, 16, 16\)"),
            ((2, 2), {"row_labels": "abc"}, "row_labels do not fit 2 rows"),
            ((2, 2), {"column_labels": "a"}, "column_labels do not fit"),
            ((2, 2), {"marked": torch.ones(4)}, "marked do not fit"),
            ((2, 2), {"notes": [["a", "b"], ["c"]]}, "notes do not fit"),
        ],
    )
    def test_refuses_wrong_shapes(self, shape, more, says):
        with pytest.raises(ShapeError, match=says):
            face_sheet(faces(*shape), **more)

    @pytest.mark.parametrize("wrong", [-1.0, 1.2, math.nan])
    def test_refuses_what_is_no_image(self, wrong):
        x = faces(2, 2)
        x[0, 1, 2, 3, 4] = wrong
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            face_sheet(x)


class TestLossCurves:
    def test_a_panel_for_each_player_and_key(self):
        lines = [{**line, "grad_norm": 1.0} for line in log()]
        alone = pixels(loss_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]))
        two, four = (
            pixels(loss_curves(lines)),
            pixels(loss_curves(lines, keys=["loss", "grad_norm"])),
        )
        assert alone.shape[1] < two.shape[1] < four.shape[1]
        assert four.shape[0] == 2 * two.shape[0]

    def test_steps_without_a_value_are_left_out(self):
        lines = log()
        holes = [*lines, {"step": 61, "player": "critic", "loss": None, "not_finite": "loss"}]
        holes += [{"step": 62, "player": "critic", "loss": math.nan}]
        assert loss_curves(holes) == loss_curves(lines)
        assert loss_curves(lines[:-6]) != loss_curves(lines)

    def test_refuses_an_empty_log_and_an_unknown_key(self):
        with pytest.raises(InputError, match="is empty"):
            loss_curves([])
        with pytest.raises(UnknownNameError, match="Did you mean 'loss'"):
            loss_curves(log(), keys=["los"])
        with pytest.raises(InputError, match="finite"):
            loss_curves([{"step": 1, "loss": None}])

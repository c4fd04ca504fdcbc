"""The studio as a visitor uses it, in headless Chromium; skipped where there is none."""

from __future__ import annotations

import base64
import shutil
import threading
import time
import zipfile

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from PIL import Image

from latentctl import Conditional

gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install latentctl[ui]")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)

from latentctl_adapters.melody_rewards import REST
from latentctl_adapters.piano_roll import piano_roll

from latentctl.studio.page import opened

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
CONTROLS = "button, input, textarea, a[href], audio, canvas"
PALE = """() => {  // texts whose contrast is below 4.5, the AA of WCAG 2.1
  const parts = (colour) => [...colour.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const over = (top, under) => [0, 1, 2].map((at) => top[at] * top[3] + under[at] * (1 - top[3]));
  const ground = (e) => {
    const c = e ? parts(getComputedStyle(e).backgroundColor) : [255, 255, 255, 1];
    return c[3] === 1 ? c : over(c, ground(e.parentElement));
  };
  const pale = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    if (!text || !e.offsetParent || getComputedStyle(e).visibility === "hidden") continue;
    const under = ground(e), here = over(parts(getComputedStyle(e).color), under);
    const [dark, bright] = [light(under), light(here)].sort((a, b) => a - b);
    if ((bright + 0.05) / (dark + 0.05) < 4.5) pale.push(text.slice(0, 40));
  }
  return pale;
}"""
WAIT = 120_000  # ms, of a machine that is shared
pytestmark = pytest.mark.filterwarnings("ignore")  # of gradio's own threads


@pytest.fixture(scope="module")
def address(source):
    with opened(source) as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A tab of the browser, and what it asked for."""

    def __init__(self, browser, address):
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(WAIT)
        self.asked, self.broken = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.broken.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#attributes .row")
        self.page.wait_for_selector("[data-of=after][src^=data]")

    @property
    def after(self):
        return self.page.locator("[data-of=after]").get_attribute("src")

    def row(self, name):
        return self.page.locator(f"#attributes .row[data-name={name}]")

    def says(self, text, place="body"):
        self.page.locator(place, has_text=text).first.wait_for()

    def drag(self, name, share):
        slider = self.row(name).locator("input")
        box = slider.bounding_box()
        mouse, y = self.page.mouse, box["y"] + box["height"] / 2
        mouse.move(box["x"] + box["width"] * (1 - share), y)
        mouse.down()
        for step in range(6):
            there = 1 - share + (2 * share - 1) * step / 5
            mouse.move(box["x"] + box["width"] * there, y)
        mouse.up()


@pytest.fixture
def visit(browser, address):
    visit = Visit(browser, address)
    yield visit
    assert not visit.broken
    assert all(url.startswith((address, "data:", "blob:")) for url in visit.asked)
    visit.page.close()


def test_a_visit(visit, browser, address, served_faces, tmp_path):
    edits(visit)
    refuses(visit, tmp_path)
    teaches(visit, served_faces, tmp_path)
    other = Visit(browser, address)  # sees nothing of the first
    assert other.page.locator("#history button").count() == 1
    assert other.page.locator("#attributes .row").count() == 3
    other.page.close()


def test_every_tab_fits_wide_and_narrow_pages(visit):
    page = visit.page
    visit.drag("Smiling", 0.02)
    visit.says("Smiling 1.00 →", "#receipt")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-button").click()
    page.wait_for_selector(".scrolls + .explain")
    for name in ("Compare", "Sample", "Teach", "Edit"):
        page.get_by_role("tab", name=name).click()
        for width in (1280, 390):
            fits(page, width)
        assert not page.evaluate(PALE), name
    page.evaluate("window.scrollTo(0, 500)")  # the pictures stay in sight above the sliders
    assert page.locator("#stage-box").bounding_box()["y"] >= 0


def test_a_strip_of_strengths_is_pressed(visit):
    visit.drag("Smiling", 0.02)
    visit.page.wait_for_function("document.querySelectorAll('#history button').length == 2")
    visit.page.get_by_role("button", name="Strip of strengths").click()
    visit.page.wait_for_function("document.querySelectorAll('#strengths button').length == 7")
    half = visit.page.locator("#strengths img").nth(2).get_attribute("src")
    visit.page.locator("#strengths button").nth(2).click()
    visit.page.wait_for_function("document.querySelectorAll('#strengths button').length == 0")
    assert visit.after == half
    assert visit.page.locator("#attributes .strength input").input_value() == "0.5"


def test_cancel_ends_a_long_job(visit, monkeypatch):
    ended = threading.Event()

    def slow(result, source):
        try:
            for number in range(120):
                time.sleep(0.5)
                yield f"method {number}", "tried"
        finally:
            ended.set()

    monkeypatch.setattr("latentctl.studio.compare_tab.compare", slow)
    visit.drag("Smiling", 0.02)
    visit.says("Smiling 1.00 →", "#receipt")
    visit.page.get_by_role("tab", name="Compare").click()
    visit.page.locator("#compare-button").click()
    visit.says("method 1", "#compared")
    visit.page.locator("#compare-cancel").click()
    assert ended.wait(WAIT / 1000)
    visit.page.get_by_role("tab", name="Edit").click()
    visit.page.get_by_role("button", name="Undo").click()
    visit.says("Nothing is changed yet", "#receipt")


def test_teaching_is_cancelled(visit, monkeypatch):
    ended = threading.Event()

    def slow(*arguments):
        try:
            for number in range(120):
                time.sleep(0.5)
                yield f"step {number}"
        finally:
            ended.set()

    monkeypatch.setattr("latentctl.studio.teaching.teach", slow)
    visit.page.get_by_role("tab", name="Teach").click()
    visit.page.locator("#teach-button").click()
    visit.says("step 1", "#teach-words")
    visit.page.locator("#teach-cancel").click()
    assert ended.wait(WAIT / 1000)
    visit.says("Teaching was cancelled", "#teach-words")
    visit.page.locator("#teach-cancel").wait_for(state="hidden")
    assert visit.page.locator("#attributes .row").count() == 3


def test_the_keyboard_reaches_every_control(visit):
    for head in visit.page.locator("button.label-wrap").all():  # what is folded
        if "open" not in (head.get_attribute("class") or ""):
            head.click()
    visit.page.evaluate(
        "document.addEventListener('focusin', (e) => { e.target.dataset.reached = 1; })"
    )
    visit.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(visit.page.locator(CONTROLS).count() + 20):
        visit.page.keyboard.press("Tab")
    missed = visit.page.evaluate(
        """(controls) => [...document.querySelectorAll(controls)]
        .filter((e) => e.offsetParent && !e.disabled && e.type !== 'file' && !e.dataset.reached
          && getComputedStyle(e).visibility !== 'hidden'
          && !e.closest('.visually-hidden, [aria-hidden=true]'))
        .map((e) => e.outerHTML.slice(0, 160))""",
        CONTROLS,
    )
    assert not missed
    assert not unnamed(visit.page)


def test_a_region_is_painted(browser, grids):
    with opened(grids) as (_, address):
        visit = Visit(browser, address)
        page = visit.page
        page.get_by_text("Change only a region").click()
        page.get_by_role("button", name="Left half").click()
        slider = visit.row("Bright").locator("input")
        slider.focus()
        page.keyboard.press("End")
        visit.says("Only 32 of 64 cells", "#receipt")
        board = page.locator("#region canvas")
        board.scroll_into_view_if_needed()
        box = board.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + 5, steps=12)
        page.mouse.up()
        visit.says("Only 36 of 64 cells", "#receipt")
        board.focus()
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        visit.says("Only 35 of 64 cells", "#receipt")
        for width in (1280, 390):
            fits(page, width)
        assert not visit.broken
        page.close()


def test_a_melody_is_edited(browser, melodies, tmp_path):
    pytest.importorskip("symusic")
    with opened(melodies) as (_, address):
        visit = Visit(browser, address)
        page = visit.page
        assert page.get_by_role("tab").first.inner_text() == "Melodies"
        tune = torch.full((1, 32), REST)
        tune[0, ::4] = torch.arange(60, 68)
        (tmp_path / "tune.mid").write_bytes(piano_roll.midi(tune))
        page.locator("input[type=file]").first.set_input_files(tmp_path / "tune.mid")
        visit.says("Before: upload, tune.mid", "#stage-box")
        visit.row("c_major").locator("input").focus()
        page.keyboard.press("End")
        visit.says("The rule C major itself: 0.62 →", "#receipt")
        page.wait_for_function("document.querySelector('[data-of=after_sound]').duration > 3")
        link = page.locator("a[download='edited.mid']").get_attribute("href")
        assert base64.b64decode(link.split(",", 1)[1]).startswith(b"MThd")
        for width in (1280, 390):
            fits(page, width)
        assert not visit.broken
        page.close()


def edits(visit):
    before = visit.after
    visit.drag("Smiling", 0.02)
    visit.says("Smiling 1.00 →", "#receipt")
    visit.page.wait_for_function("document.querySelectorAll('#history button').length == 2")
    edited = visit.after
    assert edited != before
    lock = visit.row("Male").get_by_role("switch")
    assert lock.get_attribute("aria-checked") == "true"
    visit.row("Hat").get_by_role("switch").click()
    visit.page.wait_for_function("document.querySelectorAll('#history button').length == 3")
    assert lock.get_attribute("aria-checked") == "true"
    for _ in range(2):
        visit.page.get_by_role("button", name="Undo").click()
        visit.page.wait_for_timeout(300)
    visit.says("Nothing is changed yet", "#receipt")
    assert visit.after == before
    visit.page.get_by_role("button", name="Redo").click()
    visit.says("Smiling 1.00 →", "#receipt")
    assert visit.after == edited
    # the keyboard alone does the same
    visit.row("Smiling").locator("input").focus()
    visit.page.keyboard.press("Home")
    visit.says("wanted", "#receipt")


def refuses(visit, tmp_path):
    files = {name: tmp_path / f"{name}.png" for name in ("photo", "text", "wide")}
    Image.effect_noise((40, 30), 50).convert("RGB").save(files["photo"])
    files["text"].write_text("not a picture")
    Image.new("L", (20_000, 20)).save(files["wide"])
    upload = visit.page.locator("input[type=file]").first
    upload.set_input_files(files["photo"])
    visit.says("Before: upload, photo.png", "#stage-box")
    for name, words in (("text", "is not a picture"), ("wide", "20,000 x 20 pixels")):
        upload.set_input_files(files[name])
        visit.says(words, "#problem")
    where = visit.page.locator("#where textarea, #where input").first
    where.fill("Smiling & & Male")
    where.press("Enter")
    visit.says("cannot be read at character", "#where-problem")
    where.fill("~Smiling | Male")
    where.press("Enter")
    visit.says("The whole request, with ~Smiling | Male", "#receipt")
    assert not visit.page.locator("#where-problem").inner_text().strip()


def teaches(visit, served_faces, tmp_path):
    visit.page.get_by_role("tab", name="Teach").click()
    scores = served_faces.score(faces_of(visit))[:, 2]
    has, lacks = (scores > 0.5).nonzero().flatten(), (scores <= 0.5).nonzero().flatten()
    marks = [*has[:5].tolist(), *2 * lacks[:5].tolist()]
    for place in marks:
        button = visit.page.locator("#pool button").nth(place)
        mark = button.get_attribute("data-mark")
        button.click()
        visit.page.wait_for_function(
            "([at, was]) => document.querySelectorAll('#pool button')[at].dataset.mark !== was",
            arg=[place, mark],
        )
    visit.page.locator("#taught-name textarea, #taught-name input").first.fill("Bright")
    visit.page.locator("#teach-button").click()
    visit.says("Bright was taught by 10 examples", "#teach-words")
    visit.page.locator("#save-pack").click()
    with visit.page.expect_download() as download:
        visit.page.locator("#pack-file").click()
    zipfile.ZipFile(download.value.path()).extractall(tmp_path)
    loaded = Conditional.from_pretrained(tmp_path / "studio-pack", toy_decoder(ToyVAE()))
    assert {*loaded.names} == {*served_faces.names, "Bright"}
    visit.page.get_by_role("tab", name="Edit").click()
    visit.page.wait_for_selector("#attributes .row[data-name=Bright]")
    assert torch.isfinite(loaded.sample(2, Bright=True).x).all()


def faces_of(visit):
    """The pictures to be marked, as the page shows them."""
    import io

    found = visit.page.locator("#pool img").evaluate_all("all => all.map(one => one.src)")
    raw = [base64.b64decode(src.split(",", 1)[1]) for src in found]
    return [Image.open(io.BytesIO(file)) for file in raw]


def fits(page, width):
    """Nothing is cut off, and each control has a name."""
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not unnamed(page)


def unnamed(page):
    """The controls without a name."""
    return page.evaluate(
        """(controls) => [...document.querySelectorAll(controls)]
        .filter((e) => e.offsetParent && !(e.labels && e.labels.length) && !e.innerText.trim()
          && !e.getAttribute('aria-label') && !e.title && e.type !== 'file'
          && !e.querySelector('[aria-label], [title]'))
        .map((e) => e.outerHTML.slice(0, 120))""",
        CONTROLS,
    )

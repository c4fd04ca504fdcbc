"""The studio as a visitor uses it, in headless Chromium; skipped where there is none."""

from __future__ import annotations

import shutil
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

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT = 120_000  # ms, of a machine that is shared
pytestmark = pytest.mark.filterwarnings("ignore")  # of gradio's own threads


@pytest.fixture(scope="module")
def address(source):
    from latentctl.studio.page import opened

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
    for width in (1280, 390):
        fits(other.page, width)
    other.page.close()


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
    visit.says("Bright was taught by 10 pictures", "#teach-words")
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
    import base64
    import io

    found = visit.page.locator("#pool img").evaluate_all("all => all.map(one => one.src)")
    raw = [base64.b64decode(src.split(",", 1)[1]) for src in found]
    return [Image.open(io.BytesIO(file)) for file in raw]


def fits(page, width):
    """Nothing is cut off, and each control has a name."""
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, a[href]')]
        .filter((e) => e.offsetParent && !(e.labels && e.labels.length) && !e.innerText.trim()
          && !e.getAttribute('aria-label') && !e.title && e.type !== 'file')
        .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert not unnamed

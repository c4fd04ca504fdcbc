"""The code in the pages of `docs/` runs, in order, in one namespace and an empty folder.

Of a block ```` ```python file=NAME ```` a file is made; in a block of bash the commands `latentctl`
are carried out.
"""

from __future__ import annotations

import re
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from latentctl_adapters.pixels.classifier import PixelClassifier

import latentctl
from latentctl.cli import main
from latentctl.cli.main import parser

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXTS = ["README.md", "docs/*.md", "benchmarks/*.md", "benchmarks/results/*.md"]


def make_photos(folder):
    Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder.mkdir()
    for i in range(6):
        Image.fromarray((255 * torch.rand(12, 10, 3)).byte().numpy()).save(folder / f"{i}.png")


def run_page(page):
    """Runs the blocks of a page; the number of each language."""
    text = (DOCS / page).read_text()
    names = {"__name__": "page"}
    counts = dict.fromkeys(("python", "bash"), 0)
    with torch.random.fork_rng():
        for found in BLOCK.finditer(text):
            language, file, code = found.groups()
            counts[language] = counts.get(language, 0) + 1
            line = text[: found.start(3)].count("\n")
            if language == "text":
                continue
            if file:
                Path(file).write_text(code)
            elif language == "python":
                # so that a traceback shows the line of the page
                exec(compile("\n" * line + code, str(DOCS / page), "exec"), names)
            else:
                for command in code.splitlines():
                    program, *words = shlex.split(command)
                    assert program == "latentctl" and main([*words, "--device", "cpu"]) == 0
    return counts


def test_the_code_of_the_decoder_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos")
    counts = run_page("bring-your-own-decoder.md")
    assert counts["python"] >= 10 and counts["bash"] >= 1
    assert "What works" in capsys.readouterr().out
    assert Path("report.json").exists()


def test_the_code_of_the_command_line_page_runs(tmp_path, monkeypatch, capsys, at_a_budget):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert run_page("cli.md") == {"python": 3, "bash": 5, "text": 1}
    text = capsys.readouterr().out
    assert "What works" in text and "Smiling: " in text
    for file in (
        "report.json",
        "pack",
        "samples.png",
        "either.png",
        "rule.png",
        "edited/receipts.json",
    ):
        assert Path(file).exists(), file


def test_the_code_of_the_diffusion_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    assert run_page("diffusion.md") == {"python": 9, "bash": 0}


def test_the_code_of_the_drawn_faces_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    assert run_page("drawn-faces.md") == {"python": 4, "bash": 0}
    assert Path("drawn-faces.png").exists()


def anchors(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_link_of_a_page_leads_to_a_file_and_a_heading():
    root = DOCS.parent
    pages = [page for pattern in TEXTS for page in root.glob(pattern)]
    assert len(pages) > 10
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_every_script_of_a_command_exists():
    root = DOCS.parent
    for page in (page for pattern in TEXTS for page in root.glob(pattern)):
        text = page.read_text()
        modules = re.findall(r"python -m (benchmarks[.\w]+)", text)
        scripts = [f"{name.replace('.', '/')}.py" for name in modules]
        scripts += re.findall(r"\b(?:recipes|benchmarks)/[\w/]+\.py\b", text)
        for script in scripts:
            assert (root / script).exists(), f"{page.name}: {script}"


def test_every_public_name_has_a_line_in_the_docs():
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(name for name in latentctl.__all__ if name != "__version__")


def test_pages_keep_their_length():
    root = DOCS.parent
    limits = {"README.md": 150, "docs/glossary.md": 40, "benchmarks/RESULTS.md": 120}
    limits |= {str(p.relative_to(root)): 150 for p in root.glob("benchmarks/results/*.md")}
    for page, limit in limits.items():
        assert len((root / page).read_text().splitlines()) <= limit, page


@pytest.fixture
def at_a_budget(monkeypatch):
    """The same calls with small networks and few steps."""
    module = sys.modules["latentctl.training.train"]
    whole = module.fit
    limits = {"max_train_steps": 3, "batch_size": 16}

    def fit(player, data, **options):
        return whole(player, data, **{**options, **limits})

    monkeypatch.setattr(module, "fit", fit)
    small, few = {"width": 16, "depth": 2}, {"samples": 40, "samples_per_round": 20}
    for name in ("AttributeCritic", "FlowMatching"):
        shrink(monkeypatch, getattr(latentctl, name), "fit", small)
    shrink(monkeypatch, latentctl.Actor, "fit", {"demonstration_steps": 3, **small})
    shrink(monkeypatch, latentctl.Updater, "fit", {"requests": 40, **small})
    shrink(monkeypatch, latentctl.LatentFlow, "fit", {"width": 16})
    shrink(monkeypatch, PixelClassifier, "fit", {"max_train_seconds": 0.2})
    init = ProceduralFaces.__init__
    few_faces = lambda self, n, **options: init(self, min(n, 140), **options)  # noqa: E731
    monkeypatch.setattr(ProceduralFaces, "__init__", few_faces)
    shrink(monkeypatch, latentctl, "distill", {**small, **few})
    shrink(monkeypatch, latentctl, "teach", {**small, **few, "passes": 1, "teachers": 1})
    shrink(monkeypatch, latentctl.controllers, "amortise", small)
    shrink(monkeypatch, latentctl.controllers.cgml, "completer", {"features": 16, **small})


def shrink(monkeypatch, owner, name, options):
    monkeypatch.setattr(owner, name, partial(getattr(owner, name), **options))


def test_the_python_of_the_readme_and_of_the_guide_runs(tmp_path, monkeypatch, at_a_budget):
    """As pasted, in order, in one namespace that holds nothing before."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with torch.random.fork_rng():
        for page in (DOCS.parent / "README.md", DOCS / "guide.md"):
            text = page.read_text()
            # fences of another first line, such as ```python hub, need what is not here
            blocks = [f for f in BLOCK.finditer(text) if f.group(1) == "python"]
            assert len(blocks) >= 2
            for found in blocks:
                line = text[: found.start(3)].count("\n")
                exec(compile("\n" * line + found.group(3), page.name, "exec"), names)
    assert Path("samples.png").exists() and Path("smiling-faces").is_dir()
    assert names["out"].x.shape == (8, 4, 3, 64, 64)


def commands():
    """The commands of all pages: `(page, words)`, with continued lines joined."""
    root = DOCS.parent
    for page in sorted(page for pattern in TEXTS for page in root.glob(pattern)):
        for block in re.findall(r"^```bash[^\n]*\n(.*?)^```$", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for command in line.split("#")[0].split("&&"):
                    if words := shlex.split(command):
                        yield page, words


def test_the_commands_of_the_pages_have_flags_that_exist():
    root, counts = DOCS.parent, {"latentctl": 0, "recipes": 0}
    sources = [file.read_text() for file in (root / "recipes").rglob("*.py")]
    fields = {name for text in sources for name in re.findall(r"^    (\w+): ", text, re.M)}
    for page, words in commands():
        place = f"{page.name}: {' '.join(words)}"
        if words[0] == "latentctl":
            counts["latentctl"] += 1
            parser().parse_args(words[1:])
            continue
        script = next((w for w in words if w.endswith(".py") and "/" in w and ":" not in w), None)
        if script is None or not script.startswith("recipes/"):
            continue
        counts["recipes"] += 1
        flags = [word[2:] for word in words[words.index(script) :] if word.startswith("--")]
        assert (root / script).exists() and set(flags) <= fields, place
    print(counts)
    assert min(counts.values()) > 0

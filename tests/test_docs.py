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

import latentctl
from latentctl import Latents
from latentctl.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["bring-your-own-decoder.md"]
TEXTS = ["README.md", "docs/*.md", "benchmarks/*.md", "benchmarks/results/*.md"]


def make_photos(folder):
    Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder.mkdir()
    for i in range(6):
        Image.fromarray((255 * torch.rand(12, 10, 3)).byte().numpy()).save(folder / f"{i}.png")


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos")
    text = (DOCS / page).read_text()
    names = {"__name__": "page"}
    counts = dict.fromkeys(("python", "bash"), 0)
    with torch.random.fork_rng():
        for found in BLOCK.finditer(text):
            language, file, code = found.groups()
            counts[language] += 1
            line = text[: found.start(3)].count("\n")
            if file:
                Path(file).write_text(code)
            elif language == "python":
                # so that a traceback shows the line of the page
                exec(compile("\n" * line + code, str(DOCS / page), "exec"), names)
            else:
                for command in code.splitlines():
                    program, *words = shlex.split(command)
                    assert program == "latentctl" and main([*words, "--device", "cpu"]) == 0
    assert counts["python"] >= 10 and counts["bash"] >= 1
    assert "What works" in capsys.readouterr().out
    assert Path("report.json").exists()


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


class TinyVAE(torch.nn.Module):
    """A VAE of pictures of 16 pixels with a latent of 8 numbers."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 16))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(8, 48), torch.nn.Unflatten(1, (3, 4, 4)))

    def encode(self, x):
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, z):
        return self.decoder(z).sigmoid()


class Pixels(torch.nn.Module):
    """A classifier of attributes by brightness."""

    names = ("Smiling", "Eyeglasses", "Male")

    def forward(self, x):
        return 8 * (x.flatten(1)[:, :3] - 0.5)


@pytest.fixture
def at_a_budget(monkeypatch):
    """The same calls with small networks and few steps."""
    module = sys.modules["latentctl.training.train"]
    whole = module.fit
    limits = {"max_train_steps": 3, "batch_size": 16}

    def fit(player, data, **options):
        return whole(player, data, **{**options, **limits})

    monkeypatch.setattr(module, "fit", fit)
    small, few = {"width": 16, "depth": 2}, {"samples": 100, "samples_per_round": 50}
    for name in ("AttributeCritic", "FlowMatching"):
        shrink(monkeypatch, getattr(latentctl, name), "fit", small)
    shrink(monkeypatch, latentctl.Actor, "fit", {"demonstration_steps": 3, **small})
    shrink(monkeypatch, latentctl.Updater, "fit", {"requests": 40, **small})
    shrink(monkeypatch, latentctl.LatentFlow, "fit", {"width": 16})
    shrink(monkeypatch, latentctl, "teach", {**small, **few})
    shrink(monkeypatch, latentctl.controllers, "amortise", small)
    shrink(monkeypatch, latentctl.controllers.cgml, "completer", {"features": 16, **small})


def shrink(monkeypatch, owner, name, options):
    monkeypatch.setattr(owner, name, partial(getattr(owner, name), **options))


def test_the_python_of_the_readme_and_of_the_guide_runs(tmp_path, monkeypatch, at_a_budget):
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(80, 3, 4, 4, generator=draw)
    labels = (images.flatten(1)[:, :3] > 0.5).float()
    rows = [
        {"image": x, **dict(zip(Pixels.names, row, strict=True))}
        for x, row in zip(images, labels.tolist(), strict=True)
    ]
    names = {
        "torch": torch,
        "my_vae": TinyVAE(),
        "my_faces": rows,
        "images": images,
        "photos": images[:4],
        "latents_with_bangs": Latents(images.flatten(1)[:, :8], None, labels[:, :1], ["Bangs"]),
        "classifier": Pixels(),
        "another": Pixels(),
        "reconstructions": images,
        "labels": labels,
        "with_hat": images[:5],
        "without": images[5:10],
        "mask": (torch.arange(4) < 2).view(4, 1).expand(4, 4),
        "height": 4,
        "width": 4,
        "z": torch.randn(6, 8, generator=draw),
    }
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
    assert names["out"].x.shape == (4, 4, 3, 4, 4)

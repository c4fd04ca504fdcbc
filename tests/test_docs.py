"""The code in the pages of `docs/` runs, in order, in one namespace and an empty folder.

Of a block ```` ```python file=NAME ```` a file is made; in a block of bash the commands `latentctl`
are carried out.
"""

from __future__ import annotations

import re
import shlex
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


def test_every_link_of_a_page_leads_to_a_file():
    root = DOCS.parent
    pages = [page for pattern in TEXTS for page in root.glob(pattern)]
    assert len(pages) > 10
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith(("http", "#")):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


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
    """A classifier of three attributes by brightness, for the README."""

    names = ("Smiling", "Eyeglasses", "Male")

    def forward(self, x):
        return 8 * (x.flatten(1)[:, :3] - 0.5)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"width": 16, "max_train_steps": 5, "batch_size": 32}  # the same calls, at a budget
    fit, distil = latentctl.AttributeCritic.fit, latentctl.teach
    monkeypatch.setattr(latentctl.AttributeCritic, "fit", partial(fit, **few))
    smaller = {"samples": 100, "samples_per_round": 50}
    monkeypatch.setattr(latentctl, "teach", partial(distil, **few, **smaller))
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(80, 3, 4, 4, generator=draw)
    labels = (images.flatten(1)[:, :3] > 0.5).float()
    rows = [
        {"image": x, **dict(zip(Pixels.names, row, strict=True))}
        for x, row in zip(images, labels.tolist(), strict=True)
    ]
    latents = Latents(images.flatten(1)[:, :8], None, labels[:, :1], ["Bangs"])
    names = {
        "my_vae": TinyVAE(),
        "my_faces": rows,
        "photos": images[:4],
        "latents_with_bangs": latents,
        "classifier": Pixels(),
        "another": Pixels(),
        "reconstructions": images,
        "labels": labels,
    }
    text = (DOCS.parent / "README.md").read_text()
    blocks = [(f.start(3), f.group(3)) for f in BLOCK.finditer(text) if f.group(1) == "python"]
    assert len(blocks) == 2
    with torch.random.fork_rng():
        for start, code in blocks:
            line = text[:start].count("\n")
            exec(compile("\n" * line + code, "README.md", "exec"), names)
    assert Path("samples.png").exists() and Path("smiling-faces").is_dir()
    assert names["out"].x.shape == (4, 3, 4, 4)

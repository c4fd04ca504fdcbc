"""The recipes of pipelines: a small one is trained, and steered by a network, a rule and edits."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import run
from PIL import Image

import latentctl

pytest.importorskip("diffusers")
pytest.importorskip("datasets")

SCORER = """
import torch


class Bright(torch.nn.Module):
    names = ("Bright", "Tall")

    def forward(self, x):
        return 40 * torch.stack([x.mean((1, 2, 3)) - 0.5, x[..., 0].mean((1, 2)) - 0.5], 1)


def network():
    return Bright()


def ink(x):
    return (x.mean((1, 2, 3)) > 0.5).float()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grey pictures of 8 pixels, in a folder that `datasets` reads, and a network in a file."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 24), ("test", 4)):
        (root / "data" / split).mkdir(parents=True)
        for number in range(count):
            picture = torch.full((8, 8), 10.0 * number % 250).byte().numpy()
            Image.fromarray(picture).save(root / "data" / split / f"{number}.png")
    (root / "scorer.py").write_text(SCORER)
    return root


@pytest.fixture(scope="module")
def pipeline(folder):
    words = "--channels 8 --diffusion_train_steps 3 --diffusion_batch_size 4 --output_dir out"
    done = run("pretrain_diffusion.py", ["--train_data_dir", folder / "data"], words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out" / "pipeline"


def test_a_pipeline_is_trained_and_loaded(pipeline):
    where = {"pretrained_model_name_or_path": pipeline}
    decoder = latentctl.load("diffusers-pipeline", **where, steps=2)
    assert decoder.sample_shape == (1, 8, 8)
    assert (pipeline.parent / "samples.png").is_file()


@pytest.mark.parametrize("kind", ["--scorer scorer.py:network", "--rule scorer.py:ink"])
def test_it_is_steered_with_a_report(pipeline, folder, kind):
    out = folder / kind.rpartition(":")[2]
    flags = ["--pretrained_model_name_or_path", pipeline, "--output_dir", out]
    words = "--steps 1 --count 2 --candidates 4 --num_images 2"
    images = ["--images", folder / "data" / "test"] if "scorer " in kind else []
    done = run("steer_pipeline.py", kind, flags, words, images, cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "results.json").read_text())
    assert rows[0]["request"] == "samples of the pipeline" and rows[0]["typical"] > 0.6
    assert len(rows) == (5 if images else 2)
    assert (out / "report.html").is_file() and any((out / "samples").glob("*.png.json"))


def test_contradicting_flags_are_refused(pipeline, folder):
    flags = ["--pretrained_model_name_or_path", pipeline]
    both = "--scorer scorer.py:network --rule scorer.py:ink"
    done = run("steer_pipeline.py", flags, both, cwd=folder)
    assert done.returncode != 0 and "Name one of --networks, --scorer and --rule" in done.stderr
    done = run("steer_pipeline.py", "--rule scorer.py:ink", cwd=folder)
    assert done.returncode != 0 and "Name one of --pretrained_model" in done.stderr

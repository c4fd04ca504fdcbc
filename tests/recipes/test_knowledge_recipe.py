"""The recipe of knowledge on pixels, run as a user runs it, on drawn images in local folders."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import done, refused, run
from latentctl_adapters.flow_decoder import PixelFlow
from test_recipes import is_page

from latentctl import KnowledgeBase
from latentctl.random import generator

Image = pytest.importorskip("PIL.Image")
datasets = pytest.importorskip("datasets")

TINY = "--resolution 12 --padded 16 --patch 16 --prior_width 16 --prior_blocks 1"
TINY += " --prior_train_steps 40 --prior_batch_size 64 --knowledge_train_steps 50 --hidden 8"
TINY += " --knowledge_width 16 --knowledge_blocks 1 --critic_width 32 --critic_train_steps 60"
TINY += " --train_batch_size 64"
PICTURES = ("prior", "mnist", "omniglot", "digits", "two", "absence", "walk_3")


def digits(count, seed):
    """Bright bars of twelve pixels: the row is the class, the column that is marked is chance."""
    draw = generator(seed, purpose="digits")
    labels = torch.arange(count) % 10
    x = torch.zeros(count, 12, 12, dtype=torch.uint8)
    rows = torch.arange(count)
    x[rows, 1 + labels] = 250
    x[rows, :, torch.randint(12, (count,), generator=draw)] = 120
    return x, labels


def letters(count, seed):
    """Dark diagonals on white, which the recipe has to invert."""
    shift = torch.randint(-4, 5, (count,), generator=generator(seed, purpose="letters"))
    rows = torch.stack([torch.diag(torch.ones(12 - abs(k)), k) for k in shift.tolist()])
    return (255 * (1 - rows)).to(torch.uint8), torch.zeros(count).long()


def write(folder, draw, sizes=(500, 120)):
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for seed, (split, count) in enumerate(zip(("train", "test"), sizes, strict=True)):
        x, labels = draw(count, seed)
        rows = {"image": [Image.fromarray(image.numpy()) for image in x], "label": labels.tolist()}
        split_set = datasets.Dataset.from_dict(rows, features=columns)
        folder.mkdir(parents=True, exist_ok=True)
        split_set.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knowledge")
    sources = ["--mnist", write(folder / "m", digits), "--omniglot", write(folder / "o", letters)]
    log = done(run("knowledge.py", TINY, sources, cwd=folder))
    return folder / "outputs" / "knowledge", log


def test_everything_is_left_behind(ran):
    folder, log = ran
    assert is_page(folder / "report.html")
    assert all((folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in PICTURES)
    assert json.loads((folder / "config.json").read_text())["knowledge"]["code_size"] == 2
    assert "omniglot is dark on bright: it is inverted" in log
    assert "mnist is dark" not in log


def test_the_figures_are_of_a_model_that_learned(ran):
    results = json.loads((ran[0] / "results.json").read_text())
    bits = results["bits_per_dimension"]
    assert bits["data_set_omniglot"] < bits["prior_omniglot"] < bits["pixel_histogram_omniglot"] + 1
    assert bits["digit_mnist"] < bits["prior_mnist"]
    assert min(results["accuracy"][name] for name in ("mnist", "omniglot")) > 0.7
    assert results["accuracy_of_ten_digits"] > 0.3
    assert results["test_images"] == {"mnist": 120, "omniglot": 120}


def test_older_outputs_are_the_same_bits(ran):
    results = json.loads((ran[0] / "results.json").read_text())
    assert results["older_outputs_bit_identical"] == {"digit_9": True, "omniglot": True}


def test_what_it_saved_answers_as_it_did(ran):
    model = PixelFlow.from_pretrained(ran[0] / "prior")
    base = KnowledgeBase.load(ran[0] / "knowledge", prior=model.flow)
    assert base.names == ("mnist", *(f"digit_{d}" for d in range(10)), "omniglot")
    x, _ = digits(120, 1)
    x = torch.nn.functional.pad(x[:, None].float() / 255, (2, 2, 2, 2))
    right = (base["mnist"](model.dequantise(x)) > 0).float().mean()
    assert right > 0.7


def test_a_missing_source_is_named(tmp_path):
    refused(run("knowledge.py", cwd=tmp_path), "No mnist is named", "--mnist")

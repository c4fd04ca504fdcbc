"""The recipe of cGML's experiments, on the toy and on drawn digits."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import done, run
from test_recipes import PNG

from latentctl.errors import InputError, UnknownNameError
from latentctl.random import generator

tyro = pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

import cgml_modes
import support.cgml.flags as cgml_flags
import support.cgml.images as cgml_images
import support.cgml.networks as cgml_networks

TINY = "--max_train_steps 4 --baseline_train_steps 12 --max_train_samples 200"
TINY += " --test_inputs 40 --answers 4 --starts 4 --width 8 --train_batch_size 16"


class Answers:
    """Stands in for a model of the toy: its answers are multiples of one mode."""

    def __init__(self, *factors):
        self.factors = torch.tensor(factors)

    def predict(self, x, count, seed):
        factors = self.factors.repeat(count // len(self.factors))
        return cgml_modes.curve(x)[:, None] * factors[:, None]


def toy(*factors):
    return cgml_modes.measure_toy(Answers(*factors), 200, 8, seed=0)["all"]


def test_the_measure_of_the_toy_tells_modes_from_spurious_answers():
    assert toy(1.0, -1.0) == {"near": 1.0, "both": 1.0, "spurious": 0.0, "positive": 0.5}
    assert toy(1.05, -1.15) == {"near": 0.5, "both": 0.0, "spurious": 0.0, "positive": 0.5}
    assert toy(1.0) == {"near": 1.0, "both": 0.0, "spurious": 0.0, "positive": 1.0}
    # the mean of both modes, which a regressor would give
    assert toy(0.0)["spurious"] == 1.0
    assert toy(0.0)["near"] == 0.0


def test_the_toy_tells_the_modes_apart_after_a_few_steps():
    flags = cgml_flags.ModelFlags(max_train_steps=300, width=48)
    flags.train_batch_size, flags.learning_rate = 48, 4e-3
    model = cgml_modes.train_toy(flags, seed=0)
    x = torch.tensor([[0.6], [0.9], [-0.8]])
    answers, mode = model.predict(x, 32), cgml_modes.curve(x)[:, None]
    apart = 2 * mode.norm(dim=2)
    # the mean of both is 0.5 from each
    assert ((answers - mode).norm(dim=2) / apart).amin(1).max() < 0.35
    assert ((answers + mode).norm(dim=2) / apart).amin(1).max() < 0.35


@pytest.mark.parametrize("task", cgml_flags.IMAGE_TASKS)
def test_the_answers_of_a_task_are_all_true(task):
    faces = task.startswith("faces")
    digits = (cgml_images.drawn_faces if faces else cgml_images.drawn_digits)(400, seed=0)
    pairs = cgml_images.pairs(task, digits, seed=0)
    whole = digits.pixels()
    if task == "faces-colour":
        assert torch.equal(pairs.modes[:, 0], whole)
        assert torch.equal(pairs.x, whole.mean(1, keepdim=True))
        return
    share = pairs.target.float().mean()
    if task == "colour":
        assert torch.equal(pairs.modes.amax(2)[:, 0], whole[:, 0])
        assert torch.equal(pairs.modes.amax(2)[:, 1], whole[:, 0])
        assert abs(share - 0.5) < 0.1
        return
    half = whole.shape[2] // 2
    hidden = whole[:, :, half:]
    assert torch.equal(pairs.x[:, :, :half], whole[:, :, :half])
    assert not pairs.x[:, :, half:].any()
    assert torch.equal(pairs.modes[:, 0], hidden)
    if task == "mnist-bar":
        changed = (pairs.modes[:, 1] != hidden).any(3).any(1)
        assert changed[:, cgml_images.BAR].all()
        assert changed.sum() == 400 * 3
        assert abs(share - 0.3) < 0.1
        assert torch.equal(pairs.y[pairs.target == 1], pairs.modes[pairs.target == 1, 1])


def test_the_measure_of_images_tells_modes_from_spurious_answers():
    modes = cgml_images.pairs("mnist-bar", cgml_images.drawn_digits(20, seed=0), seed=0).modes
    right = cgml_images.measure(modes, modes)
    assert right["error"] == right["spurious"] == 0.0
    assert right["second"] == 0.5
    assert right["both"] == 1.0
    half = cgml_images.measure(modes.mean(1, keepdim=True), modes)
    assert half["spurious"] == 1.0
    assert half["both"] == 0.0
    assert half["error"] > 0.05


@pytest.mark.parametrize("kind", cgml_networks.BASELINES)
def test_a_baseline_uses_what_it_should(kind):
    pairs = cgml_images.pairs("mnist-bar", cgml_images.drawn_digits(64, seed=0), seed=0)
    model = cgml_networks.Baseline(kind, pairs.x[:1], pairs.y[:1], latent_size=4, width=8)
    answers = model.predict(pairs.x[:6], 4, seed=0)
    assert answers.shape == (6, 4, 1, 14, 28)
    spread = answers.std(1).mean()
    assert (spread > 0) == (kind != "regressor")
    if kind == "oracle":
        assert torch.equal(answers[:, 0], answers[:, 2])
        assert not torch.equal(answers[:, 0], answers[:, 1])


def test_the_generator_uses_the_skips_and_the_latent():
    draw = generator(0, purpose="x")
    encoder = cgml_networks.Encoder(1, 8)
    h = encoder(torch.rand(3, 1, 28, 28, generator=draw))
    maker = cgml_networks.Generator(4, 1, 8)
    z = torch.randn(3, 4, generator=draw)
    y = maker(h, z)
    for other in (maker((h[0], 0 * h[1], h[2]), z), maker((h[0], h[1], 0 * h[2]), z), maker(h, -z)):
        assert (y - other).abs().mean() > 1e-4


def test_the_recipe_on_drawn_digits(tmp_path):
    log = done(run("cgml_modes.py", TINY, "--task mnist-bar", cwd=tmp_path))
    folder = tmp_path / "outputs" / "cgml"
    results = json.loads((folder / "results.json").read_text())
    assert "digits of seven segments are drawn" in log
    assert (folder / "answers.png").read_bytes().startswith(PNG)
    assert json.loads((folder / "config.json").read_text())["task"] == "mnist-bar"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 1 and "<td>regressor</td>" in page
    for kind in ("cgml", *cgml_networks.BASELINES):
        assert 0 < results[kind]["best"] < results[kind]["error"] + 1e-4 < 0.6
    assert results["oracle"]["diversity"] > results["regressor"]["diversity"] == 0


def tiny(task, folder, *more):
    words = [*TINY.split(), "--task", task, "--output_dir", str(folder), *more]
    return tyro.cli(
        cgml_flags.Flags, args=words, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True
    )


@pytest.mark.parametrize("task", ["colour", "mnist-masked", "faces-masked", "faces-colour"])
def test_the_other_tasks_have_their_own_answers(task, tmp_path):
    results = cgml_modes.main(tiny(task, tmp_path))
    assert ("oracle" in results) == ("second" in results["cgml"]) == (task == "colour")
    assert (tmp_path / "answers.png").read_bytes().startswith(PNG)


def test_the_landscape_of_the_toy_is_drawn(tmp_path):
    cgml_modes.main(tiny("toy", tmp_path, "--latent_size", "1"))
    assert (tmp_path / "landscape.png").read_bytes().startswith(PNG)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 1 and "above the cut" in page


def test_colours_need_classes():
    with pytest.raises(InputError, match="--label_column"):
        cgml_images.pairs("colour", cgml_images.drawn_faces(4, seed=0), seed=0)


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match=r"mnist-bars.*mnist-bar"):
        cgml_modes.main(tiny("mnist-bars", tmp_path))

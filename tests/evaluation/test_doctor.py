"""The doctor: laws one by one, measures whose truth is known, advice, and the command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import latentctl
from latentctl.cli import main
from latentctl.critics import PixelCritic
from latentctl.decoder import Decoder, Gaussian, Posterior
from latentctl.errors import InputError, ShapeError
from latentctl.evaluation.doctor import examine
from latentctl.evaluation.latent_statistics import latent_statistics, prior_advice, reconstruction
from latentctl.evaluation.speed import measure_speed
from latentctl.latents import Latents
from latentctl.priors import LatentFlow
from latentctl.random import noise

MODEL = '''
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 48), nn.Sigmoid(), nn.Unflatten(1, (3, 4, 4)))


class Counting(Plain):
    """Counts its calls in a buffer, so that it does not stay as it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def decode(self, z):
        self.calls += 1
        return self.decoder(z)


def plain():
    return Plain()


def counting():
    return Counting()


def unet():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3))
'''


class Identity(nn.Module):
    """A decoder whose latents are its samples."""

    def encode(self, x):
        return x

    def decode(self, z):
        return z * 1.0


def identity(size=8, prior=None):
    return latentctl.wrap(Identity(), latent_shape=(size,), prior=prior)


def ability(report, words):
    (found,) = [a for a in report.abilities if words in a.what]
    return found


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def normal(count=2000, size=8):
    return noise(0, count, (size,), seed=3)


def correlated():
    z = normal()
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    z[:, 3] = 0.8 * z[:, 2] + 0.6 * z[:, 3]
    return z


CASES = {
    "as it should be": (normal(), "keep"),
    "a little narrow": (0.9 * normal(), "keep"),
    "shifted": (normal() + 0.7, "gaussian"),
    "scaled": (5 * normal(), "gaussian"),
    "half unused": (normal() * torch.tensor([1.0] * 4 + [0.05] * 4), "gaussian"),
    "two modes": (normal() * 0.3 + normal().sign(), "flow"),
    "heavy tails": (normal() * (1 + 3 * (normal(size=1) > 1.2)), "flow"),
    "correlated": (correlated(), "flow"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_prior_that_is_advised(name):
    z, advice = CASES[name]
    assert prior_advice(latent_statistics(identity(), z, 500)) == advice


@pytest.mark.parametrize("count", [64, 256])
def test_few_samples_of_the_prior_are_not_taken_for_another_distribution(count):
    decoder = identity(64)
    statistics = latent_statistics(decoder, decoder.prior.sample(count, seed=5))
    assert prior_advice(statistics) == "keep"


def test_what_is_advised_puts_the_prior_right():
    z = 5 * normal() + 2
    other = identity(prior=Gaussian.fit(Latents(z)))
    assert prior_advice(latent_statistics(other, z, 500)) == "keep"
    z = CASES["correlated"][0]
    flow = LatentFlow.fit(Latents(z), width=16, max_train_steps=60)
    through = identity().through(flow)
    assert prior_advice(latent_statistics(through, z, 500)) == "keep"


def test_the_statistics_are_those_of_samples_of_the_posterior():
    decoder = Decoder(
        Identity(),
        lambda m, z: z,
        lambda m, x: Posterior(x * 0, torch.full_like(x, 2.0)),
        latent_shape=(8,),
        sample_shape=(8,),
        value_range=None,
    )
    found = latent_statistics(decoder, normal(), 500)
    assert found["std_median"] == pytest.approx(2, rel=0.05) and found["mean"] < 0.1
    assert found["divergence"] == pytest.approx(0.5 * (4 - 1 - math.log(4)), rel=0.05)


def test_reconstruction_is_measured_against_the_samples_own_variance():
    class Half(Identity):
        def decode(self, z):
            return z * torch.tensor([1.0] * 4 + [0.0] * 4)

    found = reconstruction(latentctl.wrap(Half(), latent_shape=(8,)), normal())
    assert found["explained"] == pytest.approx(0.5, abs=0.05)
    assert found["error"] == pytest.approx(0.5**0.5, abs=0.05)
    assert reconstruction(identity(), normal()) == {"error": 0.0, "explained": 1.0}


def test_memory_counts_what_the_gradient_keeps_and_not_the_weights():
    decoder = latentctl.wrap(nn.Sequential(nn.Linear(4, 2048), nn.Tanh()))
    found = measure_speed(decoder, batch_size=4, seconds=0.01)
    assert found["weights_mib"] == pytest.approx(5 * 2048 * 4 / 2**20)
    assert found["backward_mib_per_sample"] == pytest.approx(2048 * 4 / 2**20, rel=0.01)
    assert found["decode_per_second"] > 0 and "encode_per_second" not in found


def test_a_good_decoder(decoder):
    x = decoder.decode(noise(0, 200, (8,), seed=1))
    report = examine(decoder, x)
    assert report.lawful and all(a.works for a in report.abilities)
    assert report.reconstruction["explained"] > 0.999
    assert report.data == "200 samples of data" and "decoder's own" not in report.advice
    text = str(report)
    for words in ("toy", "holds: changes none of its tensors", "explained: 1", "yes: Packs"):
        assert words in text
    assert "BROKEN" not in text and "NO:" not in text


@pytest.mark.parametrize("scale, real", [(1.0, True), (0.2, False), (6.0, False)])
def test_sampling_works_where_samples_look_like_data(scale, real):
    decoder = identity(prior=Gaussian((8,), 0.0, scale))
    report = examine(decoder, normal(300))
    assert ability(report, "Sample").works is real
    assert set(report.samples) == {
        f"{what}_{kind}" for what in ("sample", "data") for kind in ("precision", "recall")
    }
    few = examine(decoder, normal(90))
    assert ability(few, "Sample").works is None and not few.samples


def test_attributes_without_a_direction_are_named():
    scorer = PixelCritic(
        identity(),
        lambda x: 99 * torch.stack([x[:, 0], x[:, 0] * x[:, 1]], 1),
        names=["Up", "Even"],
    )
    report = examine(scorer.decoder, scorer=scorer)
    assert report.probe["Up"] > 0.9 and abs(report.probe["Even"] - 0.5) < 0.1
    words = ability(report, "Critics, controllers and flows over latents").sentence
    assert "Even: no direction" in words and "Up" not in words
    assert "  Even: 0." in str(report)


def test_every_figure_has_a_unit_or_a_sentence(decoder):
    report = examine(decoder, decoder.decode(noise(0, 120, (8,), seed=1)))
    lines = str(report).splitlines()
    for numbers in (report.reconstruction, report.latents, report.samples, report.speed):
        for key, value in numbers.items():
            (line,) = [line for line in lines if line.startswith(f"  {key}: {value:.4g}")]
            assert line.endswith(".") and len(line.split()) > 5, line
    assert any("MiB" in line for line in lines) and any("samples/s" in line for line in lines)
    assert json.loads(report.to_json())["samples"] == report.samples


def test_without_data_it_says_what_it_was_measured_on(decoder):
    report = examine(decoder)
    assert "decoded samples of the prior" in report.data and "give data" in report.advice


def test_without_an_encoder_inversion_is_advised():
    report = examine(latentctl.wrap(nn.Linear(4, 12)))
    edit = ability(report, "Edit")
    assert not edit.works and "latentctl.with_inversion(decoder)" in edit.sentence
    assert not report.reconstruction and not report.latents
    assert ability(report, "Sample").works is None and ability(report, "ascent").works
    assert "not tested: Sample." in str(report) and "--data" in str(report)


def test_a_decoder_that_forgets_is_no_editor():
    class Forgets(Identity):
        def encode(self, x):
            return x.flip(1)

    edit = ability(examine(latentctl.wrap(Forgets(), latent_shape=(8,)), normal(200)), "Edit")
    assert not edit.works and "another sample" in edit.sentence


def test_what_has_no_gradient_or_an_unusual_latent_is_said():
    report = examine(latentctl.wrap(lambda z: (z > 0).float(), latent_shape=(1, 1, 2, 2, 6)))
    assert report.lawful
    assert not ability(report, "ascent").works
    critics = ability(report, "Critics, controllers")
    assert not critics.works and "reshape it in `encode`" in critics.sentence
    packs = ability(report, "Packs")
    assert not packs.works and "No weights" in packs.sentence


class Broken(nn.Module):
    """Breaks the law that it is told to."""

    def __init__(self, law):
        super().__init__()
        self.law, self.net = law, nn.Linear(4, 6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        x = self.net(z)
        if self.law == "gradient":
            return x.detach() + 0.5 * (x - x.detach())
        if self.law == "tensors":
            self.calls += 1
        if self.law == "one sample":
            x = x + torch.rand(())
        if self.law == "shape":
            x = x[:, :5]
        if self.law == "raises":
            raise RuntimeError("out of order")
        return x


@pytest.mark.parametrize(
    ("law", "name", "cannot"),
    [
        ("gradient", "has the gradient it states", "ascent"),
        ("tensors", "changes none of its tensors", "Packs"),
        ("one sample", "decodes a latent to one sample", "Sample"),
        ("shape", "decodes to the shape it states", "Sample"),
        ("raises", "decodes to the shape it states", "Sample"),
    ],
)
def test_a_broken_law_is_named_and_its_consequence_too(law, name, cannot):
    decoder = Decoder(
        Broken(law), lambda m, z: m(z), latent_shape=(4,), sample_shape=(6,), value_range=None
    )
    report = examine(decoder)
    broken = {law.name: law.sentence for law in report.laws if not law.holds}
    assert not report.lawful and name in broken and broken[name]
    assert f"BROKEN: {name}" in str(report)
    assert not ability(report, cannot).works
    if law in ("gradient", "tensors"):
        assert list(broken) == [name], "the other laws hold"
    json.loads(report.to_json())


def test_data_that_do_not_fit_are_refused(decoder):
    with pytest.raises(ShapeError):
        examine(decoder, torch.zeros(4, 3, 5, 4))
    with pytest.raises(InputError, match="two samples"):
        examine(decoder, torch.zeros(1, 3, 4, 4))


def test_the_command_prints_and_writes_the_same(model_file, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main(["doctor", f"{model_file}:plain", "--device", "cpu", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["lawful"] and report["decoder"]["latent_shape"] == [8]
    text = capsys.readouterr().out
    for law in report["laws"]:
        assert law["holds"] and f"holds: {law['name']}" in text
    assert f"explained: {report['reconstruction']['explained']:.4g}" in text


def test_the_command_fails_where_a_law_is_broken(model_file, capsys):
    assert main(["doctor", f"{model_file}:counting", "--device", "cpu"]) == 1
    assert "BROKEN: changes none of its tensors" in capsys.readouterr().out


def images(folder, count=12):
    from PIL import Image

    for i in range(count):
        pixels = (255 * torch.rand(6, 9, 3)).byte().numpy()
        (folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


def test_the_command_reads_images_and_arrays(model_file, tmp_path, capsys):
    pytest.importorskip("PIL", reason="pillow is not installed")
    folder, array, tensor = images(tmp_path / "images"), tmp_path / "x.npy", tmp_path / "x.pt"
    import numpy as np

    np.save(array, np.random.default_rng(0).random((5, 3, 4, 4), dtype=np.float32))
    torch.save(torch.rand(7, 3, 4, 4), tensor)
    for source, count in ((folder, 12), (array, 5), (tensor, 7)):
        command = ["doctor", f"{model_file}:plain", "--device", "cpu", "--data", str(source)]
        assert main(command) == 0
        assert f"Latents of {count} samples of data" in capsys.readouterr().out
    assert main([*command[:-1], str(folder), "--max_samples", "6"]) == 0
    assert "Latents of 6 samples of data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["somewhere"], "--adapter"),
        (["nowhere.py:load"], "not a file"),
        (["FILE:absent"], "no function 'absent'"),
        (["FILE:unet"], "latentctl.wrap((encoder, decoder))"),
        (["FILE:plain", "--data", "no/such/folder"], "no folder of images"),
        (["no/such/folder", "--adapter", "conv-vae"], "not a folder"),
        (["no/such/folder", "--adapter", "conv_vae"], "conv-vae"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why(command, words, model_file, capsys):
    command = [word.replace("FILE", str(model_file)) for word in command]
    assert main(["doctor", *command, "--device", "cpu"]) == 2
    assert words in capsys.readouterr().err


def test_an_adapter_loads_a_folder(tmp_path, capsys):
    from latentctl_adapters.conv_vae import ConvVAE

    ConvVAE(resolution=16, latent_size=4, width=8).save_pretrained(tmp_path / "vae")
    command = ["doctor", str(tmp_path / "vae"), "--adapter", "conv-vae", "--device", "cpu"]
    assert main(command) == 0
    assert "ConvVAE" in capsys.readouterr().out


def test_it_runs_as_a_program(model_file):
    command = [sys.executable, "-m", "latentctl.cli", "doctor", f"{model_file}:plain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "What works" in done.stdout and "Plain: latent (8,)" in done.stderr
    script = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'latentctl = "latentctl.cli:main"' in script

"""`latentctl encode`: tasks, claims and the seal, from a configuration that is data."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ToyVAE
from PIL import Image

import latentctl
from latentctl.cli import main

MODEL = """
from conftest import ToyVAE
import latentctl


def load():
    return latentctl.wrap(ToyVAE(), latent_shape=(8,))
"""
CONFIG = {"decoder": "model.py:load", "data": "photos", "output": "cache", "shard_size": 2}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for number in range(9):
        pixels = draw.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    lines = [f"{number}.png,{number % 2}" for number in range(9)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,Smiling", *lines]))
    return tmp_path


def configured(**settings):
    with open("config.json", "w") as file:
        json.dump({**CONFIG, **settings}, file)


def encode(*words):
    return main(["encode", "config.json", "--device", "cpu", *words])


def test_tasks_and_the_seal_give_what_one_command_gives(world, capsys):
    configured(labels="labels.csv")
    assert encode() == 0
    assert "Latents(9 x (8,)" in capsys.readouterr().out
    configured(labels="labels.csv", output="parts")
    assert encode("--seal") == 2
    assert encode("--tasks", "3", "--task", "2") == 0
    assert "1 shards are there, 4 tasks missing." in capsys.readouterr().out
    assert encode("--seal") == 2
    assert "missing or were corrupted: 0, 1, 3, 4." in capsys.readouterr().err
    assert encode("--tasks", "3", "--task", "0-1") == 0
    assert encode("--tasks", "3", "--task", "1") == 0  # finished: nothing to do
    assert encode("--seal") == 0
    one, parts = (
        {file.name: file.read_bytes() for file in (world / folder).glob("shard-*")}
        for folder in ("cache", "parts")
    )
    assert one == parts
    latents = latentctl.Latents.load("parts", decoder=latentctl.wrap(ToyVAE(), latent_shape=(8,)))
    assert latents.column("Smiling").tolist() == [number % 2 for number in range(9)]


def test_a_cache_grows_by_the_pictures_that_were_added(world, capsys):
    configured()
    assert encode() == 0
    Image.new("RGB", (4, 5)).save("photos/9.png")
    assert encode() == 2 and "with grow=True" in capsys.readouterr().err
    configured(grow=True)
    assert encode() == 0 and "Latents(10 x (8,)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
def test_workers_of_ray_make_the_same_files(world, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray")
    configured()
    assert encode() == 0
    here = str(world / "model.py")
    configured(
        output=str(world / "ray"), decoder=f"{here}:load", data=str(world / "photos"), shard_size=2
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        assert encode("--ray", "2") == 0
    finally:
        ray.shutdown()
    one, other = (
        {file.name: file.read_bytes() for file in (world / folder).glob("shard-*")}
        for folder in ("cache", "ray")
    )
    assert one == other and len(one) == 5


def test_without_ray_it_says_what_to_install(world, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    configured()
    assert encode("--ray", "2") == 2
    assert 'pip install "latentctl[ray]"' in capsys.readouterr().err


def test_verify_compares_every_byte_of_a_cache(world, capsys):
    configured()
    assert encode() == 0 and main(["verify", "cache"]) == 0
    assert "cache: 5 shards are intact." in capsys.readouterr().out
    file = sorted((world / "cache").glob("shard-*"))[3]
    times, raw = file.stat().st_mtime_ns, bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(times, times))
    assert len(latentctl.Latents.load("cache").mean) == 9  # size and time are the same
    assert main(["verify", "cache"]) == 1
    assert f"{file.name} is missing, truncated or corrupted" in capsys.readouterr().out


def test_an_array_and_a_data_set_of_files(world):
    pytest.importorskip("datasets")
    np.save("x.npy", np.zeros((5, 3, 4, 4), np.uint8))
    configured(data="x.npy", output="array")
    assert encode() == 0
    files = {"path": "imagefolder", "data_dir": "photos", "split": "train", "streaming": True}
    for number in range(9):
        Image.open(f"photos/{number}.png").resize((4, 4)).save(f"photos/{number}.png")
    configured(data=files, output="stream")
    assert encode() == 0
    assert len(latentctl.Latents.load("stream")) == 9
    assert torch.equal(latentctl.Latents.load("array").index, torch.arange(5))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batchsize": 3}, "Did you mean 'batch_size'"),
        ({"batch_size": "3"}, "batch_size in config.json is '3', not a int"),
        ({"batch_size": True}, "not a int"),
        ({"transform": "os:remove"}, "setting"),
        ({"data": "nowhere"}, "no folder of images"),
        ({"data": {"path": "imagefolder"}}, "lacks path or split"),
        ({"data": {"path": "script.py", "split": "train"}}, "script.py': none is run"),
        ({"data": {"path": "x", "split": "train", "trust_remote_code": True}}, "setting"),
        ({"attributes": ["Smiling"]}, "need labels"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample"),
        ({"decoder": "model.py"}, "not FILE.py:FUNCTION"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(world, capsys, settings, message):
    configured(**settings)
    assert encode() == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (world / "cache").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tasks", "3"], "Give --tasks with --task"),
        (["--tasks", "3", "--task", "3"], "0 ... 2"),
        (["--tasks", "3", "--task", "2-1"], "0 ... 2"),
        (["--tasks", "3", "--task", "one"], "a range such as 4-7"),
        (["--ray", "2", "--seal"], "or --ray"),
        (["--ray", "0"], "at least 1"),
        (["--tasks", "3", "--task", "1", "--seal"], "Give --tasks with --task"),
    ],
)
def test_wrong_words_are_one_sentence(world, capsys, words, message):
    configured()
    assert encode(*words) == 2 and message in capsys.readouterr().err


def test_what_is_no_json_is_refused(world, capsys):
    for text in ("{", "[1]", "3", '{"decoder": "model.py:load"}'):
        (world / "config.json").write_text(text)
        assert encode() == 2 and "config.json" in capsys.readouterr().err

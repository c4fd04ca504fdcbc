"""Recipes on an emulated device, in this process, at a budget of a few steps.

The emulation indexes wrongly by Python lists (`x[:, [0, 1]]`), so that knowledge, melody_rewards
and the tasks of cgml_modes with pictures are left out.
"""

from __future__ import annotations

import importlib
import shlex
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from emulated_device import emulated_device

from latentctl.random import generator

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")

import support.run

ONE = "--num_threads 1 --output_dir"
FACES = "--max_train_samples 64 --max_test_samples 20 --latent_size 8 --width 4 "
FACES += "--vae_train_steps 2 --vae_batch_size 16"
MAIN = "--attributes Male Smiling --preset small --train_batch_size 16 --critic_train_steps 3 "
MAIN += "--max_train_steps 6 --realism_train_steps 3 --judge_train_seconds 1 --num_edits 2 "
MAIN += "--teacher_train_steps 2 --realism_teacher_train_steps 2 --demonstration_steps 2 "
MAIN += "--critic_warmup_steps 2"
CGML = "--max_train_steps 2 --baseline_train_steps 3 --max_train_samples 60 --test_inputs 12 "
CGML += "--starts 4 --steps 2 --width 8 --train_batch_size 16"
FLOW = "--latent_size 6 --width 4 --max_train_steps 3 --train_batch_size 32 --flow_width 8 "
FLOW += "--blocks 1 --flow_train_steps 3 --flow_batch_size 32"
MELODY = "--latent_size 8 --embedding 8 --encoder_size 8 --decoder_size 8 --vae_batch_size 4 "
MELODY += "--vae_train_steps 2 --validation_steps 2 --transpose 2"


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    """Runs a recipe on the emulated device as its command line would."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        AcceleratorState._reset_state(reset_partial_state=True)
        arguments = [word for part in words for word in shlex.split(str(part))]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        module = importlib.import_module(name)
        with emulated_device():
            support.run.run(module.main, module.Flags)
        return tmp_path

    return run


def pictures(folder, sizes, side=12):
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    folder.mkdir()
    for split, count in sizes.items():
        drawn = torch.rand(count, side, side, generator=generator(count)) > 0.8
        images = [Image.fromarray(image.numpy()) for image in 230 * drawn.to(torch.uint8)]
        rows = {"image": images, "label": [k % 10 for k in range(count)]}
        split_set = datasets.Dataset.from_dict(rows, features=columns)
        split_set.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def tunes(folder):
    folder.mkdir()
    for split, count in {"train": 40, "validation": 12, "test": 16}.items():
        x = torch.randint(55, 75, (count, 32), generator=generator(count)).tolist()
        datasets.Dataset.from_dict({"tokens": x}).to_parquet(str(folder / f"{split}.parquet"))
    return folder


def test_faces(recipe):
    recipe("pretrain_vae", FACES, ONE, "vae")
    out = recipe("celeba_attrs", FACES, MAIN, ONE, "out") / "out"
    assert (out / "report.html").exists()
    base = f"--pack {out}/pack --pretrained_model_name_or_path {out}/base"
    recipe("edit_identity", base, "--num_faces 2 --refine_with out/judge", ONE, "edits")


def test_cgml(recipe):
    recipe("cgml_modes", CGML, "--task toy", ONE, "out")


@pytest.mark.parametrize("training", ["post-hoc", "joint"])
def test_latent_flow(training, recipe, tmp_path):
    data = pictures(tmp_path / "data", {"train": 80, "test": 20}, side=16)
    recipe("latent_flow", FLOW, "--train_data_dir", data, "--training", training, ONE, "out")


def test_melodies(recipe, tmp_path):
    recipe("pretrain_melody_vae", MELODY, "--train_data_dir", tunes(tmp_path / "tunes"), ONE, "vae")

"""Every recipe on an emulated device, in this process, at a budget of a few steps."""

from __future__ import annotations

import importlib
import shlex
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from emulated_device import emulated_device
from test_knowledge_recipe import digits, letters, write

from latentctl.random import generator, seeded

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
KNOWLEDGE = "--resolution 12 --padded 16 --patch 16 --prior_width 8 --prior_blocks 1 --hidden 8 "
KNOWLEDGE += "--prior_train_steps 4 --prior_batch_size 32 --knowledge_train_steps 4 "
KNOWLEDGE += "--knowledge_width 8 --knowledge_blocks 1 --critic_width 8 --critic_train_steps 4 "
KNOWLEDGE += "--train_batch_size 32"
FLOW = "--latent_size 6 --width 4 --max_train_steps 3 --train_batch_size 32 --flow_width 8 "
FLOW += "--blocks 1 --flow_train_steps 3 --flow_batch_size 32"
MELODY = "--latent_size 8 --embedding 8 --encoder_size 8 --decoder_size 8 --vae_batch_size 4 "
MELODY += "--vae_train_steps 2 --validation_steps 2 --transpose 2"
REWARDS = "--rounds 1 --prior_samples 60 --max_reward_calls 400 --num_melodies 20 --num_edits 4 "
REWARDS += "--max_encodings 30 --moves 40 --first_steps 4 --train_steps 4 --edit_samples 40 "
REWARDS += "--edit_train_steps 4"


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


@pytest.mark.parametrize("task", ["toy", "colour", "mnist-bar", "faces-masked"])
def test_cgml(task, recipe):
    recipe("cgml_modes", CGML, "--task", task, ONE, "out")


def test_knowledge(recipe, tmp_path):
    drawn = (("mnist", digits), ("omniglot", letters))
    sources = [f"--{name} {write(tmp_path / name, draw, (320, 40))}" for name, draw in drawn]
    recipe("knowledge", KNOWLEDGE, *sources, ONE, "out")


@pytest.mark.parametrize("training", ["post-hoc", "joint", "regularised", "vae-flow"])
def test_latent_flow(training, recipe, tmp_path):
    data = pictures(tmp_path / "data", {"train": 80, "test": 20}, side=16)
    recipe("latent_flow", FLOW, "--train_data_dir", data, "--training", training, ONE, "out")


def test_melodies(recipe, tmp_path):
    from latentctl_adapters.melody_vae import MelodyVAE

    recipe("pretrain_melody_vae", MELODY, "--train_data_dir", tunes(tmp_path / "tunes"), ONE, "vae")
    with seeded(0):
        model = MelodyVAE(latent_size=8, embedding=8, encoder_size=8, decoder_size=16)
    model.save_pretrained(tmp_path / "base")
    source = f"--pretrained_model_name_or_path {tmp_path}/base --train_data_dir {tmp_path}/tunes"
    recipe("melody_rewards", REWARDS, source, ONE, "out")

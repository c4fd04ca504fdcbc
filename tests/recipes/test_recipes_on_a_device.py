"""Recipes on an emulated device without float64, in this process, at a budget of a few steps."""

from __future__ import annotations

from functools import partial, partialmethod

import pytest
import torch
from command_line import done, run
from emulated_device import emulated_device

import latentctl
from latentctl.knowledge import Knowledge
from latentctl.random import generator

pytestmark = pytest.mark.slow
pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")

from support.melody import evaluation

ONE = "--output_dir"
FACES = "--max_train_samples 40 --max_test_samples 12 --latent_size 8 --width 4 "
FACES += "--vae_train_steps 2 --vae_batch_size 16"
MAIN = "--attributes Male Smiling --preset small --train_batch_size 16 --critic_train_steps 3 "
MAIN += "--max_train_steps 6 --realism_train_steps 3 --num_edits 1 --train_vae --network_passes 1 "
MAIN += "--controller actor --teachers 1 --distillation_samples 8 "
MAIN += "--teacher_train_steps 2 --realism_teacher_train_steps 2 --demonstration_steps 2 "
MAIN += "--critic_warmup_steps 2"
CGML = "--max_train_steps 2 --baseline_train_steps 3 --max_train_samples 60 --test_inputs 12 "
CGML += "--answers 4 --starts 2 --width 8 --train_batch_size 16"
FLOW = "--latent_size 6 --width 4 --max_train_steps 3 --train_batch_size 32 --flow_width 8 "
FLOW += "--blocks 1 --flow_train_steps 3 --flow_batch_size 32"
MELODY = "--latent_size 8 --embedding 8 --encoder_size 8 --decoder_size 8 --vae_batch_size 4 "
MELODY += "--vae_train_steps 2 --validation_steps 2 --transpose 2"
RULES = "--rounds 1 --prior_samples 40 --max_reward_calls 120 --num_melodies 8 --num_edits 1 "
RULES += "--max_encodings 20 --moves 20 --first_steps 2 --train_steps 2 --edit_samples 20 "
RULES += "--edit_train_steps 2"
KNOWLEDGE = "--resolution 12 --padded 16 --patch 4 --prior_width 8 --prior_blocks 1 --hidden 8 "
KNOWLEDGE += "--prior_train_steps 2 --prior_batch_size 32 --knowledge_train_steps 2 "
KNOWLEDGE += "--knowledge_width 8 --knowledge_blocks 1 --critic_width 8 --critic_train_steps 2 "
KNOWLEDGE += "--train_batch_size 32"


@pytest.fixture
def recipe(tmp_path):
    """Runs a recipe on the emulated device by its command line."""

    def run_there(name, *words):
        with emulated_device(float64=False):
            done(run(name, *words, cwd=tmp_path))
        return tmp_path

    return run_there


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
    recipe("edit_identity", base, "--num_faces 1 --refine_with out/judge", ONE, "edits")


def test_cgml(recipe):
    recipe("cgml_modes", CGML, "--task toy", ONE, "out")


@pytest.mark.parametrize("training", ["post-hoc", "joint"])
def test_latent_flow(training, recipe, tmp_path):
    data = pictures(tmp_path / "data", {"train": 80, "test": 20}, side=16)
    recipe("latent_flow", FLOW, "--train_data_dir", data, "--training", training, ONE, "out")


def test_melodies(recipe, monkeypatch, tmp_path):
    pytest.importorskip("symusic")
    for owner, name in ((evaluation, "classifier_auc"), (latentctl, "edit_by_rule")):
        monkeypatch.setattr(owner, name, partial(getattr(owner, name), steps=2))
    data = f"--train_data_dir {tunes(tmp_path / 'tunes')}"
    recipe("pretrain_melody_vae", MELODY, data, ONE, "vae")
    source = f"--pretrained_model_name_or_path vae/model {data}"
    recipe("melody_rewards", RULES, source, ONE, "out")
    assert (tmp_path / "out" / "report.html").exists()


def test_knowledge(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(Knowledge, "log_prob", partialmethod(Knowledge.log_prob, samples=1))
    sets = {n: pictures(tmp_path / n, {"train": 300, "test": 10}) for n in ("mnist", "omniglot")}
    sources = [f"--{name} {folder}" for name, folder in sets.items()]
    recipe("knowledge", KNOWLEDGE, *sources, ONE, "out")
    assert (tmp_path / "out" / "report.html").exists()

"""The recipe of melodies by rule, on a tiny VAE and drawn tunes."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from command_line import done, run
from latentctl_adapters.melody_rewards import HOLD, onsets
from test_recipes import PNG

import latentctl
from latentctl.errors import InputError
from latentctl.random import generator

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
pytest.importorskip("symusic")
datasets = pytest.importorskip("datasets")

import melody_rewards as recipe
from latentctl_adapters.melody_vae import MelodyVAE
from support.melody.rules import RuleFlags, rules_of
from support.run import run as run_recipe

TINY = "--rounds 2 --prior_samples 120 --max_reward_calls 900 --num_melodies 40 --evaluations 7"
TINY += " --num_edits 8 --max_encodings 60 --moves 100 --first_steps 30 --train_steps 20"
TINY += " --edit_samples 100 --edit_train_steps 20"


def tunes(count, seed):
    draw = generator(seed, purpose="tunes")
    steps = torch.tensor([-2, -1, 1, 2, 4])[torch.randint(5, (count, 32), generator=draw)]
    x = 60 + steps.cumsum(1).clamp(-20, 20)
    return torch.where(torch.rand(count, 32, generator=draw) < 0.4, HOLD, x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("melodies")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MelodyVAE(latent_size=8, embedding=8, encoder_size=8, decoder_size=16)
    model.save_pretrained(path / "vae")
    for name, count in {"train": 80, "validation": 20, "test": 30}.items():
        rows = datasets.Dataset.from_dict({"tokens": tunes(count, len(name)).tolist()})
        rows.to_parquet(str(path / "tunes" / f"{name}.parquet"))
    (path / "rules.py").write_text(
        "def low(x):\n"
        "    notes = x < 128\n"
        "    return (notes & (x < 64)).sum(1) / notes.sum(1).clamp(min=1)\n"
    )
    return path


@pytest.fixture(scope="module")
def outputs(folder):
    source = f"--pretrained_model_name_or_path {folder}/vae --train_data_dir {folder}/tunes"
    log = done(run("melody_rewards.py", TINY, source, cwd=folder))
    return folder / "outputs" / "melody_rewards", log


def test_the_paper_s_two_rules(outputs):
    folder, log = outputs
    results = json.loads((folder / "results.json").read_text())
    asked = {"c_major", "dense", "c_major and dense"}
    assert set(results["requests"]) == {"prior", *asked, *(f"{name}, searched" for name in asked)}
    assert set(results["edits"]) == {"c_major", "dense", "c_major and dense"}
    assert results["reward_calls"] <= 900
    assert [line["number"] for line in results["rounds"]] == [0, 1, 2][: len(results["rounds"])]
    for row in results["requests"].values():
        each = min(row["c_major satisfied"], row["dense satisfied"])
        assert 0 <= row["all satisfied"] <= each <= 1
        assert row["c_major satisfied"] <= row["c_major reward"] + 1e-6
    assert "report.html" in log


def test_what_it_leaves_behind(outputs, folder):
    out, _ = outputs
    for picture in ("rolls.png", "edits.png"):
        assert (out / picture).read_bytes().startswith(PNG)
    page = (out / "report.html").read_text()
    assert page.count("<audio") == len(list((out / "wav").iterdir())) > 0
    assert len(list((out / "midi").iterdir())) == len(list((out / "wav").iterdir()))
    shown = {path.stem for path in (out / "midi").iterdir()}
    assert {f"1-{name}" for name in ("prior", "c_major", "dense", "c_major-and-dense")} <= shown
    decoder = latentctl.load("melody-vae", pretrained_model_name_or_path=folder / "vae")
    again = latentctl.Conditional.from_pretrained(out / "pack", decoder)
    assert again.names == ("c_major", "dense")
    assert again.sample(3, c_major=True).x.shape == (3, 32)


def test_two_rules_are_given_by_two_flags(folder, monkeypatch):
    (folder / "more.py").write_text("def some(x):\n    return (x < 128).float().mean(1)\n")
    words = f"--reward {folder}/rules.py:low --reward {folder}/more.py:some".split()
    parsed: list[recipe.Flags] = []
    monkeypatch.setattr(sys, "argv", ["melody_rewards.py", *words])
    monkeypatch.chdir(folder)
    run_recipe(parsed.append, recipe.Flags)
    assert list(rules_of(parsed[0].rules, tunes(4, 0))) == ["low", "some"]


def test_a_rule_of_one_s_own_and_no_tunes(folder, tmp_path):
    flags = recipe.Flags(
        pretrained_model_name_or_path=str(folder / "vae"),
        output_dir=str(tmp_path),
        num_threads=1,
        num_melodies=20,
        rules=RuleFlags(
            reward=(f"{folder}/rules.py:low",),
            max_reward_calls=300,
            rounds=1,
            prior_samples=60,
            train_steps=20,
            first_steps=20,
            evaluations=0,
        ),
    )
    results = recipe.main(flags)
    assert set(results["requests"]) == {"prior", "low"}
    assert results["edits"] == {}
    assert not (tmp_path / "edits.png").exists()


def test_the_density_is_that_of_the_data():
    x = tunes(400, 1)
    rules = rules_of(RuleFlags(), x)
    share = (rules["dense"](x) == 1).float().mean()
    assert 0.02 < share < 0.2
    assert rules["dense"].keywords["notes"] >= onsets(x).sum(1).float().median()
    given = rules_of(RuleFlags(dense_notes=3), x)
    assert given["dense"].keywords["notes"] == 3


def test_bad_flags_are_refused(folder):
    with pytest.raises(InputError, match="pretrain_melody_vae"):
        recipe.main(recipe.Flags())
    for reward, words in {
        "nowhere": "FILE.py:FUNCTION",
        "nowhere.py:rule": "is not a file",
        "no_such_module:rule": "no_such_module",
        f"{folder}/rules.py:high": "no function 'high'",
    }.items():
        with pytest.raises(InputError, match=words):
            rules_of(RuleFlags(reward=(reward,)), torch.empty(0, 32))
    twice = (f"{folder}/rules.py:low",) * 2
    with pytest.raises(InputError, match="one name"):
        rules_of(RuleFlags(reward=twice), torch.empty(0, 32))

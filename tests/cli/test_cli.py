"""The command line: what it writes equals what the API gives; what is wrong is one sentence."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
import torch
from conftest import NAMES, ToyVAE
from PIL import Image

import latentctl
from latentctl import AttributeCritic, Conditional, condition
from latentctl.cli import main
from latentctl.display import grid
from latentctl.random import generator
from latentctl.rewards import sample_by_rule

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
MODEL = """
from conftest import ToyVAE
import latentctl


def load():
    return latentctl.wrap(ToyVAE(), latent_shape=(8,))


def conditional():
    return latentctl.Conditional.from_pretrained("pack", load())


def bare():
    return ToyVAE()


def fails():
    raise RuntimeError("out of order")


def number():
    return 5


constant = 5
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model, a pack, images and labels."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "model.py").write_text(MODEL)
    (folder / "broken.py").write_text("def load(:")
    (folder / "empty").mkdir()
    critic = AttributeCritic((8,), NAMES, width=8)
    decoder = latentctl.wrap(ToyVAE(), latent_shape=(8,))
    condition(decoder, critic).save_pretrained(folder / "pack")
    lines = ["file_name,Smiling,Male"]
    for number in range(40):
        name = f"{'inside/' if number % 2 else ''}{number}.png"
        pixels = torch.randint(0, 256, (5, 6, 3), generator=generator(number, purpose="image"))
        (folder / "images" / "inside").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.byte().numpy()).save(folder / "images" / name)
        lines.append(f"{name},{number % 2},{'' if number == 3 else number // 20}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(world, monkeypatch, capsys):
    monkeypatch.chdir(world)

    def call(*words):
        """The exit code, stdout and stderr of a command."""
        try:
            code = main([*map(str, words)])
        except SystemExit as end:
            code = end.code
        text = capsys.readouterr()
        return code, text.out, text.err

    return call


MODEL_FLAGS = ("--decoder", "model.py:load", "--device", "cpu")
SAMPLE = ("sample", "pack", *MODEL_FLAGS)


def read(path):
    return torch.from_numpy(np.array(Image.open(path)))


def test_version(run):
    assert run("--version")[:2] == (0, f"latentctl {latentctl.__version__}\n")


def test_sample_writes_what_the_api_gives(run, world):
    words = (*SAMPLE, "--attributes", "Smiling=1", "Male=0.5", "-n", 6, "--seed", 3)
    code, text, _ = run(*words, "--output", "new/a.png")
    faces = Conditional.from_pretrained(world / "pack", latentctl.wrap(ToyVAE(), latent_shape=(8,)))
    out = faces.sample(6, Smiling=1, Male=0.5, seed=3)
    assert code == 0 and torch.equal(read(world / "new" / "a.png"), grid(out.x))
    assert repr(out) in text
    assert run(*SAMPLE, "--where", "Smiling | ~Male", "-n", 2, "--output", "b.png")[0] == 0


def test_rule_writes_samples_that_keep_it(run, world):
    (world / "rules.py").write_text(
        "def red(x):\n    return (x[:, 0].mean((1, 2)) > 0.5).float()\n\n\n"
        "def never(x):\n    return 0.5\n"
    )
    words = ("rule", "model.py:load", "rules.py:red", "--device", "cpu", "-n", 6, "--seed", 3)
    code, text, _ = run(*words, "--output", "new/rule.png")
    red = {"red": lambda x: (x[:, 0].mean((1, 2)) > 0.5).float()}
    out = sample_by_rule(latentctl.wrap(ToyVAE(), latent_shape=(8,)), red, 6, seed=3)
    assert code == 0 and torch.equal(read(world / "new" / "rule.png"), grid(out.x))
    assert repr(out) in text and "keep the rules: 1.000" in text
    code, text, _ = run(*words[:2], "rules.py:never", *words[3:5], "-n", 2, "--evaluations", 7)
    assert code == 1 and "None of 2560 samples keeps 'never'" in text


def test_a_bare_model_takes_the_shape_from_the_pack(run):
    words = ("sample", "pack", "--decoder", "model.py:bare", "--device", "cpu", "-n", 2)
    code, _, error = run(*words)
    assert code == 0, error


def test_edit_writes_an_image_and_a_receipt_for_each(run, world):
    words = ("edit", "pack", *MODEL_FLAGS, "--images", "images", "--attributes", "Smiling=1")
    code, text, _ = run(*words, "--output", "out")
    rows = json.loads((world / "out" / "receipts.json").read_text())
    assert code == 0 and len(rows) == 40 and "receipts.json" in text
    for row in rows:
        assert read(world / "out" / row["edited"]).shape == (4, 4, 3)
        assert row["requested_Smiling"] == 1 and row["leakage_Male"] is not None
        assert {"file", "satisfied", "shift", "evaluations", "probability_Hat"} <= row.keys()
    code, text, _ = run(*words, "--images", "images/0.png", "--hold", "none", "--output", "one")
    (row,) = json.loads((world / "one" / "receipts.json").read_text())
    assert code == 0 and row["leakage_Male"] is None and (world / "one" / "0.png").exists()


def test_verify_makes_pictures_again(run, world):
    words = ("edit", "pack", *MODEL_FLAGS, "--images", "images", "--attributes", "Smiling=1")
    assert run(*words, "--output", "kept")[0] == 0
    assert run(*SAMPLE, "--attributes", "Hat=1", "-n", 5, "--output", "kept/s.png")[0] == 0
    pack = ("--pack", "pack", *MODEL_FLAGS)
    files = ("kept/0.png", "kept/inside/1.png")
    code, text, error = run("verify", *files, "kept/s.png", *pack)
    assert code == 0 and text.count("Intact") == 3, (text, error)
    code, text, _ = run("verify", *files, *pack, "--images", "images")
    assert code == 0 and "inputs" not in text
    assert "inputs are not among" in run("verify", *files, *pack, "--images", "images/2.png")[1]
    code, text, _ = run("verify", *files, "--pack", "model.py:conditional", "--device", "cpu")
    assert code == 0 and text.count("Intact") == 2
    (world / "kept" / "0.png").write_bytes((world / "kept" / "2.png").read_bytes())
    code, text, _ = run("verify", *files, *pack)
    assert code == 1 and "kept/0.png: Changed: metadata" in text and text.count("Intact") == 1


def test_fit_saves_a_pack_that_samples(run, world):
    words = ("fit", *MODEL_FLAGS, "--data", "images", "--labels", "labels.csv")
    code, text, _ = run(*words, "--max_train_steps", 3, "--output", "fitted")
    assert code == 0 and "Smiling: " in text and "4 images that were held out" in text
    words = ("sample", "fitted", *MODEL_FLAGS, "--attributes", "Male=1", "-n", 2)
    assert run(*words, "--output", "c.png")[0] == 0
    words = ("fit", *MODEL_FLAGS, "--data", "images", "--labels", "labels.csv")
    code, _, error = run(*words, "--attributes", "Smilin")
    assert code == 2 and "Did you mean 'Smiling'?" in error


def test_push_says_why_it_did_not(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, error = run("push", "pack", "me/smiling")
    assert code == 2 and "me/smiling was not pushed" in error
    code, _, error = run("push", "images", "me/smiling")
    assert code == 2 and "Traceback" not in error


def faults():
    """Command lines in which one thing is wrong, and a word that the sentence must have."""
    edit = ("edit", "pack", *MODEL_FLAGS, "--images", "images", "--output", "out")
    fit = ("fit", *MODEL_FLAGS, "--data", "images", "--output", "p", "--labels")
    yield from [
        ((), "COMMAND"),
        (("smaple",), "smaple"),
        ((*SAMPLE, "--colour", "red"), "--colour"),
        ((*SAMPLE, "-n", "many"), "many"),
        ((*SAMPLE, "-n", "-1"), "-1"),
        ((*SAMPLE, "--strength", "-1"), "strength"),
        ((*SAMPLE, "--strength", "nan"), "strength"),
        ((*SAMPLE, "--attributes", "Smiling"), "NAME=VALUE"),
        ((*SAMPLE, "--attributes", "=1"), "NAME=VALUE"),
        ((*SAMPLE, "--attributes", "Smiling=yes"), "NAME=VALUE"),
        ((*SAMPLE, "--attributes", "Smiling=2"), "[0, 1]"),
        ((*SAMPLE, "--attributes", "Smilng=1"), "Did you mean 'Smiling'"),
        ((*SAMPLE, "--where", "Smiling |"), "expression"),
        ((*SAMPLE, "--device", "tpu9"), "--device"),
        ((*SAMPLE, "--decoder", "model.py:fails"), "out of order"),
        ((*SAMPLE, "--decoder", "model.py:number"), "No adapter accepts a int"),
        ((*SAMPLE, "--decoder", "model.py:constant"), "no function"),
        ((*SAMPLE, "--decoder", "model.py:absent"), "no function"),
        ((*SAMPLE, "--decoder", "absent.py:load"), "not a file"),
        ((*SAMPLE, "--decoder", "absent:load"), "absent"),
        ((*SAMPLE, "--decoder", "broken.py:load"), "SyntaxError"),
        ((*SAMPLE, "--decoder", "somewhere"), "--adapter"),
        ((*SAMPLE, "--adapter", "conv_vae"), "conv-vae"),
        (("sample", "absent", *MODEL_FLAGS), "absent is missing"),
        (("sample", "images", *MODEL_FLAGS), "images"),
        (("sample", "pack"), "--decoder"),
        ((*SAMPLE, "--output", "model.py/a.png"), "model.py"),
        ((*edit, "--images", "empty"), "no image"),
        ((*edit, "--images", "absent"), "no image"),
        ((*edit, "--images", "labels.csv"), "labels.csv"),
        ((*edit, "--attributes", "Smiling=1", "--hold", "Hut"), "Did you mean 'Hat'"),
        (("verify", "images/0.png", "--pack", "pack", *MODEL_FLAGS), "no receipt"),
        (("verify", "absent.png", "--pack", "pack", *MODEL_FLAGS), "absent.png"),
        (("verify", "labels.csv", "--pack", "pack", *MODEL_FLAGS), "PNG"),
        (("verify", "b.png", "--pack", "pack", "--device", "cpu"), "--decoder"),
        (("verify", "b.png", "--pack", "model.py:load", "--device", "cpu"), "not a Conditional"),
        ((*fit, "absent.csv"), "not a file"),
        ((*fit, "labels.csv", "--data", "absent"), "not a folder"),
        ((*fit, "labels.csv", "--max_train_steps", "0"), "step"),
    ]
    draw = random.Random(SEED)
    good = ["file_name,Smiling,Male", "0.png,0,1", "2.png,1,0", "4.png,1,1"]
    for number in range(60):
        lines, row = list(good), draw.randrange(1, 4)
        kind = draw.choice(["number", "image", "fields", "header", "empty", "range"])
        if kind == "number":
            lines[row] = lines[row][:-1] + draw.choice(["yes", "0,5", "--1", "1e", "#N/A"])
        elif kind == "image":
            lines[row] = draw.choice(["9.jpg", "../0.png", "", "inside"]) + lines[row][5:]
        elif kind == "fields":
            lines[row] = draw.choice([lines[row] + ",1", lines[row][:-2], "0.png"])
        elif kind == "header":
            lines[0] = draw.choice(["", "file_name", ",,"])
        elif kind == "range":
            lines[row] = lines[row][:-1] + draw.choice(["-1", "2", "inf"])
        else:
            lines = lines[:1]
        yield (*fit, f"labels{number}.csv"), lines


def test_whatever_is_wrong_is_one_sentence_and_exit_code_2(run, world):
    tried = 0
    for words, wanted in faults():
        if isinstance(wanted, list):
            (world / words[-1]).write_text("\n".join(wanted) + "\n")
            wanted = ""
        code, out, error = run(*words)
        told = [line for line in error.splitlines() if line.startswith("latentctl")]
        assert code == 2 and wanted in error, (words, wanted, code, out, error)
        assert len(told) == 1 and "Traceback" not in error, (words, error)
        tried += 1
    print(f"{tried} wrong command lines")
    assert tried == 99

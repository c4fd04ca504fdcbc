"""The command line of recipes: repeated lists, shared flags, the hub, and one line a log record."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

tyro = pytest.importorskip("tyro")

from accelerate import Accelerator
from support.arguments import joined
from support.melody.rules import RuleFlags
from support.models import DecoderFlags, load_decoder
from support.run import HubFlags, RunFlags, run

from latentctl.errors import InputError


@dataclass
class Flags:
    """Flags of a recipe."""

    rules: RuleFlags = field(default_factory=RuleFlags)
    strength: tuple[float, ...] = (1.0,)
    run: RunFlags = field(default_factory=RunFlags)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parsed(monkeypatch, words):
    found = []
    monkeypatch.setattr(sys, "argv", ["recipe.py", *words.split()])
    run(found.append, Flags)
    return found[0]


@pytest.mark.parametrize(
    "words",
    [
        "--reward a --reward b c",
        "--reward a b c",
        "--reward=a --seed 3 --reward=b --reward c",
        "--reward a --strength 0 -1 --reward b --seed 3 --reward c --strength 2",
    ],
)
def test_a_list_is_given_by_one_flag_or_by_several(monkeypatch, words):
    flags = parsed(monkeypatch, words)
    assert flags.rules.reward == ("a", "b", "c")
    assert flags.strength == ((0.0, -1.0, 2.0) if "strength" in words else (1.0,))
    assert flags.run.seed == (3 if "seed" in words else 0)


def test_other_words_are_left_as_they_are():
    for words in (["--seed", "1", "--seed", "2"], ["--no_such", "x"], ["-h"], ["word", "--reward"]):
        assert joined(words, Flags) == words


def test_schedules_are_shared_and_a_recipe_s_own_are_defaults(tmp_path):
    accelerator, own = Accelerator(), {"lr_scheduler": "cosine", "lr_warmup_steps": 50}
    options = RunFlags(output_dir=str(tmp_path)).fit_options(accelerator, "part", 8, **own)
    assert options.items() >= own.items()
    flags = RunFlags(output_dir=str(tmp_path), lr_scheduler="linear", lr_warmup_steps=0)
    options = flags.fit_options(accelerator, "part", 8, **own)
    assert options["lr_scheduler"] == "linear" and options["lr_warmup_steps"] == 0
    assert "lr_scheduler" not in RunFlags().fit_options(accelerator, "part")


def test_a_pack_is_pushed_on_request(tmp_path, capsys):
    pushed = []
    pack = SimpleNamespace(
        push_to_hub=lambda name: pushed.append(name) or SimpleNamespace(commit_url="https://hub/x")
    )
    HubFlags().push(pack, str(tmp_path / "faces"))
    HubFlags(push_to_hub=True).push(pack, str(tmp_path / "faces"))
    HubFlags(push_to_hub=True, hub_model_id="me/smiles").push(pack, str(tmp_path / "faces"))
    assert pushed == ["faces", "me/smiles"] and "https://hub/x" in capsys.readouterr().out
    with pytest.raises(InputError, match="--push_to_hub"):
        HubFlags(hub_model_id="me/smiles").check()


def test_weights_of_diffusers_have_a_variant(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "latentctl.load", lambda adapter, **options: asked.append((adapter, options))
    )
    flags = DecoderFlags(pretrained_model_name_or_path="a/b", subfolder="vae", variant="fp16")
    with pytest.raises(InputError, match="--adapter diffusers-vae"):
        load_decoder(flags)
    load_decoder(dataclasses.replace(flags, adapter="diffusers-vae"))
    load_decoder(DecoderFlags(pretrained_model_name_or_path="a/b"))
    place = {"pretrained_model_name_or_path": "a/b"}
    assert asked == [
        ("diffusers-vae", {**place, "subfolder": "vae", "variant": "fp16"}),
        ("conv-vae", place),
    ]


def test_a_line_is_logged_by_the_main_process_alone(monkeypatch):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        for rank, lowest in (("0", logging.WARNING), ("1", logging.ERROR)):
            root.handlers = []
            monkeypatch.setenv("RANK", rank)
            monkeypatch.setattr(sys, "argv", ["recipe.py"])
            run(lambda flags: None, Flags)
            assert root.level == lowest
    finally:
        root.handlers = handlers
        root.setLevel(level)

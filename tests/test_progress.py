"""Progress bars: shown by every long function, and by nothing else."""

from __future__ import annotations

import pytest
import torch
from conftest import toy_decoder, toy_latents

import latentctl
from latentctl import progress
from latentctl.controllers import Actor, Ascent, FlowMatching, Transport, Updater, amortise
from latentctl.controllers.cgml import completer
from latentctl.critics import AttributeCritic, PixelCritic
from latentctl.decoder import encode_dataset, invert
from latentctl.knowledge import KnowledgeBase
from latentctl.priors import LatentFlow
from latentctl.progress import progress_bar, track
from latentctl.rewards import edit_by_rule, encoding_rewards, explore, prior_rewards, sample_by_rule
from latentctl.rewards.edit import REFRESH

SHORT = {"max_train_steps": 3, "batch_size": 16}


@pytest.fixture
def shown(monkeypatch, capsys):
    """Runs a function without a delay; the titles of its bars, by what is on stderr."""
    monkeypatch.delenv("LATENTCTL_PROGRESS")
    monkeypatch.setattr(progress, "DELAY", 0)

    def run(function):
        capsys.readouterr()
        function()
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.replace("\r", "\n").splitlines()
        return {line.split(":")[0].strip() for line in lines if "%|" in line}

    return run


@pytest.fixture(scope="module")
def few():
    return toy_latents(60, seed=3)


def rule(x):
    return (x > 0.5).float().mean((1, 2, 3))


def jobs(decoder, few, tmp_path):
    """Every function that may take long, with the titles of its bars."""
    critic = AttributeCritic((8,), few.names, width=8)
    small = LatentFlow((8,), "matching", width=8, depth=1, steps=2)
    rewards = latentctl.RewardCritic((8,), ["rule"], width=8)
    x = decoder.decode(few.mean[:4])
    pixels = PixelCritic(decoder, lambda x: x.mean((2, 3))[:, :1], names=["Red"])
    game = {"rounds": 2, "prior_samples": 30, "moves": 10, "first_steps": 2, "train_steps": 4}
    game |= {"width": 8, "batch_size": 16}
    return {
        "Actor.fit": ({"Train", "Demonstrate"}, lambda **o: Actor.fit(
            few, teacher=Ascent(critic, steps=2), demonstration_steps=2, critic_warmup_steps=2,
            width=8, depth=2, max_train_steps=3, batch_size=600, **o
        )),
        "AttributeCritic.fit": ({"Train"}, lambda **o: AttributeCritic.fit(few, **SHORT, **o)),
        "FlowMatching.fit": ({"Train"}, lambda **o: FlowMatching.fit(few, width=8, **SHORT, **o)),
        "LatentFlow.fit": ({"Train"}, lambda **o: LatentFlow.fit(few, width=8, **SHORT, **o)),
        "Updater.fit": ({"Train", "Demonstrate"}, lambda **o: Updater.fit(
            few, Ascent(critic, steps=2), requests=1500, width=8, depth=2, **SHORT, **o
        )),
        "completer": ({"Train"}, lambda **o: completer(
            decoder, x, lambda step: torch.ones(4, 4).tril(), width=8, features=8,
            max_train_steps=3, batch_size=4, **o
        )),
        "KnowledgeBase.add": ({"Train"}, lambda **o: KnowledgeBase(
            LatentFlow((8,), width=8), (8,)
        ).add("Smiling", few, max_train_steps=3, critic_steps=3, **o)),
        "amortise": ({"Train"}, lambda **o: amortise(
            Ascent.for_edits(critic), few, width=8, **SHORT, **o
        )),
        "distill": ({"Train", "Teacher", "Edits of the student"}, lambda **o: latentctl.distill(
            critic, few, samples=300, samples_per_round=200, width=8, **SHORT, **o
        )),
        "encode_dataset": ({"Encode"}, lambda **o: encode_dataset(decoder, x, tmp_path / "a", **o)),
        "prior_rewards": ({"Sample", "Score"}, lambda **o: prior_rewards(decoder, rule, 300, **o)),
        "encoding_rewards": ({"Score"}, lambda **o: encoding_rewards(decoder, rule, few, 20, **o)),
        "explore": ({"Score", "Train", "Explore"}, lambda **o: explore(decoder, rule, **game, **o)),
        "sample_by_rule": ({"Search"}, lambda **o: sample_by_rule(
            decoder, rule, 8, evaluations=7, **o
        )),
        "edit_by_rule": ({"Edit"}, lambda **o: edit_by_rule(
            decoder, rewards, rule, x, steps=3, **o
        )),
        "LatentFlow.log_prob": (
            {"Density", "Invert the flow"}, lambda: small.log_prob(few.mean[:4])
        ),
        "LatentFlow.sample": ({"Sample"}, lambda: LatentFlow((8,), width=8).sample(3000)),
        "invert": ({"Invert"}, lambda: invert(decoder, x, steps=3)),
        "complete": ({"Descend"}, lambda: latentctl.condition(decoder, critic).complete(
            x, torch.ones(4, 4).tril(), count=2, steps=3
        )),
        "Updater": ({"Walk"}, lambda: Updater((8,), few.names, width=8, steps=3)(
            few.mean, torch.ones(1, 3)
        )),
        "Ascent": ({"Ascend"}, lambda: Ascent(critic, steps=3)(few.mean, torch.ones(1, 3))),
        "Transport": ({"Transport"}, lambda: Transport(critic, steps=3)(
            few.mean, torch.ones(1, 3)
        )),
        "PixelCritic.score": ({"Score"}, lambda: pixels.score(few.mean, batch_size=16)),
        "PixelCritic.calibrate": ({"Score"}, lambda: pixels.score_samples(x, batch_size=2)),
        "Decoder.decode": ({"Decode"}, lambda: decoder.decode(few.mean, batch_size=16)),
        "Decoder.encode": ({"Encode"}, lambda: decoder.encode(x, batch_size=2)),
    }  # fmt: skip


def test_every_long_function_shows_its_bars_and_hides_them_on_request(
    model, few, tmp_path, shown, monkeypatch
):
    decoder = toy_decoder(model)
    monkeypatch.setitem(REFRESH, "max_train_steps", 3)
    table = jobs(decoder, few, tmp_path)
    for name, (titles, job) in table.items():
        assert shown(job) == titles, name
    silent = [name for name, (_, job) in table.items() if job.__code__.co_flags & 8]
    assert len(silent) == 15
    for name in silent:
        job = table[name][1]
        assert not shown(lambda job=job: job(progress=False)), name
    monkeypatch.setenv("LATENTCTL_PROGRESS", "0")
    for name in ("Decoder.decode", "explore"):
        assert not shown(table[name][1]), name


def test_only_the_outermost_bar_is_shown(shown):
    def nested():
        for _ in track(range(3), "Outer", "unit"):
            with progress_bar(2, "Inner", "unit") as bar:
                bar.update(2)
        for _ in track([1, 2], "Left early", "unit"):
            break
        with pytest.raises(ZeroDivisionError):
            [1 / 0 for _ in track([1, 2], "Failed", "unit")]
        list(track([1, 2], "Last", "unit"))

    assert shown(nested) == {"Outer", "Left early", "Failed", "Last"}
    assert not shown(lambda: [list(track([1, 2], "Inner", "u")) for _ in
                              track([1, 2], "Outer", "u", progress=False)])  # fmt: skip


def test_short_work_and_other_processes_show_nothing(shown, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 60.0)
    assert not shown(lambda: list(track(range(5), "Short", "unit")))
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setenv("RANK", "1")
    assert not shown(lambda: list(track(range(5), "Other", "unit")))
    monkeypatch.setenv("RANK", "0")
    assert shown(lambda: list(track(range(5), "Main", "unit"))) == {"Main"}

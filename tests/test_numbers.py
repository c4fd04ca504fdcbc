"""Seeds, names, expressions and scales that would be misread in silence."""

from __future__ import annotations

import math
import os
import string

import numpy as np
import pytest
import torch
from conftest import NAMES, QUICK, toy_latents

from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    FlowMatching,
    Latents,
    RealismCritic,
    Updater,
    condition,
)
from latentctl.controllers import Transport
from latentctl.critics import PixelCritic, RewardCritic
from latentctl.critics.expression import parse
from latentctl.errors import InputError, UnknownNameError
from latentctl.evaluation.laws import check_controller
from latentctl.random import generator, noise, permutation, seeded

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
NO_SEEDS = (0.9, 1.0, -0.5, math.nan, "0", None, [0], torch.tensor(0.5), np.float32(3), 1j)


def test_a_seed_that_is_no_whole_number_is_refused(decoder, latents):
    faces = condition(decoder, AttributeCritic((8,), NAMES, width=8))
    x, tried = torch.rand(1, 3, 4, 4), 0
    for seed in NO_SEEDS:
        for call in (
            lambda s: generator(s),
            lambda s: noise(0, 2, (3,), seed=s),
            lambda s: permutation(4, seed=s, epoch=0),
            lambda s: seeded(s).__enter__(),
            lambda s: decoder.prior.sample(2, seed=s),
            lambda s: faces.sample(2, seed=s),
            lambda s: faces.complete(x, torch.arange(4) < 2, seed=s, steps=1),
            lambda s: AttributeCritic.fit(latents, seed=s, max_train_steps=1, **QUICK),
            lambda s: FlowMatching.fit(latents, seed=s, max_train_steps=1, **QUICK),
        ):
            with pytest.raises(InputError, match="must be a whole number"):
                call(seed)
            tried += 1
    print(f"{tried} seeds that are none: 0 taken")
    assert tried == 90
    same = [noise(0, 2, (3,), seed=s) for s in (7, np.int64(7), torch.tensor(7))]
    assert all(torch.equal(part, same[0]) for part in same)


def test_one_text_is_one_name_everywhere(decoder, latents):
    for make in (
        lambda names: AttributeCritic((8,), names),
        lambda names: RewardCritic((8,), names),
        lambda names: Actor((8,), names),
        lambda names: FlowMatching((8,), names),
        lambda names: Updater((8,), names),
        lambda names: PixelCritic(decoder, lambda x: x.mean((2, 3)), names=names),
        lambda names: RealismCritic((8,), names),
    ):
        made = make("Male")
        assert getattr(made, "context_names", made.names) == ("Male",)
        if isinstance(made, AttributeCritic):
            assert made(torch.zeros(2, 8)).shape == (2, 1)
        for names, words in (
            (["Male", "Male"], "must be unique"),
            (["Male", 3], "found 3"),
            (["Male", ""], "found ''"),
        ):
            with pytest.raises(InputError, match=words):
                make(names)
    assert latents.select("Male").names == ("Male",)


def test_an_expression_is_read_whole_or_refused():
    critic = AttributeCritic((8,), NAMES, width=8)
    rng, refused, z = np.random.default_rng(SEED), 0, torch.zeros(1, 8)
    for text in ("Smiling # & ~Male", "Smiling#", "# Smiling", "(Smiling # |\n Male)"):
        with pytest.raises(InputError, match="character"):
            parse(text, critic)
    letters = [*NAMES, *"&|~()# '\"", *string.punctuation, "and", "or", "not", "\\", "\n", "\x00"]
    count = 1000
    for _ in range(count):
        words = ["(", "Smiling", "&", "~", "Male", ")", "|", "not", "Hat"]
        for _ in range(rng.integers(1, 4)):
            words[rng.integers(len(words))] = str(rng.choice([*letters, "", "", ""]))
        text = " ".join(words)
        try:
            found = parse(text, critic)
        except (InputError, UnknownNameError):
            refused += 1
            continue
        named = {name for name in NAMES if name in text.replace("'", " ").replace('"', " ")}
        assert found.attributes == named, text
        assert bool(torch.isfinite(found(z)).all())
    print(f"{count} random expressions: {refused} refused, the others read whole")
    assert refused > count / 2


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e-3, 1.0, 1e6])
def test_a_critic_learns_at_any_scale_of_the_latents(scale):
    data, new = toy_latents(800, seed=0), toy_latents(200, seed=1)
    steps = {"max_train_steps": 100, "learning_rate": 3e-3, "dropout": 0.0, "progress": False}
    scaled = Latents(scale * data.mean, scale * data.std, data.labels, data.names)
    critic = AttributeCritic.fit(scaled, **steps, **QUICK)
    right = (critic(scale * new.mean) > 0) == (new.labels > 0.5)
    assert right.float().mean() > 0.85


def test_dimensions_that_only_round_are_constant():
    mean = toy_latents(200, seed=0).mean
    mean[:, 5] = 1000 + 1e-5 * mean[:, 5]
    mean[:, 6] = 1e-9 * mean[:, 6]
    critic = AttributeCritic((8,), NAMES, width=8, depth=1)
    critic.net.trunk.standardise(*Latents(mean).moments())
    assert critic.net.trunk.scale[5:7].tolist() == [1.0, 1.0]
    assert bool((critic.net.trunk.scale[:5] < 3).all())


def test_controllers_stay_finite_over_twelve_orders_of_magnitude(held_out):
    with seeded(SEED):
        critic = AttributeCritic((8,), NAMES, width=16)
        kinds = (Actor, FlowMatching, Updater)
        movers = [kind((8,), NAMES, width=16).eval() for kind in kinds]
    movers += [Ascent(critic.eval(), steps=5), Transport(critic, steps=5)]
    rng, tried = np.random.default_rng(SEED), 0
    for mover in movers:
        for _ in range(12):
            scale = 10 ** rng.uniform(-6, 6)
            y = torch.tensor(rng.choice([0.0, 0.5, 1.0, math.nan], (1, 3)), dtype=torch.float32)
            z = scale * held_out.mean[rng.integers(0, 400) :][:8]
            for strength in (0.0, 0.3, 1.0):
                moved = mover(z, y, strength=strength)
                assert bool(torch.isfinite(moved).all()), (type(mover), scale, y)
                assert strength or torch.equal(moved, z)
                tried += 1
        check_controller(mover, held_out.mean[:4], torch.tensor([[1.0, math.nan, 0.0]]))
    print(f"{tried} moves of latents at scales from 1e-6 to 1e6, all finite")
    assert tried == 36 * len(movers)

"""The mean of critics."""

from __future__ import annotations

import pytest
import torch

from latentctl import AttributeCritic
from latentctl.critics import MeanCritic
from latentctl.errors import InputError
from latentctl.random import noise

Z = noise(0, 5, (4,), seed=0)


def critic(*names, shape=(4,)):
    return AttributeCritic(shape, names, width=8).eval()


def test_log_odds_are_averaged():
    one, two = critic("Smiling", "Male"), critic("Smiling", "Male")
    two.ties = [("Smiling", "Male")]
    mean = MeanCritic(two, one)
    assert torch.allclose(mean(Z), (one(Z) + two(Z)) / 2)
    assert mean.names == one.names and mean.ties == two.ties
    assert torch.equal(mean.posterior_std, two.posterior_std)


@pytest.mark.parametrize(
    "others",
    [(), (critic("Male", "Smiling"),), (critic("Smiling", "Male", shape=(3,)),)],
    ids=["none", "another order", "other latents"],
)
def test_others_are_refused(others):
    mine = [critic("Smiling", "Male")] if others else []
    with pytest.raises(InputError, match="same attributes"):
        MeanCritic(*mine, *others)

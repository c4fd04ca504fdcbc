"""Edits by a rule: small changes, scored by the rule itself."""

from __future__ import annotations

import pytest
import torch

import latentctl
from latentctl import RewardCritic
from latentctl.errors import InputError, UnknownNameError
from latentctl.random import generator
from latentctl.rewards import CountedRewards, prior_rewards
from latentctl.rewards.edit import edit_by_rule

WIDE = 4


def round_off(z):
    """A decoder of whole numbers, without a gradient."""
    return (2 * z).round().long()


@pytest.fixture(scope="module")
def decoder():
    return latentctl.wrap((lambda x: x.float() / 2, round_off), latent_shape=(WIDE,))


def positive(x):
    return (x > 0).float().mean(1)


def small(x):
    return (x.abs() <= 2).float().mean(1)


RULES = {"positive": positive, "small": small}
SHORT = {"steps": 1, "step_length": 0.2}  # too short for most


@pytest.fixture(scope="module")
def critic(decoder):
    latents = prior_rewards(decoder, RULES, 3000, seed=1)
    return RewardCritic.fit(latents, width=64, depth=2, max_train_steps=300)


@pytest.fixture
def x():
    return round_off(torch.randn(200, WIDE, generator=generator(3)))


def test_the_rules_are_kept_and_little_changes(decoder, critic, x):
    out = edit_by_rule(decoder, critic, RULES, x, rules=["positive"])
    assert out.satisfied.float().mean() > 0.95
    assert torch.equal(out.satisfied, positive(out.x) == 1)
    assert torch.equal(out.rewards[:, 0], positive(out.x))
    had_to = (x <= 0).sum(1)
    changed = (out.x != x).sum(1)
    done = out.satisfied & (had_to > 0)
    assert bool((changed >= had_to)[done].all())
    assert (changed - had_to)[done].float().median() <= 1
    both = edit_by_rule(decoder, critic, RULES, x)
    assert bool((small(both.x) == 1)[both.satisfied].all())
    assert both.satisfied.float().mean() > 0.8


def test_an_input_that_keeps_the_rule_is_unchanged(decoder, critic):
    x = torch.ones(5, WIDE, dtype=torch.long)
    rewards = CountedRewards(RULES)
    out = edit_by_rule(decoder, critic, rewards, x)
    assert torch.equal(out.x, x)
    assert bool(out.satisfied.all())
    assert out.calls == rewards.calls == 1  # five times the same content
    assert not out.steps.any()


def test_a_failed_edit_returns_the_best_sample(decoder, critic, x):
    out = edit_by_rule(decoder, critic, RULES, x, rules=["positive"], restarts=0, **SHORT)
    assert not bool(out.satisfied.all()) and set(out.found_by) <= {"input", "descent"}
    assert bool((out.rewards[:, 0] >= positive(x)).all())
    assert torch.equal(out.rewards[:, 0], positive(out.x))


def test_inputs_that_fail_are_started_again_and_searched_for(decoder, critic, x):
    x, before = x[:40], {key: value.clone() for key, value in critic.state_dict().items()}
    first = edit_by_rule(decoder, critic, RULES, x, restarts=0, **SHORT)
    out = edit_by_rule(decoder, critic, RULES, x, restarts=1, **SHORT)
    assert all(torch.equal(value, before[key]) for key, value in critic.state_dict().items())
    assert out.satisfied.sum() > first.satisfied.sum() + 5
    assert {"restart", "search"} & set(out.found_by)
    again = edit_by_rule(decoder, critic, RULES, x, restarts=1, **SHORT)
    assert torch.equal(again.x, out.x) and again.found_by == out.found_by
    early = [how in ("input", "descent") for how in out.found_by]
    done = first.satisfied & torch.tensor(early)
    assert torch.equal(out.x[done], first.x[done]), "what the descent found is not changed"
    changed, had_to = (out.x != x).sum(1), ((x <= 0) | (x.abs() > 2)).sum(1)
    assert (changed - had_to)[out.satisfied].float().mean() < 1


def test_the_budget_ends_the_edits(decoder, critic, x):
    rewards = CountedRewards(RULES, max_calls=250)
    out = edit_by_rule(decoder, critic, rewards, x)
    assert rewards.calls == out.calls == 250
    kept = (positive(out.x) == 1) & (small(out.x) == 1)
    assert torch.equal(out.satisfied, kept)
    short = edit_by_rule(decoder, critic, CountedRewards(RULES, max_calls=50), x)
    assert bool(torch.isnan(short.rewards[150:]).all())
    assert not bool(short.satisfied[150:].any())


def test_a_rule_that_raises_is_no_kept_rule(decoder, critic, x):
    def failing(sample):
        if sample[0] < 0:
            raise ValueError("negative")
        return positive(sample[None])[0]

    out = edit_by_rule(decoder, critic, CountedRewards({"positive": failing}), x)
    assert not bool(out.satisfied[torch.isnan(out.rewards[:, 0])].any())
    assert bool((positive(out.x) == 1)[out.satisfied].all())


def test_bad_input_is_refused(decoder, critic, x):
    with pytest.raises(UnknownNameError, match="positive"):
        edit_by_rule(decoder, critic, RULES, x, rules=["positiv"])
    with pytest.raises(UnknownNameError, match="odd"):
        edit_by_rule(decoder, critic, {"odd": positive}, x)
    with pytest.raises(InputError, match="step"):
        edit_by_rule(decoder, critic, RULES, x, steps=0)

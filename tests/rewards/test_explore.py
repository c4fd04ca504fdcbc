"""Reward critics, and actors for rules, on dice.

A latent of eight numbers decodes to eight dice, 0 ... 5, by rounding, without a gradient. `low` is
the share of the first four that show 2 or less, `high` the sum of the others over 14.
"""

from __future__ import annotations

import logging
import math

import pytest
import torch
from conftest import QUICK
from torch import nn

import latentctl
from latentctl.controllers import Ascent
from latentctl.critics import RealismCritic, RewardCritic
from latentctl.critics.reward import satisfied
from latentctl.decoder import Decoder
from latentctl.errors import FingerprintError, InputError
from latentctl.evaluation.laws import check_controller, check_critic
from latentctl.latents import Latents
from latentctl.rewards import CountedRewards, prior_rewards
from latentctl.rewards.explore import explore
from latentctl.rewards.game import RuleGame
from latentctl.training import Step

NAN = torch.nan
SMALL = {"width": 64, "depth": 2, "batch_size": 64}
ROUNDS = 8


class Dice(nn.Module):
    """Eight dice; each depends on two latents, so that neighbours are correlated."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mix", torch.eye(8) + 0.5 * torch.eye(8).roll(1, 0))

    def forward(self, z):
        return (2.5 + 1.3 * (z @ self.mix)).round().clamp(0, 5).long()


def low(x):
    return (x[:, :4] <= 2).float().mean(1)


def high(x):
    return (x[:, 4:].sum(1) / 14).clamp(max=1)


RULES = {"low": low, "high": high}


@pytest.fixture(scope="module")
def dice():
    return Decoder(
        Dice(),
        lambda m, z: m(z),
        latent_shape=(8,),
        sample_shape=(8,),
        value_range=None,
        differentiable=False,
        name="dice",
    )


@pytest.fixture(scope="module")
def scored(dice):
    return prior_rewards(dice, RULES, 3000)


@pytest.fixture(scope="module")
def critic(scored):
    return RewardCritic.fit(scored, max_train_steps=300, **SMALL)


@pytest.fixture(scope="module")
def found(dice):
    return explore(
        dice,
        RULES,
        rounds=ROUNDS,
        prior_samples=1500,
        moves=300,
        first_steps=200,
        train_steps=120,
        **SMALL,
    )


# the critic


def test_both_heads_predict_the_rewards(dice, scored, critic):
    fresh = prior_rewards(dice, RULES, 2000, seed=1)
    with torch.no_grad():
        mean, kept = critic.reward(fresh.mean), critic.probability(fresh.mean)
    assert (mean.mean(0) - fresh.labels.mean(0)).abs().max() < 0.03
    assert (kept.mean(0) - satisfied(fresh.labels).mean(0)).abs().max() < 0.03
    error = (mean - fresh.labels).square().mean(0)
    assert (error < 0.6 * fresh.labels.var(0)).all(), "better than a constant"
    assert kept.shape == mean.shape == (2000, 2)


def test_satisfied_is_a_reward_of_exactly_one():
    rewards = torch.tensor([[1.0, 0.999], [NAN, 0.0]])
    assert torch.equal(satisfied(rewards).nan_to_num(-1), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))


def test_a_reward_critic_is_a_critic(critic):
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    check_critic(critic["low"] & ~critic["high"], z)
    check_critic(critic.match(torch.tensor([[1.0, NAN]])), z)
    assert torch.equal(critic["high"](z), critic(z)[:, 1:])


def test_samples_without_a_reward_are_left_out(scored):
    labels = scored.labels.clone()
    labels[::2] = NAN
    z = scored.mean.clone()
    z[::2] += 100.0
    holes = Latents(z, labels=labels, names=scored.names)
    critic = RewardCritic((8,), scored.names, width=16)
    step = Step(0, 0, 0, len(z), len(z))
    rest = Latents(z[1::2], labels=labels[1::2], names=scored.names)
    loss, parts = critic.loss(holes, step)
    of_rest = critic.loss(rest, Step(0, 0, 0, len(rest), len(rest)))[0]
    torch.testing.assert_close(loss, of_rest * len(rest) / len(z))  # a mean over all rows
    assert torch.isfinite(parts["kept"]) and torch.isfinite(parts["mean"])


def test_a_critic_without_rewards_is_refused(scored):
    short = {"max_train_steps": 3, **QUICK}
    with pytest.raises(InputError, match="prior_rewards"):
        RewardCritic.fit(Latents(scored.mean), **short)
    empty = scored.with_labels(torch.full_like(scored.labels, NAN), scored.names)
    with pytest.raises(InputError, match="failed for all"):
        RewardCritic.fit(empty, **short)


# rounds


def truth(dice, z):
    return CountedRewards(RULES)(dice.decode(z))


@torch.no_grad()
def test_one_actor_reaches_the_rules_alone_and_together(dice, found):
    z = dice.prior.sample(1000, seed=7)
    before = truth(dice, z)
    prior = satisfied(before).mean(0)
    assert (prior < 0.2).all() and satisfied(before).all(1).float().mean() < 0.05
    for y in ([1.0, NAN], [NAN, 1.0], [1.0, 1.0]):
        moved = found.actor(z, torch.tensor([y]))
        after = truth(dice, moved)
        distinct = len(torch.unique(dice.decode(moved), dim=0))
        assert distinct > 500, "no collapse"
        requested = torch.tensor(y) == 1
        kept = satisfied(after)[:, requested].all(1).float().mean()
        assert kept > 0.85, (y, kept)
        change = (after[:, ~requested].mean(0) - before[:, ~requested].mean(0)).abs()
        assert (change < 0.12 * before[:, ~requested].mean(0)).all(), (y, change)
    check_controller(found.actor, z[:5], torch.tensor([[1.0, NAN]]))


def test_the_record_of_the_rounds_is_of_true_rewards(dice, found):
    first, last = found.rounds[0], found.rounds[-1]
    assert [line.number for line in found.rounds] == list(range(ROUNDS + 1))
    assert first.calls <= 1500 and last.calls == found.rewards.calls <= 1500 + ROUNDS * 300
    assert len(found.latents) == 1500 + ROUNDS * 300
    labels = found.latents.labels[:1500]
    for k, name in enumerate(RULES):
        assert first.reward[name] == pytest.approx(labels[:, k].mean().item(), abs=1e-5)
        assert last.satisfied[name] > 0.6 > 0.2 > first.satisfied[name]
        assert abs(last.expected[name] - last.satisfied[name]) < 0.25
    assert math.isnan(first.realism) and 0 < last.realism < 1
    assert 0 < last.distinct <= 1 and last.shift > 0
    torch.testing.assert_close(truth(dice, found.latents.mean), found.latents.labels)


def test_a_conditional_of_rules(dice, found):
    rolls = latentctl.condition(dice, found.critic, found.actor, threshold=0.8)
    out = rolls.sample(200, low=True, high=True)
    assert out.satisfied.float().mean() > 0.5 and out.probability.shape == (200, 2)
    climbed = latentctl.condition(dice, found.critic, threshold=0.8).sample(50, low=True)
    kept = satisfied(CountedRewards(RULES)(climbed.x))[:, 0]
    assert kept.mean() > 0.4, "the default controller climbs the same critic"


def test_a_pack_holds_a_reward_critic(dice, found, tmp_path):
    rolls = latentctl.condition(dice, found.critic, found.actor)
    rolls.save_pretrained(tmp_path / "pack")
    again = latentctl.Conditional.from_pretrained(tmp_path / "pack", dice)
    assert isinstance(again.critic, RewardCritic)
    assert torch.equal(again.sample(5, low=True).z, rolls.sample(5, low=True).z)
    z = dice.prior.sample(5)
    assert torch.equal(again.critic.reward(z), found.critic.reward(z))
    other = Dice()
    other.mix += 1
    another = Decoder(other, lambda m, z: m(z), latent_shape=(8,), sample_shape=(8,))
    with pytest.raises(FingerprintError):
        latentctl.Conditional.from_pretrained(tmp_path / "pack", another)


TINY = {"rounds": 2, "prior_samples": 90, "moves": 30, "first_steps": 2, "train_steps": 4, **SMALL}


def test_the_same_seed_finds_the_same(dice):
    one, other = explore(dice, RULES, **TINY), explore(dice, RULES, **TINY)
    assert torch.equal(one.latents.mean, other.latents.mean)
    assert one.rounds[-1] == other.rounds[-1]
    assert not torch.equal(explore(dice, RULES, seed=1, **TINY).latents.mean, one.latents.mean)


def test_the_rounds_end_with_the_budget(dice, caplog):
    with caplog.at_level(logging.WARNING):
        found = explore(dice, RULES, max_reward_calls=100, **TINY | {"rounds": 9})
    assert found.rewards.calls == 100 and len(found.rounds) < 9
    assert "ended in round" in caplog.text
    assert found.rounds[-1].calls == 100 and found.actor.realism is not None


def test_a_rule_that_no_prior_sample_keeps_is_warned_of(dice, caplog):
    never = {"never": lambda x: 0.4 * low(x), "flat": lambda x: torch.zeros(len(x)), **RULES}
    with caplog.at_level(logging.WARNING):
        found = explore(dice, never, **TINY)
    lines = [record.getMessage() for record in caplog.records]
    warnings = [line for line in lines if "No sample" in line]
    rule = {name: [line for line in warnings if f"'{name}'" in line] for name in never}
    best = (0.4 * low(dice.decode(dice.prior.sample(90)))).max()
    assert f"the best has {best:.3g}" in rule["never"][0] and "request less" in rule["never"][0]
    assert not rule["flat"] and any("'flat'" in line and "no gradient" in line for line in lines)
    assert list(found.given_up) == [("flat",)]
    assert not rule["low"] or "mean" in rule["low"][0]


def test_a_mismatch_of_critic_and_reward_is_warned_of(dice, caplog):
    seen = []

    def decreasing(x):
        seen.extend(x)
        return torch.full((len(x),), float(len(seen) <= 100))  # 1 for the prior only

    with caplog.at_level(logging.WARNING):
        counted = CountedRewards(decreasing, vectorised=True)
        explore(dice, counted, **TINY | {"first_steps": 150, "rounds": 1})
    line = [r.getMessage() for r in caplog.records if "the critic predicts" in r.getMessage()]
    assert line and "'decreasing'" in line[0] and "0.000 do" in line[0]


def test_a_reward_that_raises_does_not_stop_the_rounds(dice, caplog):
    def partial_reward(row):
        if int(row[0]) == 0:
            raise ValueError("no zeros")
        return float((row[:4] <= 2).float().mean())

    found = explore(dice, {"partial": partial_reward}, **TINY)
    assert found.rewards.failed > 0 and "no zeros" in caplog.text
    assert bool(torch.isnan(found.latents.labels).any())


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"moves": 0}, {"prior_samples": 0}])
def test_nothing_to_explore_is_refused(dice, wrong):
    with pytest.raises(InputError, match="at least 1"):
        explore(dice, RULES, **TINY | wrong)
    counted = CountedRewards(RULES, max_calls=5)
    with pytest.raises(InputError, match="own limit"):
        explore(dice, counted, max_reward_calls=5, **TINY)


def test_half_of_the_moves_start_at_encodings_where_there_are_some(dice):
    critic = RewardCritic((8,), ["low"], width=8)
    actor = latentctl.Actor((8,), ["low"], width=8)
    far = Latents(torch.full((10, 8), 50.0))
    game = RuleGame(actor, critic, RealismCritic((8,), width=8), far, dice.prior, far)
    step = Step(0, 0, 0, 400, 400)
    share = (game.starts(step)[:, 0] == 50).float().mean()
    assert 0.4 < share < 0.6
    y = game.requests(step)
    assert set(y.nan_to_num(-1).unique().tolist()) == {-1.0, 0.0, 1.0}
    plain = RuleGame(actor, critic, game.realism, far, dice.prior)
    assert (plain.starts(step) != 50).all()
    loss, logs = plain.actor_loss(far, step)
    assert torch.isfinite(loss) and set(logs) == {
        "requested",
        "held",
        "realism",
        "distance",
        "prior_density",
        "variety",
    }


def test_ascent_climbs_a_reward_critic(dice, critic):
    z = dice.prior.sample(300, seed=5)
    moved = Ascent(critic, steps=60)(z, torch.tensor([[NAN, 1.0]]))
    assert satisfied(truth(dice, moved))[:, 1].mean() > 0.5 > satisfied(truth(dice, z))[:, 1].mean()

"""Rules that no sample keeps, alone or together, are given up with a reason."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from latentctl.decoder import Decoder
from latentctl.errors import InputError
from latentctl.random import generator
from latentctl.rewards import explore
from latentctl.rewards.reach import PATIENCE, Reach
from latentctl.rewards.rounds import difference, spread
from latentctl.rewards.statistics import Statistics

QUICK = {
    "prior_samples": 90,
    "moves": 60,
    "first_steps": 2,
    "train_steps": 6,
    "width": 8,
    "depth": 1,
    "batch_size": 16,
    "progress": False,
}


@pytest.fixture(scope="module")
def plain():
    return Decoder(nn.Identity(), lambda m, z: m(z), latent_shape=(4,), sample_shape=(4,))


def rounds(reach, rewards, count):
    """Rounds with these rewards of moves, of which all request every rule."""
    for _ in range(count):
        reach.see_round(rewards, torch.ones_like(rewards, dtype=torch.bool))


def test_a_rule_whose_reward_no_longer_rises_is_given_up():
    reach = Reach(["forty"])
    reach.see_prior(torch.linspace(0, 0.5, 100)[:, None])
    assert not reach.given_up
    for mean in (0.5, 0.6, 0.7):
        rounds(reach, torch.full((50, 1), mean), 1)
    rounds(reach, torch.full((50, 1), 0.7), PATIENCE - 1)
    assert not reach.given_up, "it rose within the last rounds"
    rounds(reach, torch.full((50, 1), 0.7), 1)
    assert reach.nothing_left and "None of 500 samples keeps 'forty'" in reach.reasons["forty",]


def test_a_rule_that_one_sample_keeps_is_never_given_up():
    reach = Reach(["rare"])
    prior = torch.zeros(100, 1)
    prior[3] = 1
    reach.see_prior(prior)
    rounds(reach, torch.zeros(50, 1), 3 * PATIENCE)
    assert not reach.given_up


def test_rules_without_a_gradient_are_given_up_at_once():
    reach = Reach(["flat", "always"])
    reach.see_prior(torch.tensor([[0.0, 1.0]]).expand(50, 2))
    assert list(reach.given_up) == [(0,)] and "no gradient" in reach.reasons["flat",]


def test_rules_that_contradict_each_other_are_given_up_together():
    reach = Reach(["low", "high", "free"])
    either = torch.tensor([[1.0, 0.2, 1.0], [0.2, 1.0, 1.0]]).repeat(30, 1)
    asked = (either == 1) & torch.tensor([True, True, False])
    alternately = torch.cat([either, either])
    both = torch.tensor([[True, True, False]]).expand(60, 3)
    for _ in range(PATIENCE + 1):
        reach.see_round(alternately, torch.cat([asked, both]))
    assert list(reach.reasons) == [("low", "high")]
    assert "contradict" in reach.reasons["low", "high"] and not reach.nothing_left


def test_what_is_given_up_is_not_requested(plain):
    from latentctl import Actor, RewardCritic
    from latentctl.critics import RealismCritic
    from latentctl.latents import Latents
    from latentctl.rewards.game import RuleGame
    from latentctl.training import Step

    names = ["a", "b", "c"]
    actor, critic = (kind((4,), names, width=8) for kind in (Actor, RewardCritic))
    given_up: dict[tuple[int, ...], str] = {}
    real = Latents(torch.zeros(10, 4))
    game = RuleGame(
        actor, critic, RealismCritic((4,), width=8), real, plain.prior, given_up=given_up
    )
    step = Step(0, 0, 0, 401, 401)
    y = game.requests(step)
    assert torch.equal(y[0:400:2].nan_to_num(-1), y[1:400:2].nan_to_num(-1)), "in pairs"
    assert (y[:, :2] == 1).all(1).any()
    given_up[0, 1] = "they contradict each other"
    given_up[2,] = "it is impossible"
    y = game.requests(step)
    assert not (y[:, :2] == 1).all(1).any() and not (y[:, 2] == 1).any()
    assert (y[:, 0] == 1).any() and (y[:, 1] == 1).any(), "which one is freed varies"


def test_moves_to_one_place_cost(plain):
    from latentctl.rewards.game import _gaps

    z = torch.randn(9, 4, generator=generator(0))
    assert _gaps(z).shape == (4,)
    torch.testing.assert_close(_gaps(z), _gaps(z + 3))
    assert (_gaps(z.new_zeros(8, 4)) == 0).all()


def test_an_exploration_ends_where_nothing_is_left(plain, caplog):
    with caplog.at_level(logging.WARNING):
        found = explore(plain, {"never": lambda x: torch.zeros(len(x))}, rounds=9, **QUICK)
    assert len(found.rounds) == 1 and found.best == 0
    assert "no gradient" in found.given_up["never",] and "rounds end" in caplog.text
    z = plain.prior.sample(3)
    assert found.actor(z, torch.ones(1, 1)).shape == z.shape


def test_the_best_round_is_returned_and_a_collapse_is_warned_of(plain, caplog):
    with caplog.at_level(logging.WARNING):
        found = explore(plain, {"up": lambda x: (x > 1).float().mean(1)}, rounds=3, **QUICK)
    scores = [line.score for line in found.rounds[1:]]
    assert found.rounds[found.best].score == max(scores)
    assert all(0 <= line.kept <= 1 and line.variety > 0 for line in found.rounds[1:])
    # one of four samples
    coarse = {"up": lambda x: (x > 1).float().mean(1)}
    step = Decoder(
        nn.Identity(), lambda m, z: (m(z)[:, :1] > 0).long(), latent_shape=(4,), sample_shape=(1,)
    )
    with caplog.at_level(logging.WARNING):
        explore(step, coarse, rounds=1, **QUICK)
    assert "are alike" in caplog.text or "No rule is left" in caplog.text


def test_the_difference_of_samples():
    a, b = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 0, 0]])
    assert difference(a, b).tolist() == [0.5]
    assert difference(a.float(), a.float() + 2).tolist() == [2.0]
    assert spread(torch.cat([a, b, a])) == 0.5 and spread(a) == 0.0


def test_statistics_of_tokens_and_of_numbers():
    tokens = torch.tensor([[7, 7, 7, 1], [7, 7, 1, 1], [7, 1, 1, 1]]).repeat(4, 1)
    held = Statistics(tokens)
    assert held.symbols.tolist() == [1, 7] and held(tokens).shape == (12, 2)
    torch.testing.assert_close(held(tokens).mean(0), torch.full((2,), 0.5))
    rare, often = held(torch.full((1, 4), 7))[0]
    assert rare < 0.2 and often > 0.8
    images = torch.rand(20, 3, 4, 4, generator=generator(0))
    assert Statistics(images)(images[:5]).shape == (5, 6)
    assert len(Statistics(torch.zeros(5, 3, 4))) == 0, "what is constant is left out"


def test_a_critic_of_some_of_its_rules():
    from latentctl import RewardCritic

    critic = RewardCritic((4,), ["a", "b", "c"], width=8)
    z = torch.randn(5, 4, generator=generator(0))
    some = critic.select(["c", "a"])
    assert some.names == ("c", "a")
    for mine, every in zip(some.heads(z), critic.heads(z), strict=True):
        torch.testing.assert_close(mine, every[:, [2, 0]])


def test_a_negative_number_of_restarts_is_refused(plain):
    from latentctl import RewardCritic, edit_by_rule

    with pytest.raises(InputError, match="restarts"):
        edit_by_rule(
            plain, RewardCritic((4,), ["r"], width=8), lambda x: x, torch.zeros(1, 4), restarts=-1
        )

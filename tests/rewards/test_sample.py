"""Samples by rule: rejection, chains for rare rules, their distribution, budgets and sentences."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

import latentctl
from latentctl.decoder import Decoder, Gaussian
from latentctl.errors import InputError, UnknownNameError
from latentctl.priors import GaussianMixture
from latentctl.rewards import CountedRewards, sample_by_rule

TAIL = 3.2  # standard deviations: one sample of the prior in 1,450


@pytest.fixture(scope="module")
def plain():
    return Decoder(nn.Identity(), lambda m, z: m(z), latent_shape=(4,), sample_shape=(4,))


def direction(x):
    return x.sum(1) / 2  # a standard normal number


def positive(x):
    return (direction(x) > 0).float()


def tail(x):
    return (direction(x) / TAIL).clamp(0, 1)


def quiet(decoder, rewards, n, **options):
    return sample_by_rule(decoder, rewards, n, progress=False, **options)


def test_samples_of_the_prior_are_taken_where_enough_keep_the_rule(plain):
    found = quiet(plain, {"positive": positive}, 300)
    prior = plain.prior.sample(2000, seed=0)
    assert torch.equal(found.z, prior[positive(prior) == 1][:300])
    assert bool(found.satisfied.all()) and found.correlation == 0 and found.distinct == 1
    assert found.calls < 1000 and abs(found.share - 0.5) < 0.1 and found.given_up == ""
    assert torch.equal(found.x, found.z) and bool((found.rewards == 1).all())


def test_chains_have_the_distribution_of_the_prior_given_a_rare_rule(plain):
    found = quiet(plain, {"tail": tail}, 1000)
    assert bool(found.satisfied.all()) and found.share < 0.005 and 0 < found.correlation < 0.6
    along = direction(found.z)
    mean = math.exp(-(TAIL**2) / 2) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(TAIL / 2**0.5))
    assert abs(along.mean() - mean) < 0.03, "of the tail of a normal distribution"
    across = found.z - along[:, None] / 2
    assert across.mean(0).abs().max() < 0.15, "the rule says nothing across"
    assert (across.square().sum(1).mean() - 3).abs() < 0.3
    assert found.distinct > 0.98


def test_a_prior_that_is_no_gaussian_keeps_its_modes(plain):
    means = torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 0, 0]])
    two = GaussianMixture((4,), torch.ones(2) / 2, means, 0.5 * torch.eye(4).expand(2, 4, 4))
    rule = {"far": lambda x: (x[:, 1] / 1.5).clamp(0, 1)}
    found = quiet(plain, rule, 600, prior=two)
    assert bool(found.satisfied.all())
    assert 0.3 < (found.z[:, 0] > 0).float().mean() < 0.7
    assert (found.z[:, 0].abs() - 3).mean().abs() < 0.15
    assert (found.z[:, 2].std() - 0.5).abs() < 0.1


def test_chains_walk_in_the_noise_of_a_flow(plain):
    class Cubed:
        """z = e^3, whose density has a pole at zero."""

        def sample(self, count, *, seed=0, start=0):
            return self.from_base(Gaussian((4,)).sample(count, seed=seed, start=start))

        def from_base(self, e):
            return e**3

    found = quiet(plain, {"tail": lambda x: (x[:, 0] / 30).clamp(0, 1)}, 300, prior=Cubed())
    assert bool(found.satisfied.all()) and found.share < 0.01 and found.correlation > 0
    others = found.z[:, 1:].sign() * found.z[:, 1:].abs() ** (1 / 3)
    assert (others.std(0) - 1).abs().max() < 0.25


def test_equal_seeds_give_equal_samples(plain):
    one, other = (quiet(plain, {"tail": tail}, 50, evaluations=20) for _ in range(2))
    assert torch.equal(one.z, other.z) and one.calls == other.calls
    assert not torch.equal(quiet(plain, {"tail": tail}, 50, evaluations=20, seed=1).z, one.z)


def test_what_cannot_be_kept_is_given_up_early_with_a_sentence(plain, caplog):
    rules = {
        "up": lambda x: (x[:, 0] / 2).clamp(0, 1),
        "down": lambda x: (-x[:, 0] / 2).clamp(0, 1),
    }
    with caplog.at_level(logging.WARNING):
        found = quiet(plain, rules, 20, evaluations=1000)
    assert "keeps 'up' and 'down': the best has a mean reward of 0.5" in found.given_up
    assert found.given_up in caplog.text and not found.satisfied.any()
    assert found.calls < 20_000 and found.x.shape == (20, 4)


def test_only_what_is_requested_has_to_be_kept(plain):
    rules = {"positive": positive, "tail": tail}
    found = quiet(plain, rules, 40, rules="positive")
    assert found.names == ("positive", "tail") and found.rewards.shape == (40, 2)
    assert bool(found.satisfied.all()) and found.rewards[:, 1].min() < 1


def test_the_calls_of_the_rules_are_limited(plain, caplog):
    counted = CountedRewards({"tail": tail}, max_calls=3000)
    with caplog.at_level(logging.WARNING):
        found = quiet(plain, counted, 50)
    assert counted.calls == found.calls == 3000 and len(found.x) == 50
    counted = CountedRewards({"positive": positive}, max_calls=30)
    assert 5 < quiet(plain, counted, 50).satisfied.sum() < 25 and "of 30 samples" in caplog.text


def test_without_a_call_left_there_is_no_answer(plain):
    counted = CountedRewards({"positive": positive}, max_calls=30)
    quiet(plain, counted, 30)
    with pytest.raises(InputError, match="the 30 calls had ended"):
        quiet(plain, counted, 30, seed=1)


def test_few_different_samples_are_warned_of(caplog):
    coarse = Decoder(
        nn.Identity(), lambda m, z: (m(z) > 0).float(), latent_shape=(4,), sample_shape=(4,)
    )
    with caplog.at_level(logging.WARNING):
        found = quiet(coarse, {"all": lambda x: x.mean(1)}, 10)
    assert found.distinct == pytest.approx(0.1) and "0.100 of the samples differ" in caplog.text


def test_a_sample_without_a_reward_is_never_taken(plain):
    def fails(x):
        if x[0] < 0:
            raise ValueError("negative")
        return float(x[0] > 0.5)

    found = quiet(plain, CountedRewards({"fails": fails}, vectorised=False), 30)
    assert bool((found.z[:, 0] > 0.5).all())


def test_wrong_requests_are_refused(plain):
    with pytest.raises(InputError, match="at least one rule, one sample"):
        quiet(plain, {"tail": tail}, 0)
    with pytest.raises(InputError, match="found 0, 5 and 100"):
        quiet(plain, {"tail": tail}, 5, rules=[])
    with pytest.raises(UnknownNameError, match="tial"):
        quiet(plain, {"tail": tail}, 5, rules="tial")


def test_the_prior_may_be_another_gaussian(plain):
    shifted = Gaussian((4,), 2.0, 0.5)
    found = quiet(
        plain, {"low": lambda x: (1 - x.mean(1) / 2).clamp(0, 0.6) / 0.6}, 200, prior=shifted
    )
    assert bool(found.satisfied.all()) and (found.z.mean(1) <= 0.8 + 1e-5).all()
    assert (found.z.mean(1).mean() - 0.8).abs() < 0.1


def test_it_is_public():
    assert latentctl.sample_by_rule is sample_by_rule

"""Rewards of melodies; counting, limits and caching of rewards."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latentctl_adapters import melody_rewards as rewards
from latentctl_adapters.melody_rewards import HOLD, REST
from torch import nn

from latentctl.decoder import Decoder, Gaussian
from latentctl.errors import BudgetError, InputError, ShapeError
from latentctl.latents import Latents
from latentctl.random import generator
from latentctl.rewards import CountedRewards, encoding_rewards, prior_rewards

C, D, E, G, C_SHARP = 60, 62, 64, 67, 61
RULES = {
    "c_major": rewards.c_major,
    "dense": partial(rewards.density, notes=5),
    "low": partial(rewards.in_range, low=0, high=71),
    "rising": rewards.contour,
    "falling": partial(rewards.contour, direction=-1),
    "repeats": partial(rewards.repetition, period=4),
    "quarters": partial(rewards.rhythm, pattern=[1, 0, 0, 0]),
}
melodies = st.lists(
    st.lists(st.integers(0, REST), min_size=8, max_size=8), min_size=1, max_size=6
).map(torch.tensor)


def melody(*tokens):
    return torch.tensor([tokens])


@settings(max_examples=60, deadline=None)
@given(x=melodies)
def test_every_rule_scores_each_melody_in_the_unit_interval(x):
    for name, rule in RULES.items():
        whole = rule(x)
        assert whole.shape == (len(x),) and ((whole >= 0) & (whole <= 1)).all(), name
        assert torch.equal(whole, torch.cat([rule(row[None]) for row in x])), name
    both = rewards.product([RULES["c_major"], RULES["dense"]])(x)
    assert torch.equal(both, RULES["c_major"](x) * RULES["dense"](x))


@settings(max_examples=60, deadline=None)
@given(x=melodies)
def test_silence_has_no_reward_and_transposition_does_not_matter(x):
    silent = torch.full_like(x, REST)
    for name in ("c_major", "dense", "low", "rising", "quarters"):
        assert (RULES[name](silent) == 0).all(), name
    notes = x < HOLD
    octave_up = torch.where(notes & (x < 116), x + 12, torch.where(notes, x - 108, x))
    assert torch.equal(rewards.c_major(octave_up), rewards.c_major(x))
    moves = [rewards.contour(x, direction=d) for d in (-1, 0, 1)]
    several = notes.sum(1) > 1
    torch.testing.assert_close(sum(moves), several.float())


def test_the_papers_two_rules_by_hand():
    x = melody(C, HOLD, C_SHARP, D, REST, E, HOLD, HOLD)
    assert rewards.c_major(x).tolist() == [0.75]
    assert rewards.density(x, notes=8).tolist() == [0.5]
    assert rewards.density(x, notes=3).tolist() == [1.0]
    assert rewards.in_scale(x, pitch_classes=rewards.scale(2)).tolist() == [0.75]


def test_range_contour_repetition_and_rhythm_by_hand():
    x = melody(C, HOLD, E, REST, G, D, HOLD, HOLD)
    assert rewards.in_range(x, low=61, high=66).tolist() == [0.5]
    assert rewards.contour(x).tolist() == pytest.approx([2 / 3])
    assert rewards.contour(x, direction=-1).tolist() == pytest.approx([1 / 3])
    assert rewards.repetition(melody(C, D, C, E), period=2).tolist() == [0.5]
    assert rewards.rhythm(x, pattern=[1, 0]).tolist() == pytest.approx([3 / 5])
    assert rewards.rhythm(melody(C, HOLD, C, REST), pattern=[1, 0]).tolist() == [1.0]


def test_scales_are_transpositions_of_the_white_keys():
    assert rewards.scale() == rewards.C_MAJOR == rewards.scale(9, "minor")
    assert rewards.scale(2, "dorian") == rewards.C_MAJOR
    assert rewards.scale(0, "minor") == (0, 2, 3, 5, 7, 8, 10)
    with pytest.raises(InputError, match="phrygian"):
        rewards.scale(0, "blues")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: rewards.c_major(torch.tensor([C, D])), "batch axis"),
        (lambda: rewards.c_major(melody(C, 130)), "found 60 to 130"),
        (lambda: rewards.c_major(torch.rand(2, 4)), "integer tokens"),
        (lambda: rewards.density(melody(C), notes=0), "notes"),
        (lambda: rewards.in_range(melody(C), low=5, high=4), "low"),
        (lambda: rewards.contour(melody(C), direction=2), "direction"),
        (lambda: rewards.repetition(melody(C, D)), "period"),
        (lambda: rewards.rhythm(melody(C, D, E), pattern=[1, 0]), "divides"),
        (lambda: rewards.rhythm(melody(C, D), pattern=[0, 0]), "has a note"),
        (lambda: rewards.product([]), "at least one"),
    ],
)
def test_what_is_no_melody_or_no_rule_is_refused(rule, message):
    with pytest.raises(InputError, match=message):
        rule()


# counting

X = torch.tensor([[0, 1], [2, 2], [4, 5], [7, 7], [8, 9], [10, 10]])


def evens(x):
    return (x % 2 == 0).float().mean(1)


def big(row):
    return float(row.sum()) > 8


def test_a_reward_is_called_once_for_each_content():
    batches = []
    counted = CountedRewards({"evens": lambda x: batches.append(len(x)) or evens(x)})
    found = counted(X[[0, 1, 0, 2]])
    assert torch.equal(found[:, 0], evens(X[[0, 1, 0, 2]]))
    assert (counted.calls, counted.hits, batches[0]) == (3, 1, 3)
    assert set(batches[1:]) <= {1, 2}, "the trial"
    batches.clear()
    assert torch.equal(counted(X[[2, 0]]), found[[3, 0]])
    assert (counted.calls, counted.hits, batches) == (3, 3, [])


def test_a_reward_of_one_sample_and_a_reward_of_a_batch_side_by_side():
    for x in (X, X[:1], X[:2]):
        counted = CountedRewards({"evens": evens, "big": big, "list": lambda x: [1] * len(x)})
        expected = torch.stack([evens(x), (x.sum(1) > 8).float(), torch.ones(len(x))], 1)
        assert torch.equal(counted(x), expected) and counted.calls == len(x)
    assert CountedRewards(evens).names == ("evens",)
    scalar = CountedRewards(lambda x: x.float().mean() / 12, vectorised=False)
    assert torch.allclose(scalar(X)[:, 0], X.float().mean(1) / 12)


def failing(row):
    if int(row[0]) == 4:
        raise RuntimeError("4 is not supported")
    return 1.0


def failing_batch(x):
    if bool((x[:, 0] == 4).any()):
        raise RuntimeError("4 is not supported")
    return torch.ones(len(x))


@pytest.mark.parametrize("reward", [failing, failing_batch])
def test_a_sample_on_which_a_reward_raises_is_reported_counted_and_left_out(reward, caplog):
    counted = CountedRewards({"failing": reward, "evens": evens})
    with caplog.at_level(logging.WARNING):
        found = counted(X)
    assert torch.isnan(found[:, 0]).tolist() == [False, False, True, False, False, False]
    assert not torch.isnan(found[:, 1]).any()
    assert counted.failed == 1 and counted.calls == 6
    assert "1 of 6" in caplog.text and "4 is not supported" in caplog.text
    assert counted.errors == {"'failing': it raised RuntimeError: 4 is not supported": 1}
    counted(X)
    assert counted.failed == 1, "a failure is cached like a result"


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda x: evens(x) + 1.1, r"returned 1.6, which is not in \[0, 1\]"),
        (lambda x: evens(x) - 1.6, r"returned -1.1, which"),
        (lambda x: evens(x) * torch.nan, "returned nan"),
        (lambda row: float("nan"), "returned nan"),
        (lambda x: [1, 0.5], r"of shape \(2,\)"),
        (lambda x: "good", "returned a str"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: x.no_such_thing, "raised AttributeError"),
        (lambda x: torch.ones(len(x), 1), r"of shape \("),
    ],
)
def test_what_is_no_reward_is_an_error(reward, message):
    with pytest.raises(InputError, match=message):
        CountedRewards({"bad": reward})(X)


@pytest.mark.parametrize("given", [{}, 3, {"a": 1}])
def test_what_is_no_function_is_refused(given):
    with pytest.raises(InputError, match="function"):
        CountedRewards(given)


def test_the_budget_ends_with_what_was_found():
    counted = CountedRewards(evens, max_calls=3)
    counted(X[:2])
    with pytest.raises(BudgetError, match="4 samples") as error:
        counted(X[[0, 1, 2, 3, 4, 5, 0]][1:])
    assert torch.equal(error.value.found[:, 0], evens(X[1:3]))
    assert counted.calls == 3 and counted.left == 0
    assert torch.equal(counted(X[:3])[:, 0], evens(X[:3])), "cached rewards cost no call"
    with pytest.raises(InputError, match="max_calls"):
        CountedRewards(evens, max_calls=0)


# labels of the prior


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([10.0, 5.0, 3.0]))

    def forward(self, z):
        return (z * self.scale).round().long()


def tokens_decoder():
    return Decoder(
        Tokens(),
        lambda m, z: m(z),
        latent_shape=(3,),
        sample_shape=(3,),
        value_range=None,
        differentiable=False,
    )


def test_latents_of_the_prior_with_their_rewards():
    decoder = tokens_decoder()
    latents = prior_rewards(decoder, {"evens": evens, "big": big}, 50, batch_size=16, seed=3)
    assert latents.names == ("evens", "big") and latents.std is None
    assert torch.equal(latents.mean, decoder.prior.sample(50, seed=3))
    assert torch.equal(latents.column("evens"), evens(decoder.decode(latents.mean)))
    again = prior_rewards(decoder, {"evens": evens, "big": big}, 50, batch_size=50, seed=3)
    assert torch.equal(again.labels, latents.labels)
    shifted = prior_rewards(decoder, evens, 50, prior=Gaussian((3,), 5.0), seed=3)
    torch.testing.assert_close(shifted.mean, latents.mean + 5)


def test_a_budget_gives_fewer_latents_and_a_warning(caplog):
    counted = CountedRewards(evens, max_calls=20)
    latents = prior_rewards(tokens_decoder(), counted, 100, batch_size=16)
    assert counted.calls == 20 and 20 <= len(latents) < 100
    assert f"{len(latents)} of 100" in caplog.text
    assert torch.equal(latents.mean, Gaussian((3,)).sample(len(latents)))
    assert len(prior_rewards(tokens_decoder(), evens, 100, max_reward_calls=20)) == len(latents)


def test_prior_rewards_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="n is"):
        prior_rewards(tokens_decoder(), evens, 0)
    with pytest.raises(InputError, match="own limit"):
        prior_rewards(tokens_decoder(), CountedRewards(evens), 5, max_reward_calls=3)
    with pytest.raises(InputError, match="raised"):
        prior_rewards(tokens_decoder(), lambda x: 1 / 0, 5)
    spent = CountedRewards(evens, max_calls=1)
    spent(X[:1])
    with pytest.raises(InputError, match="No sample could be scored"):
        prior_rewards(tokens_decoder(), spent, 5)


def test_encodings_with_their_rewards_are_means_and_samples(caplog):
    decoder, counted = tokens_decoder(), CountedRewards(evens)
    mean = 3 * torch.randn(40, 3, generator=generator(1))
    encodings = Latents(mean, torch.full((40, 3), 0.01))
    latents = encoding_rewards(decoder, counted, encodings, 60, seed=2)
    apart = torch.cdist(latents.mean, encodings.mean).amin(1)
    assert len(latents) == 60
    assert (apart == 0).sum() == 30
    assert 0 < apart.max() < 0.1
    assert torch.equal(latents.labels[:, 0], evens(decoder.decode(latents.mean)))
    again = encoding_rewards(decoder, counted, encodings, 60, seed=2)
    assert torch.equal(latents.mean, again.mean)
    few = encoding_rewards(decoder, CountedRewards(evens, max_calls=5), encodings, 60)
    assert len(few) < 60 and "of 60 encodings" in caplog.text
    with pytest.raises(InputError, match="twice the 40"):
        encoding_rewards(decoder, counted, encodings, 81)


def test_shape_error_is_an_input_error_of_a_batch():
    with pytest.raises(ShapeError):
        rewards.onsets(torch.zeros(2, 3, 4, dtype=torch.long))

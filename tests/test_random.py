"""Draws are a function of seed, step, rank, purpose and index alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentctl.random import BLOCK, generator, noise, permutation, seeded


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 100), count=st.integers(0, 50), skip=st.integers(0, 20))
def test_a_sample_has_the_same_noise_in_any_batch(start, count, skip):
    whole = noise(start, count + skip, (2, 3), seed=5)
    assert torch.equal(whole[skip:], noise(start + skip, count, (2, 3), seed=5))
    assert whole.shape == (count + skip, 2, 3) and whole.dtype == torch.float32


def test_no_two_samples_steps_purposes_or_seeds_share_their_noise():
    rows = torch.cat(
        [
            noise(0, 3 * BLOCK, (4,), seed=0),
            noise(0, 1, (4,), seed=1),
            noise(0, 1, (4,), seed=0, step=1),
            noise(0, 1, (4,), seed=0, purpose="other"),
        ]
    )
    assert len(rows.unique(dim=0)) == len(rows)


def test_noise_has_the_documented_distribution():
    normal, uniform = noise(0, 4000, (4,), seed=0), noise(0, 4000, (4,), seed=0, uniform=True)
    assert normal.mean().abs() < 0.03 and (normal.std() - 1).abs() < 0.03
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1
    assert (uniform.mean() - 0.5).abs() < 0.01


def test_draws_elsewhere_have_no_influence():
    before = noise(0, 4, (2,), seed=0)
    torch.manual_seed(123)
    torch.randn(100)
    assert torch.equal(noise(0, 4, (2,), seed=0), before)


@pytest.mark.parametrize("field", ["seed", "step", "rank", "purpose"])
def test_each_field_makes_another_stream(field):
    here = {"seed": 1, "step": 11, "rank": 1, "purpose": "a"}
    there = here | {field: "b" if field == "purpose" else here[field] + 1}
    draws = [torch.randn(4, generator=generator(**place)) for place in (here, here, there)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_fields_are_not_confused_with_one_another():
    assert generator(1, 11).initial_seed() != generator(11, 1).initial_seed()
    assert generator(1, 2, 3).initial_seed() != generator(1, 23).initial_seed()


def test_seeded_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3):
        a = torch.rand(2)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(3):
        assert torch.equal(torch.rand(2), a)
    with seeded(3, "other"):
        assert not torch.equal(torch.rand(2), a)


DRAWS = [
    lambda: torch.nn.GRU(3, 4).weight_hh_l0,
    lambda: torch.nn.init.trunc_normal_(torch.empty(3)),
    lambda: torch.rand(3),
    lambda: torch.randn_like(torch.zeros(3)),
    lambda: torch.randint(10, (5,)),
    lambda: torch.randint(3, 1000, (5,)),
    lambda: torch.randint_like(torch.zeros(5), 1000),
    lambda: torch.randperm(20),
    lambda: torch.multinomial(torch.ones(30), 5),
    lambda: torch.normal(0.0, 1.0, (3,)),
    lambda: torch.distributions.Gamma(1.0, 1.0).sample((3,)),
    lambda: torch.nn.functional.dropout(torch.ones(30)),
]


@pytest.mark.parametrize("number", range(len(DRAWS)))
def test_no_draw_in_a_seeded_block_is_of_the_global_generator(number):
    drawn = []
    for other in (0, 1):
        torch.manual_seed(other)
        with seeded(3):
            drawn.append([DRAWS[number](), DRAWS[number]()])
    (a, b), (c, d) = drawn
    assert torch.equal(a, c) and torch.equal(b, d) and not torch.equal(a, b)


def test_each_epoch_visits_all_samples_in_an_order_of_its_own():
    first, second = (permutation(50, seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(50)) and not torch.equal(first, second)
    assert torch.equal(first, permutation(50, seed=0, epoch=0))

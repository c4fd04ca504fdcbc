"""Points whose small change leads to a goal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentctl.priors.fixed_point import fixed_point
from latentctl.random import noise


@given(st.integers(0, 1000), st.floats(0.1, 6.0))
@settings(max_examples=25, deadline=None)
def test_linear_changes_are_undone_even_where_plain_rounds_run_away(seed, size):
    """Rotations and stretches, with real parts that keep `u + change(u)` invertible."""
    root = noise(0, 5, (5,), seed=seed)
    matrix = size * (root @ root.T / 5 + (root - root.T) / 3)
    truth = noise(0, 4, (5,), seed=seed, purpose="truth")
    goal = truth + truth @ matrix.T
    found, error = fixed_point(lambda u: u @ matrix.T, goal, rounds=40, close=1e-5)
    assert bool((error <= 1e-5).all())
    torch.testing.assert_close(found + found @ matrix.T, goal, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 0.95])
def test_curved_changes_take_few_rounds(scale):
    calls = []

    def change(u):
        calls.append(1)
        return scale * torch.sin(2 * u + u.roll(1, 1)) / 2

    goal = noise(0, 6, (3, 2, 2), seed=0)
    found, error = fixed_point(change, goal, rounds=60, close=2e-6)
    assert bool((error <= 2e-6).all()) and len(calls) < 30
    torch.testing.assert_close(found + change(found), goal, atol=1e-5, rtol=0)


def test_what_is_not_found_is_said():
    goal = torch.tensor([[1.0], [0.0]])
    _, error = fixed_point(lambda u: -u + 3, goal, rounds=10, close=1e-6)  # 3 everywhere
    assert bool((error > 0.1).all())
    _, error = fixed_point(lambda u: u * torch.nan, goal, rounds=5, close=1e-6)
    assert bool((~(error <= 1e-6)).all())

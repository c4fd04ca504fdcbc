"""The measures of the benchmark of one-to-many prediction, on answers that are known."""

from __future__ import annotations

import pytest
import torch

from benchmarks.flows.one_to_many import Case


@pytest.mark.parametrize("name", ["three", "6x16", "uneven", "changing"])
def test_true_answers_in_their_shares_have_no_fault(name):
    case = Case(name)
    x, _ = case.pairs(seed=0)
    x = x[:200]
    draw = torch.Generator().manual_seed(0)
    mode = torch.multinomial(case.shares(x), 200, replacement=True, generator=draw)
    found = case.measure(case.modes(x)[torch.arange(200)[:, None], mode], x)
    assert found["near"] == found["all"] == 1.0
    assert found["share"] < 0.02 and found["ghosts"] == 0.0


def test_means_of_two_modes_are_ghosts_and_one_mode_is_not_all():
    case = Case("changing")
    x = torch.linspace(-1, 1, 50)[:, None]
    modes = case.modes(x)
    between = modes[:, :2].mean(1, keepdim=True).expand(-1, 8, -1)
    found = case.measure(between, x)
    assert found["ghosts"] == 1.0 and found["near"] == found["all"] == 0.0
    first = case.measure(modes[:, :1].expand(-1, 8, -1), x)
    assert first["near"] == 1.0 and first["all"] == 0.0 and first["share"] > 0.5


def test_a_pair_has_one_of_the_answers_of_its_input():
    case = Case("changing")
    x, y = case.pairs(seed=1)
    own = (case.modes(x) - y[:, None]).norm(dim=2).argmin(1)
    assert (own[x[:, 0] > 0] < 2).all() and own.max() == 3

"""Typicality: p-values that are right for N(0, I), and small for patterns that keep the norm."""

from __future__ import annotations

import math

import pytest
import torch

from latentctl.latents import shared_pattern, typicality
from latentctl.random import noise


@pytest.mark.parametrize("shape", [(1, 12, 12), (4, 6, 6), (64,), (3, 8), (2,)])
def test_samples_of_the_prior_are_typical(shape):
    p = typicality(noise(0, 2000, shape, seed=0))
    assert p.shape == (2000,)
    for level in (0.01, 0.05, 0.2):
        assert float((p < level).float().mean()) < level + 3 * math.sqrt(level / 2000)


def at_the_norm(z):
    size = z[0].numel()
    return z * (math.sqrt(size) / z.flatten(1).norm(dim=1)).view(-1, *[1] * (z.ndim - 1))


def smooth(z):
    return sum(z.roll((i, j), (2, 3)) for i in (0, 1) for j in (0, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda z: 1.3 * z,
        lambda z: 0.8 * z,
        lambda z: at_the_norm(z + 0.5),
        lambda z: at_the_norm(smooth(z)),
    ],
)
def test_what_is_not_noise_is_found(change):
    z = noise(0, 50, (1, 16, 16), seed=0)
    assert float((typicality(change(z)) < 0.01).float().mean()) > 0.9


def test_a_pattern_that_all_share_is_found_where_each_is_typical():
    z, pattern = noise(0, 40, (1, 16, 16), seed=0), noise(0, 1, (1, 16, 16), seed=1)
    shared = (z + 0.3 * pattern) / math.sqrt(1.09)
    assert float((typicality(shared) > 0.01).float().mean()) > 0.9
    assert shared_pattern(z) > 0.01 > 1e-6 > shared_pattern(shared)


def test_one_number_has_no_spectrum():
    assert torch.isfinite(typicality(torch.tensor([[0.3], [9.0]]))).all()

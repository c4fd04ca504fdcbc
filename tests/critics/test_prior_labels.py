"""Labels of a generator's own samples, by networks on samples."""

from __future__ import annotations

import pytest
import torch

import latentctl
from latentctl.critics import prior_labels
from latentctl.errors import InputError


def scorer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = torch.nn.Linear(4, 12)
    decoder = latentctl.wrap(generator, decode="forward", value_range=(-9, 9))
    return latentctl.PixelCritic(
        decoder, lambda x: 99 * (x[:, :2] - 0.5), names=["First", "Second"]
    )


def test_labels_are_those_of_what_is_drawn():
    found = prior_labels(scorer(), 70, batch_size=32, seed=3, progress=False)
    decoder = scorer().decoder
    assert torch.equal(found.mean, decoder.prior.sample(70, seed=~3)), "not what seed 3 samples"
    drawn = decoder.decode(found.mean)[:, :2] > 0
    assert torch.equal(found.labels > 0.5, drawn) and found.names == ("First", "Second")


def test_a_critic_is_fitted_without_data():
    latents = prior_labels(scorer(), 600, progress=False)
    critic = latentctl.AttributeCritic.fit(latents, max_train_steps=150, width=32, progress=False)
    fresh = prior_labels(scorer(), 200, seed=1, progress=False)
    right = (critic.probability(fresh.mean) > 0.5) == (fresh.labels > 0.5)
    assert float(right.float().mean()) > 0.9


def test_no_latent_is_refused():
    with pytest.raises(InputError, match="n is the number of latents"):
        prior_labels(scorer(), 0)

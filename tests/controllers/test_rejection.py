"""Rejection sampling: the prior given the request, independent of the batch, and its fall-back."""

from __future__ import annotations

import pytest
import torch
from conftest import Linear

import latentctl
from latentctl.controllers import Ascent, Rejection, Request
from latentctl.decoder import Gaussian
from latentctl.errors import InputError
from latentctl.random import noise

YES = torch.ones(1, 1)


class Named(Linear):
    names = ("Positive",)


def critic(bias=0.0):
    return Named(40 * torch.eye(4)[0], bias).eval()


def start(count, first=0):
    return noise(first, count, (4,), seed=0)


def test_accepted_samples_follow_the_prior_given_the_request():
    z = start(4000)
    move = Rejection(critic()).move(z, Request(target=YES))
    assert bool((move.z[:, 0] > 0).all())
    assert abs(float(move.z[:, 0].mean()) - 0.80) < 0.08  # of a half-normal, a little beyond 0
    assert float(move.z[:, 1:].mean(0).abs().max()) < 0.06
    assert (move.z[:, 1:].std(0) - 1).abs().max() < 0.05
    assert 1.8 < float(move.evaluations.float().mean()) < 2.6
    kept = critic().probability(z)[:, 0] >= 0.95
    assert torch.equal(move.z[kept], z[kept])


def test_a_sample_does_not_depend_on_its_batch():
    whole = Rejection(critic()).move(start(20), Request(target=YES)).z
    request = Request(target=YES, index=torch.arange(15, 20))
    assert torch.equal(Rejection(critic()).move(start(5, 15), request).z, whole[15:])


def test_candidates_come_from_the_prior_of_the_condition():
    prior = Gaussian((4,), mean=torch.tensor([10.0, 5.0, 5.0, 5.0]))
    decoder = latentctl.wrap(torch.nn.Linear(4, 3), decode="forward")
    unlikely = critic(-440.0)  # z0 > 11
    drawn = latentctl.condition(decoder, unlikely, Rejection(unlikely), prior=prior)
    out = drawn.sample(50, Positive=True)
    assert float(out.z.mean(0)[1]) == pytest.approx(5, abs=0.5) and bool(out.satisfied.all())
    assert float(out.evaluations.float().mean()) > 2


def test_without_an_accepted_candidate_the_likeliest_is_moved():
    rare = critic(-400.0)  # z0 > 10
    request = Request(target=YES)
    few = Rejection(rare, candidates=8).move(start(10), request)
    assert few.evaluations.tolist() == [8] * 10
    assert bool((few.z[:, 0] >= start(10)[:, 0]).all()) and not bool((few.z[:, 0] > 10).any())
    climb = Ascent(rare, steps=200, learning_rate=0.2)
    moved = Rejection(rare, otherwise=climb, candidates=8).move(start(10), request)
    assert bool((moved.z[:, 0] > 10).all()) and bool((moved.evaluations > 8).all())


def test_no_candidate_is_refused():
    with pytest.raises(InputError, match="candidates is at least 1"):
        Rejection(critic(), candidates=0)

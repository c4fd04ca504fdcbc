"""Inversion of a decoder without an encoder, and its reported error."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

import latentctl
from latentctl.decoder import Gaussian
from latentctl.decoder.inversion import invert, with_inversion
from latentctl.errors import AdapterError, InputError, ShapeError
from latentctl.evaluation.laws import check_decoder
from latentctl.priors import LatentFlow

QUICK = {"steps": 80, "starts": 2}


class Generator(nn.Module):
    """Pictures in (-1, 1) of six numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ELU(), nn.Linear(32, 48), nn.Tanh())

    def forward(self, z):
        return self.net(z).view(-1, 3, 4, 4)


class Waves(nn.Module):
    """Has many minima: the sine of one number, at eight speeds."""

    def forward(self, z):
        return torch.sin(z * torch.arange(1, 9) * 0.7)


@pytest.fixture
def gan():
    return latentctl.wrap(Generator().train())


def test_own_samples_are_recovered(gan, caplog):
    x = gan.decode(gan.prior.sample(5, seed=1))
    with caplog.at_level(logging.INFO, logger="latentctl.decoder.inversion"):
        found = invert(gan, x)
    assert found.z.shape == (5, 6) and found.errors.shape == (5, 4)
    assert bool((found.error < 0.1 * found.spread).all()) and not bool(found.failed.any())
    torch.testing.assert_close(found.x, gan.decode(found.z))
    error = (found.x - x).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(found.error, error)
    torch.testing.assert_close(found.error, found.errors.amin(1))
    (record,) = caplog.records
    assert record.levelno == logging.INFO and "5 samples were inverted" in record.getMessage()


def test_a_failed_inversion_is_a_warning(gan, caplog):
    checkers = torch.ones(1, 3, 4, 4)
    checkers[..., ::2] = -1
    x = torch.cat([checkers, gan.decode(gan.prior.sample(1, seed=1))])
    with caplog.at_level(logging.INFO, logger="latentctl.decoder.inversion"):
        found = invert(gan, x, **QUICK)
    assert found.failed.tolist() == [True, False]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "1 of 2 samples failed" in record.getMessage()
    assert "starts=" in record.getMessage()


def test_the_search_starts_near_and_the_best_start_is_kept():
    decoder = latentctl.wrap(Waves(), latent_shape=(1,), value_range=(-1.0, 1.0))
    x = decoder.decode(decoder.prior.sample(12, seed=5))
    near, anywhere = (invert(decoder, x, starts=count, steps=150) for count in (1, 64))
    assert not bool(near.failed.any()) and not bool(anywhere.failed.any())
    lost = anywhere.errors > 0.5 * anywhere.spread
    assert lost.float().mean() > 0.3, "a start taken blindly is often lost"
    assert not bool(lost[:, 0].any()), "the first is the nearest"


def test_a_result_depends_on_the_seed_alone(gan):
    x = gan.decode(gan.prior.sample(40, seed=1))  # more than a chunk
    found = invert(gan, x, **QUICK)
    assert torch.equal(invert(gan, x, **QUICK).z, found.z)
    torch.testing.assert_close(invert(gan, x[30:33], **QUICK).z, found.z[30:33], atol=2e-2, rtol=0)
    assert not torch.equal(invert(gan, x, **QUICK, seed=1).z, found.z)


def test_the_prior_determines_what_the_sample_does_not():
    class Half(nn.Module):
        def forward(self, z):
            return torch.tanh(z[:, :2])

    options = {"latent_shape": (4,), "value_range": (-1.0, 1.0)}
    decoder = latentctl.wrap(Half(), **options)
    z = invert(decoder, decoder.decode(torch.tensor([[0.5, -0.5, 9.0, 9.0]])), steps=200).z
    torch.testing.assert_close(z, torch.tensor([[0.5, -0.5, 0.0, 0.0]]), atol=0.05, rtol=0)
    elsewhere = latentctl.wrap(Half(), prior=Gaussian((4,), mean=2.0, std=0.5), **options)
    z = invert(elsewhere, elsewhere.decode(torch.full((1, 4), 2.0)), steps=200).z
    torch.testing.assert_close(z, torch.full((1, 4), 2.0), atol=0.05, rtol=0)


def test_inversion_keeps_the_laws_and_the_fingerprint(gan):
    decoder = with_inversion(gan, **QUICK)
    check_decoder(decoder)
    assert not gan.can_encode and decoder.can_encode
    assert decoder.fingerprint() == gan.fingerprint()
    z = gan.prior.sample(3, seed=2)
    assert torch.equal(decoder.decode(z), gan.decode(z))
    x = gan.decode(z)
    assert torch.equal(decoder.encode(x).mean, invert(gan, x, **QUICK).z)
    assert torch.equal(copy.deepcopy(decoder).encode(x).mean, decoder.encode(x).mean)


def test_real_inputs_are_edited_through_it(gan):
    with torch.random.fork_rng():
        critic = latentctl.AttributeCritic((6,), ["Bright"], width=16)
    with pytest.raises(AdapterError, match=r"latentctl\.with_inversion"):
        latentctl.condition(gan, critic).edit(torch.zeros(1, 3, 4, 4), Bright=True)
    x = gan.decode(gan.prior.sample(3, seed=3))
    edited = latentctl.condition(with_inversion(gan, **QUICK), critic).edit(
        x, Bright=True, strength=0
    )
    assert (edited.x - x).square().mean().sqrt() < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    gan = latentctl.wrap(Generator().to(dtype))
    decoder = with_inversion(gan, **QUICK)
    x = gan.decode(gan.prior.sample(2, seed=1))
    assert not bool(invert(gan, x, **QUICK).failed.any())
    assert (gan.decode(decoder.encode(x).mean) - x).square().mean().sqrt() < 0.1


def test_it_goes_through_a_flow(gan):
    decoder = with_inversion(gan, **QUICK).through(LatentFlow((6,), width=8))
    x = gan.decode(gan.prior.sample(2, seed=1))
    assert (decoder.decode(decoder.encode(x).mean) - x).square().mean().sqrt() < 0.1


def test_what_cannot_be_searched_is_refused(gan):
    with pytest.raises(AdapterError, match="No gradient"):
        with_inversion(latentctl.wrap(lambda z: (z > 0).float(), latent_shape=(3,)))
    with pytest.raises(InputError, match="steps and starts >= 1"):
        invert(gan, torch.zeros(1, 3, 4, 4), starts=0)
    with pytest.raises(ShapeError):
        invert(gan, torch.zeros(1, 3, 4, 5))
    with pytest.raises(InputError, match="finite"):
        invert(gan, torch.full((1, 3, 4, 4), torch.nan))
    assert len(invert(gan, torch.zeros(0, 3, 4, 4)).z) == 0

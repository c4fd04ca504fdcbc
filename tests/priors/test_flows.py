"""Densities over latents: normalised, exact, invertible, and closer to the data than a Gaussian."""

import math

import pytest
import torch

import latentctl
from latentctl import LatentFlow, Latents
from latentctl.errors import (
    CheckpointError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from latentctl.evaluation.laws import check_decoder
from latentctl.priors import GaussianMixture
from latentctl.priors.whitening import Whitening
from latentctl.random import generator

KINDS = ("coupling", "spline", "matching")
SMALL = {"width": 32, "blocks": 2, "max_train_steps": 80, "batch_size": 128}


def moons(count, seed=0):
    """Two crescents, far from any Gaussian, as latents `(count, 2)`."""
    draw = torch.rand(count, 2, generator=generator(seed, purpose="moons"))
    angle, side = math.pi * draw[:, 0], (draw[:, 1] > 0.5).float() * 2 - 1
    z = torch.stack([side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)], 1)
    return Latents(3 * z + 0.15 * torch.randn(z.shape, generator=generator(seed, purpose="blur")))


@pytest.fixture(scope="module", params=KINDS)
def flow(request):
    return LatentFlow.fit(
        moons(2000), request.param, width=64, blocks=2, max_train_steps=300, learning_rate=5e-3
    )


def test_a_flow_is_ahead_of_a_gaussian_on_held_out_data(flow):
    held_out = moons(500, seed=1).mean
    gaussian = latentctl.Gaussian.fit(moons(2000))
    gain = flow.log_prob(held_out).mean() - gaussian.log_prob(held_out).mean()
    assert gain > 0.5


def test_a_density_integrates_to_one(flow):
    axis = torch.linspace(-8, 8, 161)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = torch.cat([flow.log_prob(part) for part in grid.split(4096)]).exp()
    assert density.sum().item() * 0.1**2 == pytest.approx(1, abs=0.03)


def test_the_determinant_is_that_of_the_map(flow):
    e = torch.randn(4, 2, generator=generator(0))
    z = flow.from_base(e)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda r: flow.from_base(r[None])[0], row) for row in e]
    )
    normal = -0.5 * e.square().sum(1) - math.log(2 * math.pi)
    expected = normal - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(flow.log_prob(z), expected, atol=1e-3)


def test_a_flow_comes_back(flow):
    z = moons(100, seed=2).mean
    assert torch.allclose(flow.from_base(flow.to_base(z)), z, atol=1e-3)
    assert flow.check_invertible(z) < 1e-3


def test_samples_do_not_depend_on_the_batch(flow):
    whole = flow.sample(40, seed=3)
    assert torch.allclose(flow.sample(5, seed=3, start=30), whole[30:35], atol=1e-5)
    assert not torch.equal(flow.sample(40, seed=4), whole)


def test_gradients_reach_the_base_noise(flow):
    e = torch.randn(3, 2, requires_grad=True)
    flow.from_base(e).sum().backward()
    assert e.grad.abs().min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_grids_cost_no_parameters_by_their_size(kind, spatial_latents):
    small, large = (LatentFlow((4, s, s), kind, width=8) for s in (4, 16))
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in large.parameters())
    flow = LatentFlow.fit(
        spatial_latents, kind, width=8, steps=2, max_train_steps=20, batch_size=32
    )
    assert flow.log_prob(spatial_latents[:2].mean).shape == (2,)
    assert flow.sample(6).shape == (6, 4, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_is_a_function_of_the_seed(kind, latents):
    a, b, c = (LatentFlow.fit(latents, kind, seed=s, **SMALL) for s in (0, 0, 1))
    assert torch.equal(a.sample(4), b.sample(4))
    assert not torch.equal(a.sample(4), c.sample(4))


def test_an_untrained_matching_flow_is_the_gaussian_with_the_moments_of_the_data():
    latents = Latents(torch.randn(3000, 3) @ torch.tensor([[3.0, 0, 0], [1, 0.01, 0], [0, 0, 1]]))
    flow = LatentFlow((3,), "matching", width=8, steps=2)
    flow.map.white = Whitening.fit(latents)
    covariance = latents.mean.T.cov(correction=0)
    found = flow.sample(50_000).T.cov()
    scale = covariance.diagonal().sqrt()
    assert ((found - covariance) / torch.outer(scale, scale)).abs().max() < 0.03
    expected = torch.distributions.MultivariateNormal(latents.mean.mean(0), covariance)
    z = latents.mean[:5]
    assert torch.allclose(flow.log_prob(z), expected.log_prob(z), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shape", [(5,), (2, 4, 4)])
def test_the_density_of_matching_does_not_depend_on_the_chunks_and_keeps_no_graph(
    shape, monkeypatch
):
    with latentctl.random.seeded(0):
        flow = LatentFlow(shape, "matching", width=8, depth=1, steps=2)
        for weight in flow.map.net.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    z = flow.sample(6)
    whole = flow.log_prob(z)
    monkeypatch.setattr("latentctl.priors.matching.ROOM", 200)
    assert torch.allclose(flow.log_prob(z), whole, atol=1e-4) and not whole.requires_grad
    e = flow.to_base(z).requires_grad_()
    (slope,) = torch.autograd.grad(flow.map.log_det(e).sum(), e)
    assert slope.isfinite().all() and slope.abs().max() > 0


def test_guided_samples_have_a_density_on_request_only():
    flow = LatentFlow((2,), "matching", width=8, steps=2, guidance=2.0)
    z = flow.sample(3)
    with pytest.raises(InputError, match=r"guidance 2.*'guidance': 1.*guided=True"):
        flow.log_prob(z)
    assert flow.log_prob(z, guided=True).isfinite().all()
    plain = LatentFlow(**{**flow.config, "guidance": 1})
    plain.load_state_dict(flow.state_dict())
    assert plain.log_prob(z).isfinite().all()


def test_whitening_counts_the_posteriors_width():
    latents = Latents(
        torch.zeros(1000, 2).normal_(generator=generator(0)), torch.full((1000, 2), 2.0)
    )
    white = Whitening.fit(latents)
    assert torch.allclose(white.std, torch.full((2,), math.sqrt(5)), atol=0.1)


def test_a_mixture_finds_its_components():
    latents = moons(3000)
    mixture = GaussianMixture.fit(latents, 6)
    held_out = moons(500, seed=1).mean
    gaussian = latentctl.Gaussian.fit(latents)
    assert mixture.log_prob(held_out).mean() > gaussian.log_prob(held_out).mean() + 0.4
    z = mixture.sample(20_000, seed=1)
    assert torch.allclose(z.T.cov(), latents.mean.T.cov(), rtol=0.1, atol=0.1)
    assert torch.equal(mixture.sample(3, seed=1, start=7), z[7:10])


class TestThrough:
    def test_noise_is_the_latent_and_the_samples_stay(self, decoder, latents):
        flow = LatentFlow.fit(latents, "coupling", **SMALL)
        through = decoder.through(flow)
        check_decoder(through)
        x = decoder.decode(latents.mean[:8])
        plain = decoder.decode(decoder.encode(x).mean)
        again = through.decode(through.encode(x).mean)
        assert torch.allclose(again, plain, atol=1e-4)
        e = through.prior.sample(5, seed=1)
        assert torch.allclose(through.decode(e), decoder.decode(flow.from_base(e)), atol=1e-6)

    def test_the_flow_is_frozen_and_in_the_fingerprint(self, decoder, latents):
        flow = LatentFlow((8,), width=8)
        through = decoder.through(flow)
        assert through.fingerprint() != decoder.fingerprint()
        assert not any(p.requires_grad for p in through.parameters())
        assert all(p.requires_grad for p in flow.parameters())
        before = through.fingerprint()
        with torch.no_grad():
            next(flow.parameters()).add_(1)
        assert through.fingerprint() == before

    def test_a_critic_and_its_edits_work_there(self, decoder, latents):
        flow = LatentFlow.fit(latents, "coupling", **SMALL)
        through = decoder.through(flow)
        base = Latents(flow.to_base(latents.mean).detach(), None, latents.labels, latents.names)
        critic = latentctl.AttributeCritic.fit(
            base, width=32, max_train_steps=600, learning_rate=3e-3
        )
        conditional = latentctl.condition(through, critic)
        out = conditional.sample(16, Smiling=True, seed=0)
        assert out.satisfied.float().mean() > 0.9
        edited = conditional.edit(out.x[:4], Smiling=False, hold=False)
        assert edited.satisfied.all()

    def test_it_refuses_a_flow_of_another_shape(self, decoder):
        with pytest.raises(ShapeError, match="latents of this decoder"):
            decoder.through(LatentFlow((3,), width=8))

    def test_it_refuses_a_flow_that_does_not_come_back(self, decoder):
        flow = LatentFlow((8,), width=8)
        with torch.no_grad():
            for parameter in flow.map.parameters():
                parameter.mul_(1e4).add_(30.0)
        with pytest.raises(NonFiniteError, match="round trip"):
            decoder.through(flow)


class TestSaving:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_flow_is_loaded_bit_for_bit(self, kind, latents, tmp_path):
        flow = LatentFlow.fit(latents, kind, **{**SMALL, "max_train_steps": 3})
        loaded = LatentFlow.load(flow.save(tmp_path / "flow"))
        assert loaded.config == flow.config and not loaded.training
        assert torch.equal(loaded.sample(4), flow.sample(4))
        z = latents.mean[:4]
        assert torch.equal(loaded.log_prob(z), flow.log_prob(z))

    def test_a_mixture_is_loaded_bit_for_bit(self, latents, tmp_path):
        mixture = GaussianMixture.fit(latents, 3)
        loaded = GaussianMixture.load(mixture.save(tmp_path / "mixture"))
        assert torch.equal(loaded.sample(20), mixture.sample(20))
        assert torch.equal(loaded.log_prob(latents.mean), mixture.log_prob(latents.mean))

    def test_another_kind_is_refused(self, tmp_path):
        path = LatentFlow((3,), width=8).save(tmp_path / "flow")
        with pytest.raises(CheckpointError, match="LatentFlow, not a GaussianMixture"):
            GaussianMixture.load(path)


class TestBadInput:
    def test_fewer_samples_than_dimensions(self):
        with pytest.raises(InputError, match="more than 8 samples"):
            LatentFlow.fit(Latents(torch.randn(8, 8)))

    def test_constant_dimensions_are_named(self):
        z = torch.randn(100, 4)
        z[:, 2] = 1.5
        with pytest.raises(InputError, match=r"dimensions \[2\]"):
            LatentFlow.fit(Latents(z))

    def test_an_unknown_kind(self):
        with pytest.raises(UnknownNameError, match="coupling"):
            LatentFlow((4,), "couplings")

    def test_a_wrong_shape(self):
        flow = LatentFlow((4,), width=8)
        with pytest.raises(ShapeError, match=r"\(B, 4\)"):
            flow.log_prob(torch.zeros(1, 5))
        with pytest.raises(ShapeError, match=r"\(B, 4\)"):
            flow.from_base(torch.zeros(1, 5))

    def test_no_steps(self):
        with pytest.raises(InputError, match="at least one step"):
            LatentFlow.fit(moons(50), max_train_steps=0)
        with pytest.raises(InputError, match="at least one step"):
            LatentFlow((2,), "matching", steps=0)

    def test_too_many_components(self):
        with pytest.raises(InputError, match="fewer components"):
            GaussianMixture.fit(moons(50), 30)

    def test_roots_of_another_shape(self):
        with pytest.raises(ShapeError, match="roots"):
            GaussianMixture((2,), torch.ones(1), torch.zeros(1, 2), torch.eye(3)[None])

    def test_an_inverse_that_is_not_found(self):
        flow = LatentFlow((2,), "matching", width=8, steps=1)
        with torch.no_grad():
            for parameter in flow.map.net.parameters():
                parameter.add_(3.0)
        with pytest.raises(NonFiniteError, match="not inverted"):
            flow.to_base(torch.randn(50, 2))

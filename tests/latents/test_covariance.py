"""The covariance of latents, and edits in its metric."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import latentctl
from latentctl import Ascent, AttributeCritic, Latents
from latentctl.controllers import Request
from latentctl.critics import Critic
from latentctl.errors import InputError
from latentctl.latents import Covariance
from latentctl.latents.covariance import default_rank
from latentctl.random import noise

SHAPE = (2, 4, 4)
NAN = torch.nan


def grids(count, seed=0, shape=SHAPE):
    """Latents that vary along three smooth directions, five, three and two wide, and in noise."""
    size = torch.Size(shape).numel()
    basis = torch.linalg.qr(noise(0, size, (3,), seed=9))[0]
    leading = noise(0, count, (3,), seed=seed) * torch.tensor([5.0, 3.0, 2.0])
    rest = 0.1 * noise(0, count, (size,), seed=seed, purpose="rest")
    return Latents((leading @ basis.T + rest + 1).view(-1, *shape)), basis


def test_whitened_data_have_unit_variance():
    latents, _ = grids(4000)
    covariance = Covariance(SHAPE, 3).learn(latents)
    white = covariance.whiten(latents.mean - latents.mean.mean(0)).flatten(1)
    torch.testing.assert_close(white.T.cov(), torch.eye(32), atol=0.1, rtol=0)
    assert torch.allclose(covariance.std, torch.tensor([5.0, 3, 2]), rtol=0.05)
    assert abs(covariance.rest - 0.1) < 0.01


@given(st.integers(1, 31), st.integers(2, 60))
@settings(max_examples=15, deadline=None)
def test_whiten_inverts_color(rank, count):
    latents, _ = grids(count)
    covariance = Covariance(SHAPE, rank).learn(latents)
    e = noise(0, 5, SHAPE, seed=1)
    torch.testing.assert_close(covariance.whiten(covariance.color(e)), e, atol=1e-3, rtol=1e-3)
    a, b = noise(0, 2, SHAPE, seed=2)
    left, right = (
        (a * covariance.color(b[None])[0]).sum(),
        (covariance.color(a[None])[0] * b).sum(),
    )
    torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-3)  # the root is symmetric


def test_it_is_the_identity_before_it_is_fitted():
    z = noise(0, 5, SHAPE, seed=0)
    assert torch.equal(Covariance(SHAPE, 3).color(z), z)


def test_few_latents_give_fewer_leading_directions():
    covariance = Covariance(SHAPE, 20).learn(grids(10)[0])
    assert torch.equal(covariance.std[5:], covariance.rest.expand(15))
    assert torch.equal(covariance.basis[:, 5:], torch.zeros(32, 15))


def test_its_limits_are_errors():
    with pytest.raises(InputError, match="1 to 31"):
        Covariance(SHAPE, 32)
    with pytest.raises(InputError, match="are equal"):
        Covariance(SHAPE, 3).learn(Latents(torch.ones(10, *SHAPE)))
    assert default_rank((256,)) == 0
    assert default_rank(SHAPE) == 16 and default_rank((32, 16, 16)) == 512


class Anywhere(Critic):
    """Log-odds that rise along the first direction of the data, and twice as fast off them."""

    names = ("Smiling",)
    latent_shape = SHAPE

    def __init__(self, latents, basis):
        super().__init__()
        off = torch.nn.functional.normalize(noise(0, 32, (), seed=5), dim=0)
        off = off - basis @ (basis.T @ off)
        self.register_buffer("slope", basis[:, 0] + 2 * off / off.norm())
        self.register_buffer("posterior_std", torch.ones(SHAPE))
        self.covariance = Covariance(SHAPE, 3).learn(latents)

    def forward(self, z):
        return (z.flatten(1) @ self.slope)[:, None] - 3


def test_an_edit_follows_the_data():
    latents, basis = grids(2000)
    critic, z = Anywhere(latents, basis), grids(20, seed=3)[0].mean
    share = {}
    for white in (True, False):
        ascent = Ascent.for_edits(critic, whitened=white)
        way = (ascent.move(z, Request(target=torch.ones(1, 1))).z - z).flatten(1)
        way = way[way.norm(dim=1) > 1e-3]
        assert len(way), "nothing was moved"
        share[white] = ((way @ basis).norm(dim=1) / way.norm(dim=1)).mean()
    assert share[True] > 0.95 and share[False] < 0.6


def test_a_satisfied_request_moves_nothing():
    latents, basis = grids(2000)
    critic = Anywhere(latents, basis)
    z = latents.mean[:200]
    z = z[critic(z)[:, 0] > 10][:20]
    move = Ascent(critic, whitened=True, realism_weight=0).move(z, Request(target=torch.ones(1, 1)))
    assert len(z) and torch.equal(move.z, z)


def test_a_critic_of_grids_fits_it_and_a_pack_keeps_it(tmp_path, spatial_latents):
    torch.manual_seed(0)
    model = torch.nn.ConvTranspose2d(4, 3, 2, stride=2)
    down = torch.nn.Conv2d(3, 4, 2, stride=2)
    decoder = latentctl.wrap((down, model), latent_shape=(4, 8, 8), value_range=(-9, 9))
    critic = AttributeCritic.fit(spatial_latents, width=16, max_train_steps=20)
    assert critic.covariance is not None and critic.config["rank"] == 128
    assert (
        AttributeCritic.fit(spatial_latents, width=16, max_train_steps=2, rank=0).covariance is None
    )
    pictures = latentctl.condition(decoder, critic)
    x = decoder.decode(spatial_latents.mean[:4])
    before = pictures.edit(x, Bright=True)
    pictures.save_pretrained(tmp_path / "pack")
    again = latentctl.Conditional.from_pretrained(tmp_path / "pack", decoder)
    assert torch.equal(again.edit(x, Bright=True).z, before.z)
    assert torch.equal(again.critic.covariance.basis, critic.covariance.basis)


def test_a_distilled_critic_of_grids_has_it_too(spatial_latents):
    teacher = AttributeCritic.fit(spatial_latents, width=16, max_train_steps=30)
    student = latentctl.distill(
        teacher, spatial_latents, samples=200, samples_per_round=50, width=16, max_train_steps=30
    )
    assert torch.equal(student.covariance.std, teacher.covariance.std), "of the same latents"
    plain = latentctl.distill(
        teacher, spatial_latents, samples=64, rounds=0, width=16, max_train_steps=2, rank=0
    )
    assert plain.covariance is None

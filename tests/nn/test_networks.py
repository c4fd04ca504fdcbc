"""Networks over latents: shapes, the gate, standardisation, vectors and grids."""

from __future__ import annotations

import pytest
import torch

from latentctl.errors import InputError, ShapeError
from latentctl.nn.trunk import GatedResidual, ScoreNet, encode_targets
from latentctl.nn.velocity import Velocity
from latentctl.random import noise, seeded

SHAPES = [(8,), (4, 8, 8)]
NAN = torch.nan


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_with_and_without_context(shape):
    z, context = noise(0, 5, shape, seed=0), torch.zeros(5, 2)
    assert ScoreNet(shape, 3, width=16)(z).shape == (5, 3)
    assert ScoreNet(shape, 3, context=2, width=16)(z, context).shape == (5, 3)
    assert GatedResidual(shape, context=2, width=16)(z, context).shape == z.shape


@pytest.mark.parametrize("shape", SHAPES)
def test_the_context_matters_and_is_not_optional(shape):
    with seeded(0):
        net = ScoreNet(shape, 1, context=2, width=16, depth=2)
    z = noise(0, 5, shape, seed=0)
    one, other = net(z, torch.zeros(5, 2)), net(z, torch.ones(5, 2))
    assert not torch.allclose(one, other)
    with pytest.raises(InputError, match="pass the target"):
        net(z)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gate_mixes_latent_and_destination(shape):
    net = GatedResidual(shape, width=16, depth=1)
    mean, std = noise(0, 2, shape, seed=1).abs() + 0.5
    net.trunk.standardise(mean, std)
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.constant_(net.head.bias[: shape[0]], 2.0)
    torch.nn.init.constant_(net.head.bias[shape[0] :], -1.0)
    z = noise(0, 5, shape, seed=0)
    gate = torch.sigmoid(torch.tensor(-1.0))
    torch.testing.assert_close(net(z), (1 - gate) * z + gate * (2 * std + mean))
    torch.nn.init.constant_(net.head.bias[shape[0] :], -1e4)
    assert torch.equal(net(z), z), "a closed gate moves nothing"


def test_a_standardised_network_is_invariant_to_scale_and_shift():
    with seeded(0):
        net = ScoreNet((3,), 2, width=16)
    z, mean, std = noise(0, 4, (3,), seed=0), torch.tensor([5.0, -2, 1]), torch.tensor([3.0, 1, 0])
    plain = net(z)
    net.trunk.standardise(mean, std)
    divisor = torch.tensor([3.0, 1, 1])  # the third never varied, so it is only shifted
    torch.testing.assert_close(net(z * divisor + mean), plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(z), plain)


def test_a_grid_of_any_size_has_the_same_parameters_and_positions_matter():
    def count(shape):
        return sum(p.numel() for p in ScoreNet(shape, 1, width=16).parameters())

    assert count((4, 8, 8)) == count((4, 32, 32)) < count((8, 8, 8))
    with seeded(0):
        net = ScoreNet((1, 8, 8), 1, width=16, depth=2)
    left = torch.zeros(1, 1, 8, 8)
    left[..., 3:5, 2] = 3.0
    right = left.flip(-1)
    assert not torch.allclose(net(left), net(right))
    spots = torch.stack([left.roll(s, -2)[0] for s in (-1, 1)])
    assert not torch.allclose(*net(spots)), "even far from the edges"


@pytest.mark.parametrize("sides", [(8, 8), (7, 5), (1, 1), (16, 4)])
@pytest.mark.parametrize("kind", ["mover", "velocity", "scorer"])
def test_grids_of_odd_sides(kind, sides):
    shape, context = (3, *sides), torch.zeros(2, 4)
    z = noise(0, 2, shape, seed=0)
    if kind == "mover":
        assert GatedResidual(shape, context=4, width=16)(z, context).shape == z.shape
    elif kind == "velocity":
        assert Velocity(shape, context=4, width=16)(z, context[:, :1], context).shape == z.shape
    else:
        assert ScoreNet(shape, 2, context=4, width=16)(z, context).shape == (2, 2)


@pytest.mark.parametrize("build", [GatedResidual, Velocity])
def test_movers_of_grids_have_the_same_parameters_and_a_global_receptive_field(build):
    def count(shape):
        return sum(p.numel() for p in build(shape, width=16).parameters())

    assert count((4, 8, 8)) == count((4, 32, 32))
    with seeded(0):
        net = build((1, 8, 8), width=32)
        for parameter in net.parameters():  # blocks start as the identity, which sees nothing
            torch.nn.init.normal_(parameter, std=0.3)
    z = noise(0, 1, (1, 8, 8), seed=0).requires_grad_()
    out = net(z, torch.zeros(1, 1)) if build is Velocity else net(z)
    (slope,) = torch.autograd.grad(out[0, 0, 0, 0], z)
    assert bool((slope != 0).all()), "a corner depends on the opposite one"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_velocity_starts_at_zero_and_depends_on_time_and_context(shape):
    z = noise(0, 3, shape, seed=0)
    with seeded(0):
        net = Velocity(shape, context=2, width=16, depth=1)
    zero, one = torch.zeros(3, 1), torch.ones(3, 1)
    context = torch.zeros(3, 2)
    assert torch.equal(net(z, zero, context), torch.zeros_like(z))
    torch.nn.init.normal_(net.leave.weight)
    assert not torch.allclose(net(z, zero, context), net(z, one, context))
    assert not torch.allclose(net(z, zero, context), net(z, zero, context + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_acts_in_training_only(shape):
    net = ScoreNet(shape, 1, width=32, dropout=0.5)
    z = noise(0, 4, shape, seed=0)
    assert not torch.equal(net.train()(z), net(z))
    assert torch.equal(net.eval()(z), net(z))


@pytest.mark.parametrize("net", [ScoreNet((8,), 1, width=8), GatedResidual((8,), width=8)])
def test_latents_of_another_decoder_are_refused(net):
    with pytest.raises(ShapeError, match=r"\(B, 8\).*\(2, 9\).*another decoder"):
        net(torch.zeros(2, 9))


def test_free_targets_differ_from_targets_of_one_half():
    y = torch.tensor([[1.0, 0.0, 0.5, NAN]])
    expected = torch.tensor([[1.0, -1, 0, 0, 1, 1, 1, 0]])
    assert torch.equal(encode_targets(y), expected)
    assert torch.equal(encode_targets(torch.full((2, 3), NAN)), torch.zeros(2, 6))

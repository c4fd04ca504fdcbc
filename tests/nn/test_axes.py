"""Everything that is fitted takes latents of one to four axes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    Decoder,
    ExampleCritic,
    FlowMatching,
    Gaussian,
    KnowledgeBase,
    LatentFlow,
    Latents,
    RealismCritic,
    Updater,
    condition,
)
from latentctl.decoder import Posterior
from latentctl.errors import InputError
from latentctl.evaluation.laws import check_controller, check_critic, check_decoder
from latentctl.nn import GatedResidual, ScoreNet, Velocity, check_shape
from latentctl.nn.grids import coordinates
from latentctl.random import noise

SHAPES = {
    "vector": (6,),
    "sequence": (4, 10),
    "one step": (4, 1),
    "tokens": (9, 5),
    "grid": (4, 6, 5),
    "one cell": (6, 1, 1),
    "volume": (2, 4, 3, 5),
}
QUICK = {"max_train_steps": 2, "batch_size": 16, "width": 8, "depth": 2, "progress": False}


def data(shape, count=64):
    z = noise(0, count, shape, seed=0)
    labels = torch.stack([z.flatten(1)[:, 0] > 0, z.flatten(1).mean(1) > 0], 1).float()
    return Latents(z, torch.full_like(z, 0.1), labels, ["First", "Mean"])


def decoder_of(shape):
    return Decoder(
        nn.Identity(),
        lambda m, z: z,
        lambda m, x: Posterior(x),
        latent_shape=shape,
        sample_shape=shape,
        value_range=None,
    )


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request):
    return request.param


def test_networks(shape):
    z, context = noise(0, 3, shape, seed=0), torch.zeros(3, 2)
    assert ScoreNet(shape, 4, context=2, width=16)(z, context).shape == (3, 4)
    assert GatedResidual(shape, context=2, width=16)(z, context).shape == z.shape
    assert GatedResidual(shape, width=16)(z).shape == z.shape
    velocity = Velocity(shape, context=2, width=16)
    assert torch.equal(velocity(z, torch.zeros(3, 1), context), torch.zeros_like(z))


def test_each_output_depends_on_each_cell(shape):
    z = noise(0, 1, shape, seed=0).requires_grad_()
    for net in (ScoreNet(shape, 1, width=32, smooth=True), GatedResidual(shape, width=32)):
        (gradient,) = torch.autograd.grad(net(z).square().sum(), z)
        assert bool((gradient != 0).all())


@pytest.mark.parametrize("kind", ["sequence", "tokens", "volume"])
def test_every_fit_sample_and_edit(kind):
    shape = SHAPES[kind]
    latents, decoder = data(shape), decoder_of(shape)
    check_decoder(decoder)
    critic = AttributeCritic.fit(latents, rank=2, **QUICK)
    check_critic(critic, latents.mean[:3])
    movers = [
        Ascent(critic, steps=2),
        Ascent.for_edits(critic, steps=2),
        FlowMatching.fit(latents, steps=2, **QUICK),
        Actor.fit(latents, attributes=critic, **QUICK),
        Updater.fit(latents, Ascent(critic, steps=2), attributes=critic, requests=16, **QUICK),
    ]
    for mover in movers:
        check_controller(mover, latents.mean[:3], torch.tensor([[1.0, torch.nan]]))
        faces = condition(decoder, critic, mover, editor=mover)
        assert faces.sample(3, First=True).x.shape == (3, *shape)
        assert faces.edit(latents.mean[:2], Mean=False).x.shape == (2, *shape)
    assert RealismCritic(shape, width=8)(latents.mean[:3]).shape == (3, 1)
    assert (
        ExampleCritic.fit("Big", latents.mean[:8], latents.mean[8:16])(latents.mean).shape[1] == 1
    )
    assert LatentFlow.fit(latents, "matching", **QUICK).sample(2).shape == (2, *shape)
    assert Gaussian.fit(latents).sample(2).shape == (2, *shape)


def test_coupling_flows(shape):
    latents, kind = data(shape, 200), "spline" if len(shape) == 2 else "coupling"
    flow = LatentFlow.fit(latents, kind=kind, blocks=2, **QUICK)
    z = flow.sample(3, seed=0)
    assert z.shape == (3, *shape)
    torch.testing.assert_close(flow.from_base(flow.to_base(z)), z, rtol=1e-3, atol=1e-3)
    through = decoder_of(shape).through(flow)
    assert through.encode(through.decode(noise(0, 2, shape, seed=1))).mean.shape == (2, *shape)
    if shape == SHAPES["sequence"]:
        base = KnowledgeBase(flow, shape)
        base.add("First", latents, critic_steps=1, max_train_steps=1)
        assert base.sample(2, present=["First"]).shape == (2, *shape)


def test_coordinates_are_those_of_each_axis():
    places = coordinates(torch.zeros(2, 1, 3, 2, 5))
    assert places.shape == (2, 3, 3, 2, 5)
    assert places[0, 0, :, 0, 0].tolist() == [-1, 0, 1]
    assert places[1, 2, 0, 0].tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("wrong", [(), (1, 2, 3, 4, 5), (4, 0)])
def test_other_shapes_are_refused_with_a_sentence(wrong):
    with pytest.raises(InputError, match="Flatten or reshape"):
        check_shape(wrong)

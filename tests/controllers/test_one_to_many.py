"""cGML as in the paper: one-to-many prediction without an adversary."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from latentctl.controllers import Updater
from latentctl.controllers.cgml.one_to_many import OneToMany, assign
from latentctl.errors import InputError, NonFiniteError
from latentctl.random import noise, seeded
from latentctl.training import Step


class Generator(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        hidden = [nn.Linear(9, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(64, outputs))

    def forward(self, h, z):
        h = h[0] if isinstance(h, tuple) else h
        return self.layers(torch.cat([h, z], dim=1))


class Skips(nn.Module):
    """An encoder that gives the generator more than the updater sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 8)

    def forward(self, x):
        return self.layer(x), x


def build(encoder=None, steps=12, **options):
    with seeded(0):
        updater = Updater(
            (1,), context=8, width=64, depth=2, steps=steps, final_jumps=2, domain="ball"
        )
        encoder = encoder or nn.Sequential(nn.Linear(1, 8), nn.SiLU())
        descent = {"steps": steps, "learning_rate": 0.4, "anneal": 2.0, **options}
        return OneToMany(encoder, Generator(), updater, **descent)


def two_answers(count, seed=0):
    """Either (1, x) or (-1, -x), with x in [-1, 1]."""
    x = 2 * noise(0, count, (1,), seed=seed, uniform=True) - 1
    sign = (noise(0, count, (1,), seed=seed, purpose="sign") > 0).float() * 2 - 1
    return x, sign * torch.cat([torch.ones_like(x), x], dim=1)


@pytest.fixture(scope="module")
def trained():
    options = {"max_train_steps": 500, "batch_size": 32, "learning_rate": 5e-3}
    return build().fit(TensorDataset(*two_answers(2000)), **options)


def test_both_answers_are_found_and_not_their_mean(trained):
    x = two_answers(50, seed=1)[0]
    y = trained.predict(x, count=32)
    assert y.shape == (50, 32, 2)
    truth = torch.cat([torch.ones_like(x), x], dim=1)[:, None]
    up, down = (y - truth).norm(dim=2), (y + truth).norm(dim=2)
    near = torch.minimum(up, down) < 0.3
    assert near.float().mean() > 0.7
    assert (near & (up < down)).any(1).float().mean() > 0.9
    assert (near & (down < up)).any(1).float().mean() > 0.9
    assert (y.norm(dim=2) < 0.2).float().mean() < 0.03, "the mean of both is no answer"


def test_assigned_starts_are_a_permutation_that_no_swap_improves():
    costs = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    assign_starts = assign(costs)
    assert sorted(assign_starts.tolist()) == list(range(12))
    paid = costs.gather(1, assign_starts[:, None]).sum()
    assert paid < costs.diagonal().sum()
    for i in range(12):
        for j in range(i):
            swapped = assign_starts.clone()
            swapped[[i, j]] = assign_starts[[j, i]]
            assert costs.gather(1, swapped[:, None]).sum() > paid - 1e-4
    assert torch.equal(assign(torch.full((4, 4), 0.1)), torch.arange(4))
    costs[3, 3] = torch.nan
    assert torch.equal(assign(costs), torch.arange(12))


def test_assigned_starts_reduce_the_error():
    x, y = two_answers(64)
    step = Step(0, 0, 0, 64, 64, torch.device("cpu"))
    errors = {}
    for assign_starts in (False, True):
        with seeded(0):
            updater = Updater((1,), context=8, width=8, domain="ball")
            encoder = nn.Linear(1, 8)
        drawn = lambda h, z: z.expand(-1, 2)  # noqa: E731
        model = OneToMany(
            encoder, drawn, updater, steps=1, learning_rate=1e-4, assign_starts=assign_starts
        )
        errors[assign_starts] = float(model.loss(x, y, step)[1]["error"])
    # half of the starts are positive, and so is half of the answers
    assert errors[True] < 0.75 * errors[False]


def test_a_regression_would_have_given_the_mean():
    x, y = two_answers(2000)
    with seeded(0):
        net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    assert net(x).norm(dim=1).mean() < 0.3


def test_the_start_alone_decides_and_seeds_repeat(trained):
    x = two_answers(5)[0]
    assert torch.equal(trained.predict(x, 4, seed=1), trained.predict(x, 4, seed=1))
    assert not torch.equal(trained.predict(x, 4, seed=1), trained.predict(x, 4, seed=2))
    z, _ = trained.find(x, 4)
    assert z.shape == (20, 1) and z.abs().max() <= 1


def test_the_networks_share_no_gradient():
    model = build()
    x, y = two_answers(16)
    step = Step(0, 0, 0, 16, 16)
    total, logs = model.loss(x, y, step)
    whole = torch.autograd.grad(total, list(model.updater.parameters()), retain_graph=True)
    alone = torch.autograd.grad(
        logs["updater"], list(model.updater.parameters()), retain_graph=True
    )
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one, other)
    others = [*model.encoder.parameters(), *model.generator.parameters()]
    assert all(g is None for g in torch.autograd.grad(logs["updater"], others, allow_unused=True))


def test_pairs_that_are_not_finite_are_left_out_and_counted():
    model = build()
    x, y = two_answers(16)
    clean, _ = model.loss(x[4:], y[4:], Step(0, 0, 4, 12, 16))
    y[:4] = torch.nan
    total, logs = model.loss(x, y, Step(0, 0, 0, 16, 16))
    assert logs["dropped"] == 4
    gradients = torch.autograd.grad(total, list(model.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert abs(total - clean) < 0.2 * clean
    with pytest.raises(NonFiniteError, match="finite from no start"):
        model.loss(x, y * torch.nan, Step(0, 0, 0, 16, 16))


def test_skips_go_past_the_updater():
    model = build(Skips())
    x, y = two_answers(64)
    model.fit(TensorDataset(x, y), max_train_steps=3, batch_size=16)
    assert model.predict(x, 3).shape == (64, 3, 2)


def test_a_descent_without_steps_is_refused():
    with pytest.raises(InputError, match="M >= 1 steps, it has 0"):
        OneToMany(nn.Linear(1, 8), Generator(), Updater((1,), context=8, width=8), steps=0)

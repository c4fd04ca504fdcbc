"""cGML's one-to-many prediction, without an adversary."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from latentctl import OneToMany
from latentctl.errors import InputError, NonFiniteError
from latentctl.random import noise, seeded
from latentctl.training import Step


class Generator(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        hidden = [nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
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


def build(encoder=None, **options):
    with seeded(0):
        encoder = encoder or nn.Sequential(nn.Linear(1, 8), nn.SiLU())
        options = {"width": 64, "depth": 2, "descent": {"steps": 6}, **options}
        return OneToMany(encoder, Generator(), 8, (2,), **options)


def two_answers(count, seed=0):
    """Either (1, x), of seven in ten pairs, or (-1, -x), with x in [-1, 1]."""
    x = 2 * noise(0, count, (1,), seed=seed, uniform=True) - 1
    first = noise(0, count, (1,), seed=seed, purpose="sign", uniform=True) < 0.7
    return x, torch.where(first, 1.0, -1.0) * torch.cat([torch.ones_like(x), x], dim=1)


@pytest.fixture(scope="module")
def trained():
    options = {"max_train_steps": 240, "batch_size": 64, "learning_rate": 5e-3, "ema": 0.95}
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


def test_a_regression_would_have_given_the_mean():
    x, y = two_answers(2000)
    with seeded(0):
        net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    assert net(x).norm(dim=1).mean() < 0.6


def test_the_start_alone_decides_and_seeds_repeat(trained):
    x = two_answers(5)[0]
    assert torch.equal(trained.predict(x, 4, seed=1), trained.predict(x, 4, seed=1))
    assert not torch.equal(trained.predict(x, 4, seed=1), trained.predict(x, 4, seed=2))
    z, _ = trained.find(x, 4)
    assert z.shape == (20, 2)


def test_rounds_bring_walks_nearer_to_an_answer_and_walks_keep_the_shares(trained):
    x = two_answers(1, seed=1)[0].repeat(400, 1)
    h = trained.encoder(x)
    path = trained.walk(h, noise(0, 400, (2,), seed=0))
    assert path.shape == (trained.steps + trained.rounds + 1, 400, 2)
    truth = torch.cat([torch.ones_like(x), x], dim=1)
    strides, rounds = (trained.generator(h, path[k]) for k in (trained.steps, -1))
    up, down = (strides - truth).norm(dim=1), (strides + truth).norm(dim=1)
    assert 0.55 < (up < down).float().mean() < 0.85
    settled = torch.minimum((rounds - truth).norm(dim=1), (rounds + truth).norm(dim=1))
    assert settled.mean() < torch.minimum(up, down).mean()


class Steps(nn.Module):
    """An answer that a descent from zero cannot reach: its gradient is zero there."""

    def forward(self, h, z):
        return torch.where(z > 3, 1.0, -1.0) + 0 * z


def test_a_pair_takes_over_the_end_of_another_where_it_fits_clearly_better():
    model = build(margin=0.0)
    model.generator = Steps()
    end = torch.tensor([[0.0, 0.0], [4.0, 4.0], [0.1, 0.1]])
    y = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    step = Step(0, 0, 0, 3, 3)
    model.others = 1
    taken = model._exchange(torch.zeros(3, 8), y, end, step)
    assert torch.equal(taken, end[[1, 1, 2]])
    end[1] = torch.nan
    model.others = 2
    assert torch.equal(model._exchange(torch.zeros(3, 8), y, end, step)[0], end[0])


def test_the_networks_share_no_gradient():
    model = build()
    x, y = two_answers(16)
    total, logs = model.loss(x, y, Step(0, 0, 0, 16, 16))
    own = [*model.trunk.parameters(), *model.head.parameters()]
    whole = torch.autograd.grad(total, own, retain_graph=True)
    alone = torch.autograd.grad(logs["updater"], own, retain_graph=True)
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
    assert abs(total - clean) < 0.5 * clean
    with pytest.raises(NonFiniteError, match="No descent of this step is finite"):
        model.loss(x, y * torch.nan, Step(0, 0, 0, 16, 16))


def test_skips_go_past_the_updater():
    model = build(Skips())
    x, y = two_answers(64)
    model.fit(TensorDataset(x, y), max_train_steps=3, batch_size=16)
    assert model.predict(x, 3).shape == (64, 3, 2)


@pytest.mark.parametrize("options", [{"steps": 0}, {"descent": {"steps": 0}}])
def test_walks_and_descents_without_steps_are_refused(options):
    with pytest.raises(InputError, match="need 1 step or more"):
        build(**options)

"""cGML's one-to-many prediction, without an adversary."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from latentctl import OneToMany
from latentctl.controllers.cgml.one_to_many import _belief, _drawn, _far_apart
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
    """An encoder that gives the generator more than the gate sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 8)

    def forward(self, x):
        return self.layer(x), x


def build(encoder=None, **options):
    with seeded(0):
        encoder = encoder or nn.Sequential(nn.Linear(1, 8), nn.SiLU())
        options = {"width": 32, "starts": 6, **options}
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


def test_seeds_repeat_and_the_share_of_an_answer_is_that_of_the_pairs(trained):
    x = two_answers(5)[0]
    assert torch.equal(trained.predict(x, 4, seed=1), trained.predict(x, 4, seed=1))
    assert not torch.equal(trained.predict(x, 4, seed=1), trained.predict(x, 4, seed=2))
    z, _ = trained.find(x, 4)
    assert z.shape == (20, 2)
    first = trained.predict(x, 100)[:, :, 0] > 0
    assert 0.6 < first.float().mean() < 0.8


def test_a_rare_answer_is_not_lost_to_a_frequent_one():
    # an absolute error alone fits a start that both share to the frequent one, for ever
    x, y = two_answers(2000)
    rare = noise(0, 2000, (1,), seed=0, purpose="rare", uniform=True) < 0.15
    y = torch.where(rare, -1.0, 1.0) * y[:, :1].abs().expand(-1, 2)
    model = build().fit(TensorDataset(x, y), max_train_steps=150, batch_size=64, ema=0.9)
    answers = model.predict(x[:20], 100)[..., 0]
    assert 0.08 < (answers < -0.8).float().mean() < 0.25
    assert (answers > 0.8).float().mean() > 0.7


def test_a_pair_draws_the_start_that_answers_it_and_any_while_the_scale_is_wide():
    y = torch.tensor([1.0, -1.0]).repeat(100)[:, None].expand(-1, 2)
    at = torch.tensor([1.0, -1.0, 9, 9, 9, 9])[None, :, None]
    share, uniform = torch.zeros(200, 6), noise(0, 200, (6,), seed=0, uniform=True)
    scale, belief = _belief(at + 0.01 - y[:, None], y, share)
    assert abs(scale - 0.01) < 1e-6
    assert torch.equal(_drawn(belief, uniform), torch.arange(2).repeat(100))
    scale, belief = _belief(0.01 * at - y[:, None], y, share)
    assert scale > 0.9
    assert len(_drawn(belief, uniform).unique()) == 6


def test_shares_decide_between_equal_answers_once_the_scale_is_narrow():
    y = torch.tensor([1.0, -1.0]).repeat(100)[:, None]
    share = torch.tensor([0.9, 0.1]).log().expand(200, 2)
    narrow = _belief(torch.full((200, 2, 1), 0.01), y, share)[1].exp()
    wide = _belief(torch.full((200, 2, 1), 1.0), y, share)[1].exp()
    assert abs(narrow[0, 0] - 0.9) < 0.01
    assert abs(wide[0, 0] - 0.5) < 0.01
    assert _belief(torch.zeros(200, 2, 1), torch.ones(200, 1), share)[1].isfinite().all()


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3, 3)])
def test_starts_are_apart(shape):
    starts = _far_apart(7, shape)
    assert starts.shape == (7, *shape)
    assert abs(torch.pdist(starts.flatten(1)).min() - 4) < 1e-4


def test_the_networks_share_no_gradient():
    model = build()
    x, y = two_answers(16)
    total, logs = model.loss(x, y, Step(0, 0, 0, 16, 16))
    own = list(model.gate.parameters())
    whole = torch.autograd.grad(total, own, retain_graph=True)
    alone = torch.autograd.grad(logs["gate"], own, retain_graph=True)
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one, other)
    others = [*model.encoder.parameters(), *model.generator.parameters()]
    assert all(g is None for g in torch.autograd.grad(logs["gate"], others, allow_unused=True))


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
    with pytest.raises(NonFiniteError, match="No pair of this step is finite"):
        model.loss(x, y * torch.nan, Step(0, 0, 0, 16, 16))


def test_skips_go_past_the_gate():
    model = build(Skips())
    x, y = two_answers(64)
    model.fit(TensorDataset(x, y), max_train_steps=3, batch_size=16)
    assert model.predict(x, 3).shape == (64, 3, 2)


def test_no_starts_are_refused():
    with pytest.raises(InputError, match="take 1 or more"):
        build(starts=0)

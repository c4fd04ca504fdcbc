"""A fit learns the same on any number of processes, and whatever other threads draw."""

from __future__ import annotations

import threading

import pytest
import torch
from conftest import NAMES, ToyVAE, toy_decoder, toy_latents
from emulated_processes import run_on
from torch import nn

from latentctl.controllers import Actor, Ascent, FlowMatching, Updater, amortise
from latentctl.controllers.distillation import distill
from latentctl.critics import AttributeCritic, PixelCritic, RewardCritic
from latentctl.decoder import Gaussian
from latentctl.knowledge import Knowledge
from latentctl.nn import Dropout, rows_of_batch
from latentctl.priors import LatentFlow
from latentctl.random import seeded
from latentctl.training.batches import rows_of_process

FEW = {"max_train_steps": 4, "batch_size": 20, "width": 16}
Z = toy_latents(120, 0)

FITS = {
    "attributes": lambda a: AttributeCritic.fit(Z, accelerator=a, **FEW),
    "rewards": lambda a: RewardCritic.fit(Z, dropout=0.3, accelerator=a, **FEW),
    "coupling": lambda a: LatentFlow.fit(Z, "coupling", accelerator=a, **FEW),
    "spline": lambda a: LatentFlow.fit(Z, "spline", accelerator=a, **FEW),
    "matching": lambda a: LatentFlow.fit(Z, "matching", accelerator=a, **FEW),
    "knowledge": lambda a: Knowledge.fit(
        "Male", Gaussian((8,)), Z, critic_steps=4, critic_width=16, accelerator=a, **FEW
    ),
    "flow matching": lambda a: FlowMatching.fit(Z, accelerator=a, depth=1, **FEW),
    "actor": lambda a: Actor.fit(Z, accelerator=a, depth=2, distance_weight=0.1, **FEW),
    "updater": lambda a: Updater.fit(
        Z, Ascent(critic(), steps=3), requests=30, depth=2, accelerator=a, **FEW
    ),
    "distill": lambda a: distill(
        pixels(), Z, samples=30, samples_per_round=30, accelerator=a, **FEW
    ),
    "amortise": lambda a: amortise(Ascent(critic(), steps=3), Z, depth=1, accelerator=a, **FEW),
}


def critic():
    with seeded(0):
        return AttributeCritic((8,), Z.names, width=8).eval()


def pixels():
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    return PixelCritic(toy_decoder(ToyVAE()), network, names=NAMES)


def learned(fit, count):
    """The weights after a fit on `count` processes; all of them have the same."""
    states = [fitted.state_dict() for fitted in run_on(count, fit)]
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) for name, value in states[0].items())
    return states[0]


@pytest.fixture
def plain_descent(monkeypatch):
    """No Adam, which makes of a gradient's rounding error a step of the whole learning rate."""

    def descent(weights, lr, betas, weight_decay=0.0):
        return torch.optim.SGD(weights, lr=lr, weight_decay=weight_decay)

    for name in ("Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, name, descent)
    monkeypatch.setattr("latentctl.controllers.actor.torch.optim.Adam", descent)


@pytest.mark.parametrize("name", FITS)
def test_any_number_of_processes_learns_the_same(name, plain_descent):
    one = learned(FITS[name], 1)
    for count in (2, 3):  # 20 rows on 3 processes are not divided equally
        other = learned(FITS[name], count)
        far = max((one[k].float() - v.float()).abs().max().item() for k, v in other.items())
        assert far < 1e-6, (count, far)


@pytest.mark.parametrize("name", ["attributes", "coupling", "knowledge"])
def test_what_another_thread_draws_changes_nothing(name):
    alone = learned(FITS[name], 1)
    stop, drawn = threading.Event(), []

    def draw():
        while not stop.is_set():
            drawn.append(torch.randn(3))

    thread = threading.Thread(target=draw)
    thread.start()
    beside = learned(FITS[name], 1)
    stop.set()
    thread.join()
    assert len(drawn) > 10 and all(torch.equal(alone[key], v) for key, v in beside.items())


def test_a_mask_is_of_its_sample():
    layer, x = Dropout(0.3), torch.ones(12, 5)

    def mask(start, rows, step=0, times=1):
        with rows_of_batch(seed=0, step=step, start=start, count=len(rows)):
            return [layer(torch.cat([rows] * times)) for _ in range(2)]

    (whole, again), (part, _) = mask(0, x), mask(4, x[4:9])
    assert torch.equal(whole[4:9], part) and not torch.equal(whole, again)
    assert not torch.equal(whole, mask(0, x, step=1)[0])
    twice, thrice = mask(0, x, times=2)[0], mask(4, x[4:9], times=3)[0]
    assert torch.equal(twice[4:9], thrice[:5]) and torch.equal(twice[16:21], thrice[5:10])
    assert not torch.equal(twice[:12], twice[12:])
    with rows_of_batch(seed=0, step=0, start=0, count=20_000):
        many = layer(torch.ones(20_000, 5))
    assert abs((many == 0).float().mean() - 0.3) < 0.01 and many.max() == pytest.approx(1 / 0.7)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("count", range(1, 9))
def test_every_row_is_in_one_micro_batch(count):
    ranks = run_on(count, lambda accelerator: rows_of_process(256, 2, accelerator))
    assert [row for rank in ranks for part in rank for row in part] == list(range(256))
    sizes = [len(part) for rank in ranks for part in rank]
    assert len(sizes) == 2 * count and max(sizes) - min(sizes) <= 1

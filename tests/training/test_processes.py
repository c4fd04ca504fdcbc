"""A fit learns the same on any number of processes, and whatever other threads draw."""

from __future__ import annotations

import functools
import os
import socket
import threading
from datetime import timedelta

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from conftest import NAMES, ToyVAE, toy_decoder, toy_latents
from emulated_processes import run_on
from forked import children
from latentctl_adapters.flow_decoder import PixelFlow
from latentctl_adapters.pixels.classifier import PixelClassifier
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from latentctl.controllers import Actor, Ascent, FlowMatching, Updater, amortise
from latentctl.controllers.cgml.completion import completer
from latentctl.controllers.distillation import distill
from latentctl.critics import AttributeCritic, PixelCritic, RewardCritic
from latentctl.decoder import Gaussian
from latentctl.knowledge import Knowledge
from latentctl.nn import Dropout, rows_of_batch
from latentctl.priors import LatentFlow
from latentctl.random import noise, seeded
from latentctl.rewards import explore
from latentctl.training.batches import rows_of_process

FEW = {"max_train_steps": 4, "batch_size": 20, "width": 16}
Z = toy_latents(120, 0)
SOME = Z.with_labels(Z.labels.where(noise(0, 120, (3,), seed=1) > 0, torch.nan), NAMES)
MALE = Z.select(["Male"])
PIXELS = noise(0, 60, (3, 4, 4), seed=2, uniform=True)
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}

FITS = {
    "attributes": lambda a: AttributeCritic.fit(SOME, dropout=0.3, accelerator=a, **FEW),
    "rewards": lambda a: RewardCritic.fit(SOME, dropout=0.3, accelerator=a, **FEW),
    "coupling": lambda a: LatentFlow.fit(Z, "coupling", accelerator=a, **FEW),
    "spline": lambda a: LatentFlow.fit(Z, "spline", accelerator=a, **FEW),
    "matching": lambda a: LatentFlow.fit(Z, "matching", accelerator=a, **FEW),
    "knowledge": lambda a: Knowledge.fit(
        "Male", Gaussian((8,)), SOME, critic_steps=4, critic_width=16, accelerator=a, **FEW
    ),
    "flow matching": lambda a: FlowMatching.fit(Z, accelerator=a, depth=1, **FEW),
    "actor and realism": lambda a: with_realism(
        Actor.fit(
            SOME,
            attributes=critic(),
            attribute_weight=1.0,
            teacher=Ascent(critic(), steps=2),
            demonstration_steps=2,
            critic_warmup_steps=2,
            distance_weight=0.1,
            depth=2,
            accelerator=a,
            **FEW | {"max_train_steps": 6},
        )
    ),
    "updater": lambda a: Updater.fit(
        Z, Ascent(critic(), steps=3), requests=30, depth=2, accelerator=a, **FEW
    ),
    "unrolled updater": lambda a: completer(
        toy_decoder(ToyVAE()),
        PIXELS,
        lambda step: step.uniform(1, 4, 4, purpose="mask") < 0.5,
        features=4,
        depth=1,
        accelerator=a,
        **FEW,
    ),
    "distill": lambda a: distill(
        pixels(), MALE, samples=30, samples_per_round=10, rounds=1, accelerator=a, **FEW
    ),
    "amortise": lambda a: amortise(Ascent(critic(), steps=3), Z, depth=1, accelerator=a, **FEW),
    "explore": lambda a: explored(
        explore(
            toy_decoder(ToyVAE()),
            {"light": lambda x: x.mean((1, 2, 3))},
            encodings=Z,
            rounds=1,
            prior_samples=60,
            moves=30,
            first_steps=3,
            train_steps=6,
            width=8,
            batch_size=20,
            accelerator=a,
        )
    ),
    # batches are normalised in each process: of networks with other normalisations only
    "pixel classifier": lambda a: PixelClassifier.fit(
        (255 * PIXELS.repeat_interleave(4, 2).repeat_interleave(4, 3)).byte(),
        SOME.labels[:60],
        NAMES,
        model_name="vit_tiny_patch16_224",
        model_options=VIT,
        augment=lambda x, step: x,
        epochs=1,
        batch_size=20,
        accelerator=a,
    ),
    "pixel flow": lambda a: PixelFlow.fit(
        PIXELS, width=8, blocks=1, max_train_steps=4, batch_size=20, accelerator=a
    ),
}


def critic():
    with seeded(0):
        return AttributeCritic((8,), Z.names, width=8).eval()


def pixels():
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    return PixelCritic(toy_decoder(ToyVAE()), network, names=["Male"])


def with_realism(actor):
    return nn.ModuleList([actor, actor.realism])


def explored(found):
    return nn.ModuleList([found.critic, found.actor, found.actor.realism])


def in_double_precision(module, inputs):
    """Floating inputs in the type of a layer's weights."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, torch.Tensor):
        return tuple(x.to(weight.dtype) if x.is_floating_point() else x for x in inputs)
    return None


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """In float32 sums round differently, and Adam makes a step of its rate of any gradient."""
    hook = register_module_forward_pre_hook(in_double_precision)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    hook.remove()


def learned(fit, count):
    """The weights after a fit on `count` processes; all of them have the same."""
    return same(fitted.state_dict() for fitted in run_on(count, fit))


def same(states):
    first, *others = states
    assert all(torch.equal(v, state[name]) for state in others for name, v in first.items())
    return first


@functools.cache
def learned_by_one(name):
    return learned(FITS[name], 1)


def apart(name, found):
    """The largest difference of a weight from what one process learns."""
    one = learned_by_one(name)
    return max((one[k].double() - v.double()).abs().max().item() for k, v in found.items())


def train_as(rank, port, folder):
    """All fits in one of two real processes."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process it was forked from
    wait = InitProcessGroupKwargs(timeout=timedelta(seconds=300))
    accelerator = Accelerator(kwargs_handlers=[wait])
    assert accelerator.num_processes == 2
    for name, fit in FITS.items():
        torch.save(fit(accelerator).state_dict(), folder / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder in which two real processes leave what they learned."""
    for name in FITS:
        learned_by_one(name)  # before the fork: the two need not import then
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    assert children(2, lambda rank: train_as(rank, port, folder)) == [0, 0]
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", FITS)
def test_two_processes_learn_what_one_does(name, pair):
    found = same(torch.load(pair / f"{name}-{rank}.pt") for rank in range(2))
    assert apart(name, found) < 1e-6


@pytest.mark.parametrize("name", FITS)
def test_three_that_divide_a_batch_unequally_learn_what_one_does(name):
    assert apart(name, learned(FITS[name], 3)) < 1e-6


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
    assert len(sizes) == 2 * count and max(sizes) - min(sizes) <= 2

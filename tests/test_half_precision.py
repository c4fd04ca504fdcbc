"""Every fit under mixed precision, and every sample and edit of a bfloat16 decoder."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import NAMES, ToyVAE, toy_decoder, toy_latents
from support.run import RunFlags
from torch import nn

from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    FlowMatching,
    Gaussian,
    KnowledgeBase,
    LatentFlow,
    Latents,
    PixelCritic,
    Updater,
    condition,
    distill,
)
from latentctl.controllers import amortise
from latentctl.critics import RewardCritic
from latentctl.random import seeded

SIZES = {"max_train_steps": 4, "batch_size": 32}
FEW = {**SIZES, "width": 16}
Z = toy_latents(120, 0)


@pytest.fixture
def bf16():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def grids():
    z = torch.randn(60, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Latents(z, None, (z.mean((1, 2, 3)) > 0).float()[:, None], ["Up"])


def critic():
    with seeded(0):
        return AttributeCritic((8,), NAMES, width=8).eval()


def bf16_decoder():
    return toy_decoder(ToyVAE().bfloat16())


def pixels():
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    return PixelCritic(toy_decoder(ToyVAE()), network, names=NAMES)


FITS = {
    "attributes": lambda: AttributeCritic.fit(Z, **FEW),
    "attributes of grids": lambda: AttributeCritic.fit(grids(), **FEW),
    "rewards": lambda: RewardCritic.fit(Z, dropout=0.3, **FEW),
    "coupling": lambda: LatentFlow.fit(Z, "coupling", **FEW),
    "coupling of grids": lambda: LatentFlow.fit(grids(), "coupling", **FEW),
    "spline": lambda: LatentFlow.fit(Z, "spline", **FEW),
    "matching": lambda: LatentFlow.fit(Z, "matching", **FEW),
    "matching of grids": lambda: LatentFlow.fit(grids(), "matching", **FEW),
    "knowledge": lambda: KnowledgeBase(Gaussian((8,)), (8,)).add("Male", Z, critic_steps=4, **FEW),
    "flow matching": lambda: FlowMatching.fit(Z, depth=1, **FEW),
    "actor": lambda: Actor.fit(
        Z, attributes=critic(), attribute_weight=1.0, distance_weight=0.1, depth=2, **FEW
    ),
    "actor with a teacher": lambda: Actor.fit(
        Z, teacher=Ascent(critic(), steps=2), demonstration_steps=2, depth=2, **FEW
    ),
    "actor of grids": lambda: Actor.fit(grids(), depth=2, **FEW),
    "updater": lambda: Updater.fit(
        Z, Ascent(critic(), steps=3), attributes=critic(), requests=30, depth=2, **FEW
    ),
    "amortise": lambda: amortise(Ascent.for_edits(critic()), Z, depth=1, **FEW),
    "distill": lambda: distill(pixels(), Z, samples=30, samples_per_round=30, **FEW),
}


@pytest.mark.parametrize("name", FITS)
def test_fits_under_mixed_precision(name, bf16):
    fitted = FITS[name]()
    weights = list(fitted.parameters())
    assert weights and all(w.dtype == torch.float32 and w.isfinite().all() for w in weights)


CONTROLLERS = {
    "ascent": lambda: Ascent(critic(), steps=3),
    "edits": lambda: Ascent.for_edits(critic()),
    "actor": lambda: Actor((8,), NAMES, width=8),
    "flow matching": lambda: FlowMatching((8,), NAMES, width=8, steps=2),
    "updater": lambda: Updater((8,), NAMES, width=8, steps=2),
}


@pytest.mark.parametrize("name", CONTROLLERS)
def test_samples_and_edits_of_a_bf16_decoder(name):
    decoder = bf16_decoder()
    mover = CONTROLLERS[name]()
    faces = condition(decoder, critic(), mover, editor=mover)
    x = decoder.decode(torch.zeros(3, 8))
    for photos in (x, x.float()):
        assert faces.edit(photos, Male=True).x.isfinite().all()
    out = faces.sample(3, Smiling=True)
    assert out.x.isfinite().all() and out.probability.dtype == torch.float32


@pytest.mark.parametrize("kind", ["coupling", "spline", "matching"])
def test_flows_of_a_bf16_decoder(kind, tmp_path):
    decoder = bf16_decoder()
    flow = LatentFlow.fit(Z, kind, **FEW)
    condition(decoder.through(flow), critic()).sample(2, Smiling=True)
    with torch.autocast("cpu", torch.bfloat16):
        z = flow.sample(3)
        assert flow.log_prob(z).isfinite().all() and flow.to_base(z).isfinite().all()


def test_a_conditional_in_autocast():
    decoder = toy_decoder(ToyVAE())
    with torch.autocast("cpu", torch.bfloat16):
        for make in CONTROLLERS.values():
            mover = make()
            faces = condition(decoder, critic(), mover, editor=mover)
            faces.sample(3, Smiling=True)
            faces.edit(torch.rand(3, 3, 4, 4), Male=True)


def test_a_recipe_takes_the_precision_of_the_launcher(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for asked, found in ((None, "bf16"), ("no", "no")):
        AcceleratorState._reset_state(reset_partial_state=True)
        flags = RunFlags(output_dir=str(tmp_path), mixed_precision=asked, num_threads=1)
        assert flags.accelerator("test").mixed_precision == found
    AcceleratorState._reset_state(reset_partial_state=True)

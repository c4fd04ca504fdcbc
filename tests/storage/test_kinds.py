"""Every registered kind of module saves and loads, and gives the same outputs, bit for bit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    ExampleCritic,
    FlowMatching,
    Gaussian,
    KnowledgeBase,
    LatentFlow,
    RealismCritic,
    RewardCritic,
    Updater,
)
from latentctl.controllers import (
    Controller,
    FlowEdit,
    Rejection,
    Request,
    SphericalAscent,
    Transport,
)
from latentctl.controllers.cgml.completion import VisibleEncoder, seen_input
from latentctl.critics import Critic, JoinedCritic, MeanCritic, Member
from latentctl.knowledge import Knowledge
from latentctl.priors import GaussianMixture
from latentctl.random import noise, seeded
from latentctl.storage.saved import KINDS

SHAPE, NAMES, SIZES = (4,), ["Smiling", "Male"], {"width": 8, "depth": 1}
Z = noise(0, 5, SHAPE, seed=0, purpose="kinds")


def attributes(**options):
    return AttributeCritic(SHAPE, NAMES, **SIZES, **options)


def realism():
    return RealismCritic(SHAPE, NAMES, **SIZES)


def examples():
    hats = ExampleCritic.fit("Hat", Z[:2], Z[2:])
    assert bool(hats.weight.any())
    return hats


def knowledge(prior=None):
    prior = Gaussian(SHAPE, 0.5, 2.0) if prior is None else prior
    return Knowledge("Smiling", prior, SHAPE, width=8, critic_width=8)


def knowledge_base():
    base = KnowledgeBase(LatentFlow(SHAPE, **SIZES), SHAPE)
    base._hold([knowledge(base.prior)])
    return base


def completer():
    encoder = VisibleEncoder((3, 8, 8), 6)
    return Updater(SHAPE, context=10, context_encoder=encoder, gradient_input=True, **SIZES)


BUILD = {
    "attributes": [attributes, lambda: attributes(rank=1, smooth=True)],
    "realism": [realism],
    "rewards": [lambda: RewardCritic(SHAPE, NAMES, **SIZES)],
    "examples": [examples],
    "joined": [lambda: JoinedCritic(attributes(), examples())],
    "and": [lambda: (lambda c: c["Smiling"] & c["Male"])(attributes())],
    "weighted": [lambda: (lambda c: c["Smiling"] | ~c["Male"])(attributes())],
    "columns": [lambda: attributes()["Male"], lambda: attributes().select(["Male", "Smiling"])],
    "mean": [lambda: MeanCritic(attributes(), attributes())],
    "member": [lambda: Member(attributes(), ["Happy", "Man"], 2.0)],
    "match": [lambda: attributes().match(torch.tensor([[1.0, torch.nan]]))],
    "knowledge": [knowledge],
    "knowledge-base": [knowledge_base, lambda: KnowledgeBase(Gaussian(SHAPE), SHAPE)],
    "ascent": [
        lambda: Ascent(attributes(), realism(), steps=3),
        lambda: Ascent.for_edits(attributes(rank=1), steps=3),
        lambda: Ascent(knowledge_base(), steps=2),
    ],
    "rejection": [
        lambda: Rejection(attributes(), candidates=3),
        lambda: Rejection(attributes(), realism(), otherwise=Ascent(attributes(), steps=2)),
    ],
    "spherical-ascent": [lambda: SphericalAscent(attributes(), realism(), steps=3)],
    "transport": [lambda: Transport(attributes(), realism(), steps=3)],
    "actor": [lambda: Actor(SHAPE, NAMES, **SIZES)],
    "flow-edit": [lambda: FlowEdit(attributes(), FlowMatching(SHAPE, NAMES, **SIZES), steps=2)],
    "flow-matching": [lambda: FlowMatching(SHAPE, NAMES, steps=2, **SIZES)],
    "updater": [lambda: Updater(SHAPE, NAMES, steps=3, **SIZES), completer],
    "visible-encoder": [lambda: VisibleEncoder((3, 8, 8), 6), lambda: VisibleEncoder((12,), 6)],
    "gaussian": [lambda: Gaussian(SHAPE, torch.arange(4.0), torch.arange(1.0, 5.0))],
    "gaussian-mixture": [
        lambda: GaussianMixture(
            SHAPE, torch.tensor([0.3, 0.7]), Z[:2], torch.eye(4).repeat(2, 1, 1)
        )
    ],
    "latent-flow": [
        lambda: LatentFlow(SHAPE, "coupling", **SIZES),
        lambda: LatentFlow(SHAPE, "spline", blocks=1, **SIZES),
        lambda: LatentFlow(SHAPE, "matching", steps=2, **SIZES),
    ],
}
CASES = [(kind, number) for kind, builds in BUILD.items() for number in range(len(builds))]


def outputs(module):
    """Everything that a module computes."""
    if isinstance(module, VisibleEncoder):
        x = torch.ones(2, *module.config["sample_shape"])
        return [module(seen_input(x, x > 0), Z[:2])]
    if isinstance(module, Updater) and not module.names:
        context = noise(0, 5, (10,), seed=1, purpose="context")
        return list(module.walk(context, Z, cost=lambda z: z.square().sum(1)))
    if isinstance(module, Controller):
        names = getattr(module, "names", None) or module.attributes.names
        target = torch.tensor([[1.0, torch.nan]])[:, : len(names)]
        moved = module.move(Z, Request(target=target))
        return [moved.z, moved.evaluations]
    found = [module(Z)] if isinstance(module, Critic) else []
    for name in ("log_prob", "sample"):
        if hasattr(module, name):
            found.append(getattr(module, name)(Z if name == "log_prob" else 3))
    return found


def test_every_kind_of_the_library_is_here():
    kinds = {kind for kind, cls in KINDS.items() if cls.__module__.startswith("latentctl.")}
    assert kinds == set(BUILD)


@pytest.mark.parametrize(("kind", "number"), CASES)
def test_a_saved_module_gives_the_same_outputs(kind, number, tmp_path):
    with seeded(number, kind):
        module = BUILD[kind][number]().eval()
        for weight in module.parameters():  # some layers begin at zero
            weight.data.add_(0.05 * torch.randn_like(weight))
    assert module.saved_as == kind
    given = {"prior": module.prior} if hasattr(module, "prior") else {}
    again = type(module).load(module.save(tmp_path / "saved"), **given)
    for other in (again, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.config == module.config and not other.training
        assert getattr(other, "names", ()) == getattr(module, "names", ())
        found, expected = outputs(other), outputs(module)
        assert found and all(map(torch.equal, found, expected))

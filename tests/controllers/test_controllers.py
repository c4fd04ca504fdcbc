"""Moves: gradient ascent, the ODE and learned controllers, on the toy decoder of known labels."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from conftest import FAST, NAMES, QUICK, Linear, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from latentctl.controllers import (
    Actor,
    Ascent,
    Controller,
    FlowEdit,
    FlowMatching,
    Move,
    Refined,
    Rejection,
    Request,
    SphericalAscent,
    Transport,
    Updater,
)
from latentctl.controllers.ascent import distance
from latentctl.controllers.cgml.network import UpdaterNetwork
from latentctl.controllers.imitation import collect_demonstrations
from latentctl.controllers.request import flips
from latentctl.critics import AttributeCritic, Critic, RealismCritic
from latentctl.decoder import Gaussian
from latentctl.errors import InputError, LawError, NonFiniteError
from latentctl.evaluation.laws import check_controller
from latentctl.latents import Latents
from latentctl.random import noise

NAN = torch.nan
SMILE = torch.tensor([[1.0, NAN, NAN]])
NEVER = Linear(torch.zeros(8), -200.0)  # never satisfied, with zero gradient
SMALL = {"width": 64, "depth": 2, "seed": 1}
KINDS = (Actor, Ascent, FlowMatching, Refined, SphericalAscent, Transport, Updater)


class Broken(Critic):
    def forward(self, z):
        return z[:, :1] * NAN


def start(count=40, seed=0):
    return noise(0, count, (8,), seed=seed, purpose="start")


def shift(z, moved):
    return (moved - z).square().mean(1).sqrt()


def build(kind, critic, realism, learned):
    made = {
        Actor: lambda: learned[Actor],
        FlowMatching: lambda: learned[FlowMatching],
        Updater: lambda: learned[Updater],
        Ascent: lambda: Ascent(critic, realism, steps=10, distance_weight=0.01, noise=0.1),
        Transport: lambda: Transport(critic, realism, steps=5, realism_weight=0.1),
        SphericalAscent: lambda: SphericalAscent(critic, realism),
        Refined: lambda: Refined(Ascent.for_edits(critic), critic, learning_rate=0.1),
    }
    return made[kind]()


def test_every_controller_class_is_tested():
    kinds, ours = [Controller], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("latentctl.controllers.") and not inspect.isabstract(kind):
            ours.add(kind)
    # these have files of their own
    assert ours - set(KINDS) <= {UpdaterNetwork, FlowEdit, Rejection}


@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_hold(kind, critic, realism, learned):
    controller = build(kind, critic, realism, learned)
    check_controller(controller, start(), SMILE)
    check_controller(controller, start(), torch.tensor([[0.0, 1.0, 0.3]]))
    check_controller(controller, start())


def test_the_laws_find_controllers_that_violate_them():
    class Random(Controller):
        def search(self, z, request):
            return Move(z + torch.rand(()), torch.ones(len(z)))

    class Shifting(Random):
        def move(self, z, request):
            return Move(z + 1, torch.ones(len(z)))

    with pytest.raises(LawError, match="two results"):
        check_controller(Random(), start())
    with pytest.raises(LawError, match="strength 0"):
        check_controller(Shifting(), start())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    exponent=st.floats(-3, 3),
    y=st.lists(st.sampled_from([0.0, 1.0, 0.4, NAN]), min_size=3, max_size=3),
    strength=st.floats(0, 1),
)
def test_finite_latents_stay_finite(kind, critic, realism, learned, exponent, y, strength):
    z = 10**exponent * start(4)
    moved = build(kind, critic, realism, learned)(z, torch.tensor([y]), strength=strength)
    assert moved.shape == z.shape and torch.isfinite(moved).all()


@pytest.mark.parametrize("kind", [Ascent, Transport])
def test_a_critic_that_is_not_finite_is_named(kind, critic):
    with pytest.raises(NonFiniteError, match=r"critic `where` are not finite for 3 of 3"):
        kind(critic).move(start(3), Request(target=SMILE, where=Broken()))
    broken = RealismCritic((8,), width=4)
    torch.nn.init.constant_(broken.net.head.bias, NAN)
    with pytest.raises(NonFiniteError, match="realism critic"):
        kind(critic, broken, realism_weight=1.0).move(start(3), Request(target=SMILE))
    empty = AttributeCritic((8,), ["Smiling"], width=4)
    torch.nn.init.constant_(empty.net.head.bias, math.inf)
    with pytest.raises(NonFiniteError, match="attribute critic"):
        kind(empty).move(start(3), Request(target=torch.zeros(1, 1)))


def test_an_actor_that_is_not_finite_is_reported():
    actor = Actor((8,), width=4, depth=1)
    torch.nn.init.constant_(actor.net.head.bias, NAN)
    with pytest.raises(NonFiniteError, match=r"samples \[0, 1, 2\] of 3"):
        actor(start(3))


@pytest.mark.parametrize("kind", KINDS)
def test_strength_is_the_share_of_the_move(kind, critic, realism, learned):
    controller, z = build(kind, critic, realism, learned), start()
    whole = controller(z, SMILE)
    torch.testing.assert_close(controller(z, SMILE, strength=0.3), z + 0.3 * (whole - z))
    assert torch.equal(controller(z, SMILE, strength=0.0), z)
    assert torch.equal(controller(z, SMILE), controller.move(z, Request(target=SMILE)).z)


@pytest.mark.parametrize("kind", KINDS)
def test_the_move_reaches_its_target(kind, critic, realism, learned):
    controller = Transport(critic) if kind is Transport else build(kind, critic, realism, learned)
    if kind is Ascent:
        controller = Ascent(critic)
    z = start(100)
    for target in ([1.0, 0.0, NAN], [0.0, NAN, 1.0]):
        y = torch.tensor([target])
        reached = (truth(controller(z, y)) == y) | y.isnan()
        before = (truth(z) == y) | y.isnan()
        assert before.all(1).float().mean() < 0.5
        # a flow does not use the critic: labels of noisy encodings blur the edges of classes
        assert reached.all(1).float().mean() > (0.45 if kind is FlowMatching else 0.8), target


def test_a_satisfied_sample_is_not_moved(critic):
    z = start(60)
    moved, evaluations = unpack(
        Ascent(critic, steps=30).move(z, Request(target=SMILE, threshold=0.9))
    )
    holds = critic.probability(z)[:, 0] >= 0.9
    assert 0 < holds.sum() < 60
    assert torch.equal(moved[holds], z[holds]) and (evaluations[holds] == 1).all()
    assert (moved[~holds] != z[~holds]).any(1).all() and (evaluations[~holds] > 1).all()


def unpack(move):
    return move.z, move.evaluations


@pytest.mark.parametrize("noisy", [0.0, 0.1])
def test_leaving_the_batch_changes_the_cost_and_not_the_result(critic, realism, noisy):
    z = start()
    target, hold = torch.tensor([[1.0, NAN, NAN]]), torch.tensor([[False, False, True]])
    request = Request(target=target, hold=hold, seed=3)
    options = {"steps": 60, "distance_weight": 0.003, "noise": noisy}
    dropped = Ascent(critic, realism, **options).move(z, request)
    kept = Ascent(critic, realism, drop_finished=False, **options).move(z, request)
    torch.testing.assert_close(dropped.z, kept.z, rtol=0, atol=1e-6)
    assert (dropped.evaluations <= kept.evaluations).all()
    assert dropped.evaluations.sum() < 0.8 * kept.evaluations.sum()
    assert len(dropped.evaluations.unique()) > 3 and len(kept.evaluations.unique()) == 1


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_a_sample_stops_at_the_threshold(critic, threshold):
    z = start()
    z = z[critic.probability(z)[:, 0] < 0.5]
    ascent = Ascent(critic, learning_rate=0.02, steps=400)
    p = critic.probability(ascent.move(z, Request(target=SMILE, threshold=threshold)).z)[:, 0]
    assert (p >= threshold - 1e-6).all()
    assert p.mean() < (1 + threshold) / 2, "no further than the threshold"


def test_a_fractional_target_is_reached_and_a_held_probability_is_kept(critic):
    z = start()
    aim = Ascent(critic, steps=300).move(
        z, Request(target=torch.tensor([[0.6, NAN, NAN]]), threshold=0.95)
    )
    assert ((critic.probability(aim.z)[:, 0] - 0.6).abs() <= 0.05 + 1e-6).all()
    everything = Request(target=torch.full((1, 3), NAN), hold=torch.ones(1, 3, dtype=torch.bool))
    keep = Ascent(critic).move(z, everything)
    assert torch.equal(keep.z, z)


def test_held_attributes_move_less(critic):
    z = start(80)
    p = critic.probability(z)
    held = flips(p, torch.zeros(len(z), dtype=torch.long))  # Smiling, on which Hat depends
    free = Request(target=held.target)

    def leak(request, **options):
        ascent = Ascent(critic, steps=200, **options)
        moved = critic.probability(ascent.move(z, request).z)
        assert ((moved - p).abs()[:, 0] > 0.3).all(), "the target is reached"
        return (moved - p).abs()[:, 1:].mean()

    assert leak(held) < 0.7 * leak(free)
    assert leak(held, hold_weight=10.0) < leak(held) < leak(held, hold_weight=0.01)


def test_the_distance_term_shortens_the_move(critic):
    z = start(30)
    z = z[critic.probability(z)[:, 0] < 0.5]
    weights = (0.0, 0.01, 0.1, 1.0)
    ends = [Ascent(critic, steps=150, distance_weight=w)(z, SMILE) for w in weights]
    far = [distance(end, z, critic.posterior_std).mean().item() for end in ends]
    assert far == sorted(far, reverse=True) and far[-1] < 0.1 * far[0], far


def test_the_distance_term_penalises_dimensions_of_small_posterior_std():
    critic = AttributeCritic((8,), ["A"], width=8, depth=1)
    critic.posterior_std.copy_(torch.tensor([0.1] * 4 + [1.0] * 4))
    z, even = torch.zeros(1, 8), Linear(torch.ones(8), -4.0)
    moved = Ascent(critic, steps=200, distance_weight=0.3).move(z, Request(where=even)).z[0]
    assert moved[4:].min() > 3 * moved[:4].max() > 0
    plain = Ascent(critic, steps=200).move(z, Request(where=even)).z[0]
    torch.testing.assert_close(plain[4:], plain[:4])


def test_the_realism_term_moves_towards_the_data(critic, realism):
    z = start()
    z[:, 3] = -0.5
    y = torch.tensor([[1.0, 0.0, NAN]])
    options = {"steps": 200}
    without = realism.probability(Ascent(critic, realism, realism_weight=0.0, **options)(z, y))
    with_it = realism.probability(Ascent(critic, realism, realism_weight=1.0, **options)(z, y))
    assert with_it.mean() > without.mean() + 0.02
    strict = Ascent(critic, realism, realism_weight=1.0, realism_threshold=0.7, **options)
    moved = strict(z, y)
    assert (realism.probability(moved) >= 0.7 - 1e-6).all()
    assert (critic.match(y).probability(moved) > 0.9).all()


def test_realism_alone_moves_the_prior_to_the_data(realism):
    z = start()
    moved = Ascent(None, realism, realism_weight=1.0, realism_threshold=0.8, steps=300)(z)
    assert (z[:, 3] - 1.5).abs().mean() > 1 > 0.7 > (moved[:, 3] - 1.5).abs().mean()
    assert (realism.probability(moved) >= 0.8 - 1e-6).all()


def test_an_unreachable_request_stops_at_the_last_step(critic):
    impossible = critic["Male"] & ~critic["Male"]
    move = Ascent(critic, steps=25).move(start(5), Request(where=impossible))
    assert (move.evaluations == 25).all() and torch.isfinite(move.z).all()
    assert (impossible.probability(move.z) < 0.95).all()


def test_langevin_noise_of_a_sample_does_not_depend_on_its_batch():
    ascent, z = Ascent(noise=0.5, steps=4), start(20)
    index = torch.arange(100, 120)
    whole = ascent.move(z, Request(where=NEVER, seed=1, index=index)).z
    order = torch.tensor([7, 3, 19, 0])
    part = ascent.move(z[order], Request(where=NEVER, seed=1, index=index[order])).z
    assert torch.equal(part, whole[order])
    steps = whole - z
    assert len(steps.unique(dim=0)) == 20, "each sample has its own noise"
    spread = 0.5 * math.sqrt(2 * 0.05) * math.sqrt(4)
    assert (steps.std() / spread - 1).abs() < 0.15
    for other in ({"seed": 2, "index": index}, {"seed": 1, "index": index + 1}):
        assert not torch.equal(ascent.move(z, Request(where=NEVER, **other)).z, whole)
    assert torch.equal(Ascent(steps=4).move(z, Request(where=NEVER, seed=1)).z, z), (
        "without noise and gradient nothing moves"
    )


def test_the_ode_does_not_move_the_prior_where_the_critic_is_constant():
    z = Gaussian((8,)).sample(1000, seed=0)
    moved = Transport(steps=7).move(z, Request(where=NEVER)).z
    assert torch.equal(moved, z) and (moved.var() - 1).abs() < 0.05
    tilted = Transport(steps=7).move(z, Request(where=Linear(torch.eye(8)[0], -200.0))).z
    assert not torch.equal(tilted, z)


def test_the_ode_in_closed_form():
    w = torch.linspace(-1, 1, 8)
    z = start(5)
    moved = Transport(steps=3).move(z, Request(where=Linear(w, -500.0))).z  # grad log P = w
    torch.testing.assert_close(moved, z + w * (0.1 + 20.0) / 4, rtol=1e-4, atol=1e-4)


def test_the_ode_agrees_with_a_fine_reference_and_converges():
    w, b = torch.linspace(-0.6, 0.8, 8), -1.0
    z = start(20)

    def velocity(z, time):
        slope = torch.sigmoid(-(z @ w.double() + b))[:, None] * w.double()
        return -(0.1 + time * 19.9) / 2 * slope

    exact, h = z.double(), 1 / 1000
    for i in range(1000):  # Runge-Kutta of order four, from t = 1 to 0
        t = 1 - i * h
        k1 = velocity(exact, t)
        k2 = velocity(exact - h / 2 * k1, t - h / 2)
        k3 = velocity(exact - h / 2 * k2, t - h / 2)
        k4 = velocity(exact - h * k3, t - h)
        exact = exact - h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    errors = {}
    for steps in (25, 50, 100):
        move = Transport(steps=steps).move(z, Request(where=Linear(w, b)))
        errors[steps] = (move.z - exact).abs().max().item()
        assert (move.evaluations == 2 * steps).all()
    assert errors[25] < 0.02 and errors[50] < 0.4 * errors[25] and errors[100] < 0.4 * errors[50]


def test_the_actor_leaves_free_attributes_free(actor, critic):
    z = Gaussian((8,)).sample(200, seed=0)
    p = critic.probability(actor(z, torch.tensor([[NAN, 1.0, NAN]])))
    assert (p[:, 1] > 0.5).float().mean() > 0.9
    smiling = (p[:, 0] > 0.5).float().mean()
    assert 0.05 < smiling < 0.95, "it was not requested"
    assert torch.equal(actor(z), actor(z, torch.full((1, 3), NAN)))


def test_the_actor_has_the_realism_critic_that_it_was_trained_against(actor):
    assert isinstance(actor.realism, RealismCritic) and not actor.realism.training
    assert actor.realism.context_names == actor.names


def test_the_distance_penalty_shortens_the_moves_of_the_actor(latents):
    z, y = Gaussian((8,)).sample(100, seed=0), latents.labels[:100]
    shifts = []
    for weight in (0.0, 1.0):
        actor = Actor.fit(latents, distance_weight=weight, max_train_steps=100, **FAST, **QUICK)
        shifts.append(shift(z, actor(z, y)).mean().item())
    assert shifts[1] < 0.7 * shifts[0], shifts


def test_an_actor_of_realism_alone(latents):
    bare = latents.select([])
    stable = {**FAST, "critic_turns": 5, "distance_weight": 0.03}
    actor = Actor.fit(bare, max_train_steps=600, **stable, **QUICK)
    z = Gaussian((8,)).sample(200, seed=0)
    before, after = ((v[:, 3] - 1.5).abs().mean() for v in (z, actor(z)))
    assert actor.names == () and after < 0.6 * before


def test_the_actor_refuses_a_further_critic(actor, critic):
    with pytest.raises(InputError, match=r"Use controllers\.Ascent for `where`"):
        actor.move(start(2), Request(target=SMILE, where=critic["Male"]))


def test_an_attribute_critic_of_other_attributes_is_refused(latents, critic):
    with pytest.raises(InputError, match=r"attribute_weight needs a critic.*Smiling.*found: none"):
        Actor.fit(latents, attribute_weight=1.0, width=8)
    with pytest.raises(InputError, match="in that order"):
        Actor.fit(
            latents.select(["Male"]), attributes=critic, attribute_weight=1.0, width=8, depth=1
        )


def test_grids_through_every_controller(spatial_latents):
    shape = (4, 8, 8)
    critic = AttributeCritic.fit(
        spatial_latents, width=8, depth=1, max_train_steps=40, batch_size=32, learning_rate=2e-2
    )
    actor = Actor.fit(
        spatial_latents,
        attributes=critic,
        attribute_weight=5.0,
        width=8,
        depth=1,
        max_train_steps=60,
        batch_size=16,
        **FAST,
    )
    z, y = noise(0, 10, shape, seed=3), torch.tensor([[1.0, NAN]])
    before = critic.probability(z)[:, 0].mean()
    for controller in (actor, Ascent(critic, actor.realism, steps=30), Transport(critic, steps=8)):
        check_controller(controller, z[:3], y)
        assert critic.probability(controller(z, y))[:, 0].mean() > before + 0.02


def test_flow_matching_moves_the_prior_to_the_data():
    # data far from N(0, I): two narrow clusters, distinguished by the label
    side = (noise(0, 2000, (1,), seed=0, purpose="side") > 0).float()
    mean = 0.3 * noise(0, 2000, (8,), seed=0, purpose="clump") + 3 * (2 * side - 1)
    latents = Latents(mean, labels=side, names=["Right"])
    flow = FlowMatching.fit(
        latents, width=64, depth=2, max_train_steps=500, batch_size=128, learning_rate=1e-2
    )
    z = start(200)
    for value in (0.0, 1.0):
        moved = flow(z, torch.tensor([[value]]))
        assert (moved.mean(0) - 3 * (2 * value - 1)).abs().max() < 0.4
        assert (moved.std(0) - 0.3).abs().max() < 0.2
    assert set(flow(z).mean(1).sign().tolist()) == {
        -1.0,
        1.0,
    }  # a free target reaches both clusters
    with pytest.raises(InputError, match="Ascent"):
        flow.move(z, Request(where=NEVER))


def test_an_actor_clones_a_controller(learned, latents):
    teacher, z = learned[FlowMatching], start(300)
    cloned = Actor.fit(
        latents, teacher=teacher, demonstration_steps=400, max_train_steps=0, **SMALL
    )
    untrained = Actor.fit(latents, max_train_steps=0, **SMALL)
    goal = teacher(z, SMILE)
    error, before = ((a(z, SMILE) - goal).square().mean() for a in (cloned, untrained))
    assert error < 0.3 * before
    assert (
        int(cloned.move(z, Request(target=SMILE)).evaluations[0])
        == 1
        < int(teacher.move(z, Request()).evaluations[0])
    )


@pytest.mark.parametrize(("options", "moves"), [({}, 40), ({"demonstration_steps": 3}, 60)])
def test_demonstrations_follow_the_budget(options, moves, latents, monkeypatch):
    asked = []

    def collect(teacher, latents, count, **rest):
        asked.append(count)
        return collect_demonstrations(teacher, latents, count, **rest)

    monkeypatch.setattr("latentctl.controllers.imitation.collect_demonstrations", collect)
    teacher = FlowMatching((8,), NAMES, width=8, depth=1, steps=1)
    few = {"max_train_steps": 3, "batch_size": 20, "critic_warmup_steps": 1}
    Actor.fit(latents, teacher=teacher, width=8, depth=1, **few, **options)
    assert asked == [moves]

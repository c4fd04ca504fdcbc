"""cGML: descent, the updater's walk, and its training by DAgger and on unrolled walks."""

from __future__ import annotations

import pytest
import torch
from conftest import toy_latents, truth

from latentctl import Updater, condition
from latentctl.controllers import Ascent
from latentctl.controllers.cgml.training import train_dagger, train_unrolled
from latentctl.controllers.request import Request
from latentctl.decoder.descent import descend, project, start_points
from latentctl.errors import InputError, NonFiniteError, ShapeError, UnknownNameError
from latentctl.random import noise, seeded
from latentctl.training import Step

QUICK = {"width": 32, "depth": 2}
GOALS = torch.tensor([[2.0, 0.0], [-2.0, 1.0]])


def starts(count=400, size=2, seed=0):
    return noise(0, count, (size,), seed=seed, purpose="start")


def to_goal(z, asked):
    """The squared distance to the goal that is asked by number."""
    return (z - GOALS[asked[:, 0].long()]).square().sum(1)


def test_a_descent_follows_the_papers_recursion():
    def cost(z):
        return z.square().sum(1)

    z = starts(5)
    path = descend(cost, z, steps=3, learning_rate=0.1, momentum=0.9)
    here, speed = z.clone(), torch.zeros_like(z)
    for step in range(3):
        speed = 0.9 * speed + 0.1 * 2 * here
        here = here - speed
        torch.testing.assert_close(path[step + 1], here)
    assert torch.equal(path[0], z)
    with pytest.raises(InputError, match="steps >= 1, it was given 0"):
        descend(cost, z, steps=0, learning_rate=0.1)


def test_an_annealed_descent_converges_where_a_constant_step_oscillates():
    def cost(z):
        return z.abs().sum(1)

    options = {"steps": 40, "learning_rate": 0.3, "adam": True, "momentum": 0.5}
    oscillating = descend(cost, starts(50), **options)[-1].abs().mean()
    assert descend(cost, starts(50), **options, anneal=2.0)[-1].abs().mean() < 0.3 * oscillating


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4, 4)])
def test_start_points_fill_their_domain(shape):
    lengths = {
        domain: start_points(2000, shape, domain, seed=0).flatten(1).norm(dim=1)
        for domain in ("sphere", "ball", "space")
    }
    torch.testing.assert_close(lengths["sphere"], torch.ones(2000))
    assert lengths["ball"].max() <= 1 and lengths["space"].max() > 1
    size = torch.Size(shape).numel()
    assert (lengths["ball"] ** size).mean() == pytest.approx(0.5, abs=0.03)  # uniform by volume
    part = start_points(3, shape, "ball", seed=0, start=7)
    assert torch.equal(part, start_points(10, shape, "ball", seed=0)[7:])


def test_a_domain_keeps_what_is_inside_and_nothing_else():
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.equal(project(z, "space"), z)
    assert torch.equal(project(z, "ball")[1:], z[1:])
    assert torch.isfinite(project(z, "sphere")).all()
    with pytest.raises(UnknownNameError, match="ball"):
        project(z, "bal")


def test_a_stride_has_the_predicted_length_and_direction():
    updater = Updater((6,), **QUICK)
    z, hat = starts(20, 6), starts(20, 6, seed=1)
    length = torch.linspace(0.1, 2, 20)
    moved = updater.stride(z, hat, length) - z
    torch.testing.assert_close(moved.square().mean(1).sqrt(), length)
    torch.testing.assert_close(
        torch.cosine_similarity(moved, hat - z), torch.ones(20), atol=1e-5, rtol=0
    )


def test_no_direction_is_no_move():
    z = starts(4)
    assert torch.equal(Updater((2,), **QUICK).stride(z, z.clone(), torch.ones(4)), z)


def test_a_latent_that_has_arrived_stays_and_costs_no_more():
    updater = Updater((2,), **QUICK, steps=6, tolerance=0.3)
    torch.nn.init.zeros_(updater.length.weight)
    h, z = None, starts(10)
    torch.nn.init.constant_(updater.length.bias, -5.0)
    path, evaluations = updater.walk(h, z)
    assert torch.equal(path[-1], z) and bool((evaluations == 1).all())
    torch.nn.init.constant_(updater.length.bias, 5.0)
    path, evaluations = updater.walk(h, z)
    assert not torch.equal(path[-1], z) and bool((evaluations == 6).all())


def dagger_on_two_goals(rounds=2, steps=4, count=400, teacher=None, **options):
    with seeded(0):
        updater = Updater((2,), context=1, context_encoder=Plain(), steps=steps, **QUICK)
    asked = (torch.arange(count) % 2).float()[:, None]

    def stride(z, numbers, place):
        return torch.lerp(z, GOALS[asked[numbers, 0].long()], 1 / (steps - place))

    options = {"max_train_steps": 600, "learning_rate": 3e-3, **options}
    train_dagger(updater, teacher or stride, starts(count), asked, rounds=rounds, **options)
    return updater


class Plain(torch.nn.Module):
    def forward(self, asked, origin):
        return asked


def test_demonstrations_are_learned():
    updater = dagger_on_two_goals()
    z, asked = starts(100, seed=5), (torch.arange(100) % 2).float()[:, None]
    path, _ = updater.walk(asked, z)
    assert to_goal(path[-1], asked).mean() < 0.05 * to_goal(z, asked).mean()
    wrong, _ = updater.walk(1 - asked, z)
    assert to_goal(wrong[-1], asked).mean() > 5
    assert updater.dropped == 0


def test_without_a_teacher_an_updater_learns_the_moves_of_a_flow():
    latents = toy_latents(2000, 0)
    options = {"requests": 2000, "teacher_train_steps": 200, "max_train_steps": 300, "width": 64}
    updater = Updater.fit(latents, depth=2, **options)
    z, asked = starts(300, 8, seed=3), toy_latents(300, 1).labels
    moved = updater(z, asked)
    assert (truth(moved) == asked).float().mean() > 0.75  # after a short training; 0.5 by chance
    assert moved[:, 3].mean() == pytest.approx(1.5, abs=0.1)  # the prior has 0 there


def test_dagger_leaves_out_starts_without_a_finite_step():
    def teacher(z, numbers, place):
        goal = torch.lerp(z, GOALS[numbers % 2], 1 / (4 - place))
        return torch.where((numbers < 30)[:, None], torch.nan, goal)

    updater = dagger_on_two_goals(teacher=teacher)
    assert updater.dropped == 30
    assert all(torch.isfinite(weight).all() for weight in updater.parameters())
    with pytest.raises(NonFiniteError, match="finite from no start"):
        dagger_on_two_goals(teacher=lambda z, numbers, place: z * torch.nan)


def walker(gradient_input, cost, max_train_steps=300):
    with seeded(0):
        updater = Updater(
            (2,),
            context=1,
            context_encoder=Plain(),
            steps=3,
            gradient_input=gradient_input,
            **QUICK,
        )

    def begin(batch, step):
        return step.normal(2, purpose="start"), batch[:, :1]

    data = (torch.arange(500) % 2).float()[:, None]
    options = {"max_train_steps": max_train_steps, "batch_size": 64, "learning_rate": 3e-3}
    train_unrolled(updater, cost, begin, data, **options)
    return updater


@pytest.mark.parametrize("gradient_input", [False, True])
def test_unrolled_training_reduces_the_cost(gradient_input):
    def cost(z, origin, asked):
        return to_goal(z, asked)

    updater = walker(gradient_input, cost)
    z, asked = starts(100, seed=5), (torch.arange(100) % 2).float()[:, None]
    path, _ = updater.walk(asked, z, cost=(lambda z: to_goal(z, asked)) if gradient_input else None)
    costs = torch.stack([to_goal(z, asked).mean() for z in path])
    assert costs[1] < 0.5 * costs[0] and costs[-1] < 0.1 * costs[0]


def test_unrolled_training_leaves_out_starts_without_a_finite_cost():
    def cost(z, origin, asked):
        value = to_goal(z, asked)
        return torch.where(origin[:, 0] > 1, torch.nan, 1.0) * value

    updater = walker(False, cost, max_train_steps=20)
    assert 0 < updater.dropped < 20 * 64
    assert all(torch.isfinite(weight).all() for weight in updater.parameters())
    with pytest.raises(NonFiniteError, match="finite at no start"):
        walker(False, lambda z, origin, asked: z[:, 0] * torch.nan, max_train_steps=2)


def test_an_untrained_updater_follows_the_negative_gradient():
    updater = Updater((6,), gradient_input=True, **QUICK)
    z = starts(10, 6)
    hat, _ = updater.predict(None, z, 2 * z)
    torch.testing.assert_close(
        torch.cosine_similarity(hat - z, -z), torch.ones(10), atol=1e-5, rtol=0
    )


def test_the_lipschitz_term_smooths_the_updater():
    def jump(weight):
        updater = dagger_on_two_goals(rounds=1, lipschitz=weight, max_train_steps=300)
        z, asked = starts(200, seed=9), torch.zeros(200, 1)
        beside = z + 1e-3 * starts(200, seed=10)
        return (updater.predict(asked, beside)[0] - updater.predict(asked, z)[0]).abs().mean()

    assert jump(1.0) < 0.8 * jump(0.0)


def test_it_imitates_ascent_in_a_few_evaluations(critic, learned):
    updater, ascent = learned[Updater], Ascent(critic, steps=40)
    z, y = starts(200, 8, seed=3), torch.tensor([[1.0, 0.0, torch.nan]])

    def right(moved):
        return ((truth(moved) == y) | y.isnan()).all(1).float().mean()

    walked = updater.move(z, Request(target=y))
    assert bool((walked.evaluations == updater.steps).all()) and updater.steps < 10
    assert right(z) < 0.5 < 0.9 * right(ascent(z, y)) < right(walked.z)


def test_it_edits_and_keeps_what_is_held(decoder, critic, held_out, learned):
    photos = decoder.decode(held_out.mean[:60])
    out = condition(decoder, critic, editor=learned[Updater]).edit(photos, Smiling=True)
    asked = condition(decoder, critic, editor=Ascent(critic)).edit(photos, Smiling=True)
    assert out.satisfied.float().mean() > 0.6
    assert out.leakage.nanmean() < 0.1 + asked.leakage.nanmean()
    already = out.evaluations == 0
    assert bool(already.any()) and torch.equal(out.z[already], out.start[already])


def test_training_again_gives_the_same_weights():
    one, other = (dagger_on_two_goals(max_train_steps=20).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_each_round_resumes_from_its_own_checkpoints(tmp_path):
    options = {"max_train_steps": 20, "checkpointing_steps": 5, "output_dir": tmp_path}
    whole = dagger_on_two_goals(**options).state_dict()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0", "round-1"]
    again = dagger_on_two_goals(**options, resume_from_checkpoint="latest").state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_spatial_latents_walk_as_well():
    updater = Updater((4, 8, 8), ["Bright"], gradient_input=True, **QUICK)
    z, h = torch.zeros(3, 4, 8, 8), torch.zeros(3, 2)
    path, _ = updater.walk(h, z, cost=lambda z: z.sum((1, 2, 3)))
    assert path.shape == (6, 3, 4, 8, 8) and path[-1].mean() < 0


def test_an_updater_is_loaded_bit_for_bit(learned, tmp_path):
    updater = learned[Updater]
    loaded = Updater.load(updater.save(tmp_path / "updater"))
    z, y = starts(5, 8), torch.tensor([[1.0, torch.nan, 0.0]])
    assert torch.equal(loaded(z, y), updater(z, y))


def test_an_encoder_of_the_users_is_not_saved(tmp_path):
    updater = Updater((2,), context=1, context_encoder=Plain(), **QUICK)
    with pytest.raises(InputError, match="Plain cannot be saved"):
        updater.save(tmp_path / "updater")


def test_wrong_use_is_named(critic):
    updater = Updater((8,), ["Smiling"], **QUICK)
    with pytest.raises(ShapeError, match=r"h \(3, 2\), it was given \(3, 5\)"):
        updater.predict(torch.zeros(3, 5), torch.zeros(3, 8))
    with pytest.raises(ShapeError, match="it was given nothing"):
        updater.predict(None, torch.zeros(3, 8))
    with pytest.raises(InputError, match=r"Use controllers.Ascent"):
        updater.move(torch.zeros(3, 8), Request(where=critic["Smiling"]))
    with pytest.raises(InputError, match="steps >= 1"):
        Updater((8,), steps=0)
    gradient_input = Updater((8,), ["Smiling"], gradient_input=True, **QUICK)
    with pytest.raises(InputError, match="pass `cost`"):
        gradient_input.predict(torch.zeros(3, 2), torch.zeros(3, 8))
    with pytest.raises(InputError, match="walks by a cost"):
        gradient_input(torch.zeros(3, 8), torch.ones(1, 1))


def test_the_loss_is_that_of_the_paper():
    updater = Updater((2,), **QUICK)
    z, goal = starts(16), starts(16, seed=1)
    step = Step(0, 0, 0, 16, 16)
    hat, length = updater.predict(None, z)
    far = (goal - z).square().mean(1).sqrt()
    expected = (hat - goal).abs().mean() + (length - far).abs().mean()
    torch.testing.assert_close(updater.loss(None, z, goal, step, lipschitz=0.0)[0], expected)
    assert updater.loss(None, z, goal, step, lipschitz=1.0)[0] > expected

"""Completion of half-seen inputs through a frozen decoder, by descent and by an updater."""

from __future__ import annotations

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from torch import nn

from latentctl import Updater, condition, wrap
from latentctl.controllers.cgml.completion import complete, completer, visible_cost
from latentctl.decoder import Decoder
from latentctl.errors import InputError, ShapeError
from latentctl.random import noise, seeded

SIGMA = 0.1


@pytest.fixture(scope="module")
def linear():
    """A decoder whose latents are seen through a matrix: 4 numbers in 12."""
    with seeded(0):
        model = nn.Linear(4, 12, bias=False)
    nn.init.orthogonal_(model.weight)
    return Decoder(
        model, lambda m, z: m(z), latent_shape=(4,), sample_shape=(12,), value_range=None
    )


def samples(decoder, count, seed=0):
    with torch.no_grad():
        return decoder.decode(decoder.prior.sample(count, seed=seed))


FIRST = torch.arange(12) < 3


def test_the_cost_is_that_of_the_equation(linear):
    x, z, start = samples(linear, 5), noise(0, 5, (4,), seed=1), noise(0, 5, (4,), seed=2)
    mask = FIRST.expand_as(x)
    seen = ((linear.decode(z) - x) ** 2)[:, :3].sum(1)
    expected = (seen / SIGMA**2 + ((z - start) ** 2).sum(1)) / 8
    torch.testing.assert_close(visible_cost(linear, x, mask, start, sigma=SIGMA)(z), expected)


def test_descent_finds_the_minimum_of_a_linear_decoder(linear):
    x = samples(linear, 6)
    answer = complete(linear, x, FIRST, count=3, steps=800, sigma=SIGMA, seed=4)
    start = linear.prior.sample(18, seed=4)
    weight = linear.model.weight[:3].double()
    inner = weight.T @ weight / SIGMA**2 + torch.eye(4)
    known = x.repeat_interleave(3, 0)[:, :3].double() @ weight / SIGMA**2 + start.double()
    best = torch.linalg.solve(inner, known.T).T.float().view(6, 3, 4)
    cost = visible_cost(
        linear, x.repeat_interleave(3, 0), FIRST.expand(18, 12), start, sigma=SIGMA
    )(best.flatten(0, 1))
    torch.testing.assert_close(
        answer.cost.sort(1)[0], cost.view(6, 3).sort(1)[0], rtol=0.02, atol=0
    )


def test_completions_agree_with_what_is_seen_and_differ_where_it_is_hidden(linear):
    x = samples(linear, 8)
    answer = complete(linear, x, FIRST, count=20, steps=300, sigma=SIGMA)
    assert answer.x.shape == (8, 20, 12) and answer.z.shape == (8, 20, 4)
    assert answer.error.mean() < 0.15 * x[:, :3].std()
    hidden, seen = answer.x.std(1)[:, 3:].mean(), answer.x.std(1)[:, :3].mean()
    assert hidden > 3 * seen
    torch.testing.assert_close(answer.diversity, answer.x.std(1, unbiased=False)[:, 3:].mean(1))
    assert bool((answer.error[:, 1:] >= answer.error[:, :-1]).all()), "the best one comes first"
    pasted = answer.pasted(x, FIRST.expand_as(x))
    assert torch.equal(pasted[:, :, :3], x[:, None, :3].expand(8, 20, 3))
    assert torch.equal(pasted[:, :, 3:], answer.x[:, :, 3:])


def test_what_is_hidden_has_no_influence(linear):
    x = samples(linear, 4)
    other = x.clone()
    other[:, 3:] = torch.nan
    one, two = (complete(linear, value, FIRST, count=2, steps=5) for value in (x, other))
    assert torch.equal(one.x, two.x)
    other[:, 0] += 1
    assert not torch.equal(one.x, complete(linear, other, FIRST, count=2, steps=5).x)


@pytest.mark.parametrize("gradient_input", [False, True])
def test_an_updater_does_in_a_few_steps_what_descent_does_in_many(linear, gradient_input):
    data = samples(linear, 2000, seed=7)
    before = linear.fingerprint()
    updater = completer(
        linear,
        data,
        lambda step: FIRST,
        steps=4,
        gradient_input=gradient_input,
        width=64,
        depth=2,
        features=16,
        sigma=SIGMA,
        max_train_steps=500,
        learning_rate=3e-3,
    )
    assert linear.fingerprint() == before
    x = samples(linear, 30)
    options = {"count": 5, "sigma": SIGMA}
    walked = complete(linear, x, FIRST, updater=updater, **options)
    assert walked.evaluations == 4
    few, many = (complete(linear, x, FIRST, steps=n, **options) for n in (4, 300))
    assert walked.cost.mean() < 0.5 * few.cost.mean()
    assert walked.cost.mean() < 1.5 * many.cost.mean()
    assert walked.diversity.mean() > 0.5 * many.diversity.mean()


def test_a_completer_is_loaded_bit_for_bit(linear, tmp_path):
    data = samples(linear, 50, seed=7)
    sizes = {"steps": 2, "width": 8, "depth": 2, "features": 4}
    updater = completer(linear, data, lambda step: FIRST, max_train_steps=2, **sizes)
    loaded = Updater.load(updater.save(tmp_path / "completer"))
    x = samples(linear, 3)
    one, two = (complete(linear, x, FIRST, count=2, updater=u) for u in (updater, loaded))
    assert torch.equal(one.x, two.x)


def test_a_conditional_completes_and_leaves_the_decoder_alone(critic):
    decoder = toy_decoder(ToyVAE())
    before = decoder.fingerprint()
    x = samples(decoder, 3)
    mask = torch.ones(1, 4, 4)
    mask[:, 2:] = 0
    answer = condition(decoder, critic).complete(x, mask, count=2, steps=30, seed=1)
    assert answer.x.shape == (3, 2, 3, 4, 4) and decoder.fingerprint() == before
    again = complete(decoder, x, mask, count=2, steps=30, seed=1)
    assert torch.equal(answer.x, again.x)
    other = complete(decoder, x, mask, count=2, steps=30, seed=2)
    assert not torch.equal(answer.x, other.x)


def test_a_mask_that_makes_no_sense_is_named(linear):
    x = samples(linear, 3)
    nothing = torch.ones(3, 12)
    nothing[0, 0] = 0
    with pytest.raises(InputError, match=r"hides nothing of rows \[1, 2\]"):
        complete(linear, x, nothing)
    with pytest.raises(InputError, match=r"hides everything of rows \[0, 1, 2\].*use `sample`"):
        complete(linear, x, torch.zeros(12))
    with pytest.raises(ShapeError, match=r"this one is \(7,\)"):
        complete(linear, x, torch.ones(7))
    with pytest.raises(ShapeError, match=r"\(3, 5\)"):
        complete(linear, x[:, :5], torch.ones(5))
    x[1, 1] = torch.nan
    with pytest.raises(InputError, match=r"rows \[1\] hold a NaN"):
        complete(linear, x, FIRST)
    decoder = toy_decoder(ToyVAE())
    colours = torch.ones(2, 3, 4, 4)
    colours[:, 0] = 0
    with pytest.raises(ShapeError, match="the same in all channels"):
        complete(decoder, samples(decoder, 2), colours)


def test_a_foreign_module_is_completed():
    with seeded(0):
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
    decoder = wrap(model, decode="forward")
    answer = complete(decoder, samples(decoder, 2), torch.arange(8) < 4, count=2, steps=10)
    assert answer.x.shape == (2, 2, 8)

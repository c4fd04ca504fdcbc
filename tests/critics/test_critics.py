"""Critics: the algebra of independent events, attribute heads, and realism."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from conftest import NAMES, QUICK, Linear, truth
from hypothesis import given, settings
from hypothesis import strategies as st

import latentctl.critics.attributes as attributes_module
import latentctl.critics.base as base_module
import latentctl.critics.realism as realism_module
from latentctl.critics import AttributeCritic, Critic, RealismCritic
from latentctl.critics.base import Scored
from latentctl.critics.log_odds import cross_entropy
from latentctl.critics.realism import gradient_penalty
from latentctl.errors import LawError, ShapeError
from latentctl.evaluation.laws import check_critic
from latentctl.latents import Latents
from latentctl.random import noise, permutation, seeded
from latentctl.training import Step

NAN = torch.nan
STEP = Step(seed=0, index=0, start=0, count=6, total=6)
logit = st.floats(-100, 100, width=32)
MODULES = {m.__name__ for m in (attributes_module, base_module, realism_module)}


class Coordinate(Critic):
    """One coordinate of the latent as log-odds, so that any value can be tested."""

    def __init__(self, column):
        super().__init__()
        self.column = column

    def forward(self, z):
        return z[:, self.column : self.column + 1]


A, B, C = Coordinate(0), Coordinate(1), Coordinate(2)


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def examples(critic, realism):
    smiling, male = critic["Smiling"], critic["Male"]
    return [
        smiling & male,
        ~smiling | male * 0.5,
        critic.match(torch.tensor([[1.0, NAN, 0.3]])),
        realism,
        realism.with_context(None) & smiling,
    ]


def test_the_laws_hold_for_every_critic_class(critic, realism):
    z, found = noise(0, 20, (8,), seed=0), set()
    for example in examples(critic, realism):
        check_critic(example, z)
        check_critic(example, 30 * z)
        found |= {type(module) for module in example.modules()}
    ours = {kind for kind in subclasses(Critic) if kind.__module__ in MODULES} - {Scored}
    ours = {kind for kind in ours if not inspect.isabstract(kind)}
    assert ours and ours <= found, f"no example of {ours - found}"


def test_the_laws_find_a_conjunction_that_is_no_product():
    class Lower(Critic):
        def forward(self, z):
            return z[:, :1]

        def __and__(self, other):
            return Coordinate(0)

    with pytest.raises(LawError, match=r"P\(a & b\)"):
        check_critic(Lower(), noise(0, 5, (2,), seed=0))


@settings(max_examples=100, deadline=None)
@given(values=st.tuples(logit, logit, logit))
def test_the_algebra_at_any_log_odds(values):
    z = torch.tensor([values], requires_grad=True)
    a, b, _ = z[0].detach().double()

    def same(critic, other, rtol=1e-4):
        value = critic(z)
        reference = other(z) if isinstance(other, Critic) else other.reshape(1, 1).float()
        torch.testing.assert_close(value, reference, rtol=rtol, atol=1e-4)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert torch.isfinite(gradient).all()

    product = (1 + torch.exp(-a)) * (1 + torch.exp(-b))  # 1 / P
    if product < 1e12 and product - 1 > 1e-6:
        same(A & B, -torch.log(product - 1))
    same(A & B, -torch.logsumexp(torch.stack([-a, -b, -a - b]), 0))
    same(A & B, B & A)
    same((A & B) & C, A & (B & C))
    same((A | B) | C, A | (B | C))
    same(~(A & B), ~A | ~B)
    same(~(A | B), ~A & ~B)
    same(~~A, A, rtol=0)
    same(A * 2.0, 2 * a)
    same(0.5 * A, a / 2)
    same(~(A * 3.0), (~A) * 3.0)


@pytest.mark.parametrize("values", [(100.0, 100.0), (-100.0, -100.0), (100.0, -100.0)])
def test_gradients_do_not_vanish_where_probabilities_are_zero_or_one(values):
    z = torch.tensor([values], requires_grad=True)
    for critic in (A & B, A | B, ~A & B):
        (gradient,) = torch.autograd.grad(critic(z).sum(), z)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0.1


def test_and_is_stricter_than_or_and_differs_from_it():
    z = noise(0, 50, (2,), seed=0)
    both, either = (A & B).probability(z), (A | B).probability(z)
    assert (both < A.probability(z)).all() and (either > A.probability(z)).all()


def test_a_critic_has_the_attributes_that_it_depends_on(critic):
    both = (critic["Smiling"] & ~critic["Hat"] * 2.0) | critic["Smiling"]
    assert both.attributes == {"Smiling", "Hat"}
    assert critic.match(torch.tensor([[NAN, 0.0, NAN]])).attributes == {"Male"}
    assert Linear([1.0]).attributes == frozenset()


def test_match_is_the_conjunction_of_the_heads_and_nan_is_free(critic):
    z = noise(0, 30, (8,), seed=3)
    y = torch.tensor([[1.0, NAN, 0.0]])
    torch.testing.assert_close(
        critic.match(y)(z), (critic["Smiling"] & ~critic["Hat"])(z), rtol=1e-3, atol=1e-3
    )
    wrong = (critic["Smiling"] & critic["Hat"])(z)
    assert not torch.allclose(critic.match(y)(z), wrong, atol=0.1)
    assert (critic.match(torch.full((1, 3), NAN)).probability(z) == 1).all()
    rows = (torch.arange(90).view(30, 3) % 2).float()
    one_by_one = torch.cat([critic.match(r[None])(v[None]) for r, v in zip(rows, z, strict=True)])
    torch.testing.assert_close(critic.match(rows)(z), one_by_one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [-100.0, 100.0])
def test_a_match_is_finite_with_a_finite_gradient_at_any_log_odds(value):
    critic = AttributeCritic((2,), ["A", "B"], width=4)
    torch.nn.init.zeros_(critic.net.head.weight)
    torch.nn.init.constant_(critic.net.head.bias, value)
    z = torch.ones(1, 2, requires_grad=True)
    for y in ([[1.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]], [[0.3, NAN]], [[NAN, NAN]]):
        score = critic.match(torch.tensor(y))(z)
        (gradient,) = torch.autograd.grad(score.sum(), z)
        assert torch.isfinite(score).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("target", [0.05, 0.3, 0.5, 0.9])
def test_a_fractional_target_costs_least_where_it_is_met(target):
    logits = torch.linspace(-6, 6, 2001)[:, None]
    cost = cross_entropy(logits, torch.full((1, 1), target))
    best = torch.sigmoid(logits[cost.argmin()])
    assert abs(best.item() - target) < 0.005
    free = cross_entropy(logits, torch.full((1, 1), NAN))
    assert (free == 0).all() and cost.min() > 0


def test_fit_predicts_the_labels(critic, held_out):
    right = (critic.probability(held_out.mean) > 0.5).float() == held_out.labels
    assert (right.float().mean(0) > 0.93).all(), right.float().mean(0)
    torch.testing.assert_close(critic.posterior_std, held_out.posterior_std())
    assert not critic.training and critic.names == NAMES


def test_fit_learns_nothing_from_shuffled_labels(latents, held_out):
    order = permutation(len(latents), seed=0, epoch=0)
    shuffled = Latents(latents.mean, latents.std, latents.labels[order], NAMES)
    critic = AttributeCritic.fit(shuffled, max_train_steps=60, **QUICK)
    right = (critic.probability(held_out.mean) > 0.5).float() == held_out.labels
    assert (right.float().mean() - 0.5).abs() < 0.2


def test_unknown_labels_are_ignored(latents, held_out):
    labels = latents.labels.clone()
    hidden = noise(0, len(labels), (3,), seed=9, uniform=True) < 0.5
    labels[hidden] = NAN
    partial = Latents(latents.mean, latents.std, labels, NAMES)
    critic = AttributeCritic.fit(partial, max_train_steps=120, learning_rate=5e-3, **QUICK)
    right = (critic.probability(held_out.mean) > 0.5).float() == held_out.labels
    assert right.float().mean() > 0.9


def test_unknown_labels_are_zeros_of_the_mean(critic, latents):
    batch = latents[:6]
    labels = batch.labels.clone()
    labels[0, 0] = labels[3] = NAN
    loss, _ = critic.loss(Latents(batch.mean, batch.std, labels, NAMES), STEP)
    logits = critic(batch.sample(STEP.normal(8)))
    known = ~labels.isnan()
    by_hand = F.binary_cross_entropy_with_logits(logits[known], labels[known], reduction="sum")
    torch.testing.assert_close(loss, by_hand / labels.numel())
    nothing, _ = critic.loss(Latents(batch.mean, None, labels * NAN, NAMES), STEP)
    assert nothing == 0 and not torch.allclose(loss, nothing)


def test_the_same_seed_fits_the_same_critic_whatever_was_drawn_before(latents):
    def weights(seed):
        torch.rand(1)
        return AttributeCritic.fit(latents, max_train_steps=5, seed=seed, **QUICK).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_a_target_of_another_width_is_refused(critic):
    with pytest.raises(ShapeError, match=r"each of the 3 attributes.*\(1, 2\)"):
        critic.match(torch.zeros(1, 2))


def test_realism_discriminates_data_from_the_prior(realism, held_out):
    prior = noise(0, 500, (8,), seed=4)
    on_data, on_prior = realism.probability(held_out.mean), realism.probability(prior)
    assert on_data.mean() > 0.7 > 0.4 > on_prior.mean()
    unreal = prior.clone()
    unreal[:, 3] = -2
    assert realism.probability(unreal).max() < 0.1, "data have z3 near 1.5"


def build_conditional(shape=(4,)):
    with seeded(0):
        return RealismCritic(shape, ["A", "B"], width=16, depth=2)


def inputs():
    real, fake = noise(0, 6, (4,), seed=0), 3 + noise(0, 6, (4,), seed=1)
    alpha = noise(0, 6, (4,), seed=2, uniform=True)
    y = (torch.arange(12).view(6, 2) // 2 % 2).float()
    return real, fake, alpha, y


def test_mismatched_rows_count_only_where_they_differ():
    critic = build_conditional()
    real, fake, alpha, y = inputs()
    base, _ = critic.loss(real, fake, alpha, y)
    same, _ = critic.loss(real, fake, alpha, y, y.clone())
    torch.testing.assert_close(same, base)
    other = y.clone()
    other[2, 0] = 1 - other[2, 0]
    other[4] = 1 - other[4]
    loss, _ = critic.loss(real, fake, alpha, y, other)
    refused = F.softplus(critic(real[[2, 4]], other[[2, 4]])).sum() / 6
    torch.testing.assert_close(loss - base, refused)
    assert refused > 0


def test_a_free_attribute_cannot_mismatch():
    critic = build_conditional()
    real, fake, alpha, y = inputs()
    y[:, 0] = NAN
    other = torch.cat([torch.ones(6, 1), y[:, 1:]], 1)
    base, _ = critic.loss(real, fake, alpha, y)
    loss, _ = critic.loss(real, fake, alpha, y, other)
    torch.testing.assert_close(loss, base)
    other[0, 1] = 1 - other[0, 1]
    loss, _ = critic.loss(real, fake, alpha, y, other)
    seen = torch.tensor([[NAN, other[0, 1]]])  # the free one is not in the context either
    torch.testing.assert_close(loss - base, F.softplus(critic(real[:1], seen)).sum() / 6)


def test_the_loss_is_that_of_the_paper():
    critic = build_conditional()
    real, fake, alpha, y = inputs()
    loss, logs = critic.loss(real, fake, alpha, y, penalty=0.0)
    by_hand = F.softplus(-critic(real, y)).mean() + F.softplus(critic(fake, y)).mean()
    torch.testing.assert_close(loss, by_hand)
    weighted, _ = critic.loss(real, fake, alpha, y, penalty=7.0)
    torch.testing.assert_close(weighted, by_hand + 7 * logs["gradient_penalty"])
    torch.testing.assert_close(logs["real"], critic(real, y).mean())
    torch.testing.assert_close(logs["fake"], critic(fake, y).mean())


def test_the_penalty_is_taken_between_real_and_fake():
    critic = build_conditional()
    real, fake, alpha, y = inputs()
    _, logs = critic.loss(real, fake, alpha, y)
    between = (real + alpha * (fake - real)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, y).sum(), between)
    by_hand = (gradient.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(logs["gradient_penalty"], by_hand)
    _, real_only = critic.loss(real, real.roll(1, 0), alpha, y)
    assert (real_only["gradient_penalty"] - by_hand).abs() > 1e-4


def test_the_penalty_in_closed_form():
    real, fake, alpha, _ = inputs()
    w = torch.tensor([3.0, 0, 4, 0])
    torch.testing.assert_close(
        gradient_penalty(Linear(w), real, fake, alpha), torch.tensor(16.0), rtol=1e-5, atol=1e-5
    )
    assert gradient_penalty(Linear(w / 5, 7.0), real, fake, alpha) < 1e-10

    class Bowl(Critic):
        def forward(self, z):
            return z.square().sum(1, keepdim=True) / 2

    for share, ends in ((0.0, real), (1.0, fake)):
        found = gradient_penalty(Bowl(), real, fake, torch.full_like(alpha, share))
        torch.testing.assert_close(found, (ends.norm(dim=1) - 1).square().mean())


def test_the_penalty_has_gradients_of_weights_and_none_of_latents():
    critic = build_conditional()
    real, fake, alpha, y = inputs()
    fake.requires_grad_()
    penalty = gradient_penalty(critic.with_context(y), real, fake, alpha)
    gradients = torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(gradient_penalty(critic.with_context(y), real, fake, alpha), fake)


def test_no_target_is_a_free_target():
    critic = build_conditional()
    z = noise(0, 5, (4,), seed=0)
    assert torch.equal(critic(z), critic(z, torch.full((1, 2), NAN)))
    assert not torch.allclose(critic(z), critic(z, torch.tensor([[1.0, 0.0]])))
    y = torch.tensor([[1.0, NAN]])
    assert torch.equal(critic.with_context(y)(z), critic(z, y))


def test_critics_of_grids(spatial_latents):
    train, test = spatial_latents[:300], spatial_latents[300:]
    critic = AttributeCritic.fit(
        train, width=8, depth=1, dropout=0, max_train_steps=60, batch_size=32, learning_rate=2e-2
    )
    right = (critic.probability(test.mean) > 0.5).float() == test.labels
    assert (right.float().mean(0) > 0.8).all(), right.float().mean(0)
    check_critic(critic["Bright"] & ~critic["Left"], test.mean[:5])
    realism = build_conditional((4, 8, 8))
    y = test.labels[:6]
    real, fake = test.mean[:6], noise(0, 6, (4, 8, 8), seed=1)
    loss, _ = realism.loss(real, fake, torch.rand_like(real), y, 1 - y)
    assert torch.isfinite(loss)


def test_the_toy_decoder_is_invertible_and_its_labels_are_true(latents, decoder):
    z = latents.mean[:20]
    torch.testing.assert_close(decoder.encode(decoder.decode(z)).mean, z, rtol=1e-3, atol=1e-3)
    assert torch.equal(latents.labels, truth(latents.mean))

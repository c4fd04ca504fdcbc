"""Adversarial moves of latents, and critics that are trained against them."""

from __future__ import annotations

import pytest
import torch

from latentctl import AttributeCritic, Latents
from latentctl.critics.log_odds import cross_entropy
from latentctl.critics.robust import adversarial_moves
from latentctl.errors import InputError
from latentctl.training import Step

STEP = Step(0, 0, 0, 32, 32)


@pytest.fixture
def latents() -> Latents:
    """Classes 4 apart in the first of 33 dimensions but for 5 % of them, and 0.1 in all others."""
    source = torch.Generator().manual_seed(0)
    side = torch.where(torch.arange(512) % 2 == 1, 1.0, -1.0)
    wrong = torch.rand(512, generator=source) < 0.05
    large = torch.where(wrong, -2 * side, 2 * side)[:, None]
    small = 0.05 * (side[:, None] + torch.randn(512, 32, generator=source))
    return Latents(torch.cat([large, small], 1), None, (side > 0).float()[:, None], ["Right"])


def test_moves_are_short_and_raise_the_loss(latents: Latents) -> None:
    critic = AttributeCritic.fit(latents, width=16, robustness=0, max_train_steps=30)
    z, labels = latents.mean[:32], latents.labels[:32]
    moves = adversarial_moves(critic, z, labels, 0.5, STEP)
    assert moves.norm(dim=1).max() <= 0.5 + 1e-6
    assert moves.norm(dim=1).std() > 0.01
    before, after = (cross_entropy(critic(x), labels).mean() for x in (z, z + moves))
    assert after > before
    again = adversarial_moves(critic, z, labels, 0.5, STEP)
    assert torch.equal(moves, again)
    assert all(weight.grad is None for weight in critic.parameters())


def test_unknown_labels_are_not_attacked(latents: Latents) -> None:
    critic = AttributeCritic((33,), ["Right"], width=16)
    unknown = torch.full((32, 1), torch.nan)
    moves = adversarial_moves(critic, latents.mean[:32], unknown, 0.5, STEP)
    assert moves.isfinite().all()


def test_a_robust_critic_follows_what_the_classes_differ_in(latents: Latents) -> None:
    def along(robustness: float) -> float:
        """Share of the gradient that lies in the first dimension."""
        critic = AttributeCritic.fit(
            latents, width=32, robustness=robustness, max_train_steps=150, learning_rate=5e-3
        )
        z = latents.mean.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(z).sum(), z)
        return float((gradient[:, 0].abs() / gradient.norm(dim=1)).mean())

    plain, robust = along(0), along(0.3)
    assert plain < 0.2
    assert robust > 2 * plain


def test_a_negative_robustness_is_refused(latents: Latents) -> None:
    with pytest.raises(InputError, match="robustness"):
        AttributeCritic.fit(latents, robustness=-1)

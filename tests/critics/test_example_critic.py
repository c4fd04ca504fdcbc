"""An attribute from a few examples: better than the mean difference, and checks of the input."""

from __future__ import annotations

import pytest
import torch
from conftest import NAMES, toy_latents, truth

from latentctl import AttributeCritic, ExampleCritic, Latents, RewardCritic
from latentctl.controllers import Ascent, Request
from latentctl.critics import examples as module
from latentctl.errors import InputError, ShapeError
from latentctl.evaluation.laws import check_critic
from latentctl.random import noise
from latentctl.storage.folder import load_folder, save_folder
from latentctl.storage.weights import load_strict

SIZE = 32
SPREAD = torch.linspace(0.2, 4.0, SIZE)  # the directions differ much in variance
TURN = torch.linalg.qr(noise(0, SIZE, (SIZE,), seed=5))[0]
SHIFT = torch.where(torch.arange(SIZE) < 8, 0.6, 0.0) * SPREAD  # the class, in the small ones


def gaussian(count, seed):
    """Correlated latents of two classes with one covariance, and their class."""
    held = torch.arange(count) % 2 == 0
    sign = torch.where(held, 1.0, -1.0)[:, None]
    return (SPREAD * noise(0, count, (SIZE,), seed=seed) + sign * SHIFT) @ TURN, held


def accuracy(critic, z, held):
    return ((critic(z)[:, 0] > 0) == held).float().mean().item()


def test_encodings_without_labels_raise_the_accuracy_of_ten_examples():
    unlabelled, (z, held) = Latents(gaussian(4000, 1)[0]), gaussian(2000, 2)
    better = []
    for seed in range(10, 18):
        x, y = gaussian(10, seed)
        plain = ExampleCritic.fit("Tall", x[y], x[~y])
        discriminant = ExampleCritic.fit("Tall", x[y], x[~y], latents=unlabelled, ridge=0.1)
        better.append(accuracy(discriminant, z, held) - accuracy(plain, z, held))
    assert sum(better) / len(better) > 0.05, better
    assert sum(gain > 0 for gain in better) >= 6, better


def test_an_infinite_ridge_is_the_difference_of_means():
    x, y = gaussian(10, 3)
    unlabelled = Latents(gaussian(500, 1)[0])
    critic = ExampleCritic.fit("Tall", x[y], x[~y], latents=unlabelled, ridge=torch.inf)
    difference = x[y].mean(0) - x[~y].mean(0)
    assert torch.cosine_similarity(critic.weight, difference, dim=0) > 1 - 1e-5
    near = ExampleCritic.fit("Tall", x[y], x[~y], latents=unlabelled, ridge=0.1)
    assert torch.cosine_similarity(near.weight, difference, dim=0) < 0.9


def test_log_odds_are_zero_between_the_classes_and_have_the_requested_spread():
    x, y = gaussian(30, 3)
    unlabelled = gaussian(500, 1)[0]
    for spread in (1.0, 4.0):
        critic = ExampleCritic.fit("Tall", x[y], x[~y], latents=Latents(unlabelled), spread=spread)
        assert critic(unlabelled).std() == pytest.approx(spread, rel=1e-4)
        middle = (x[y].mean(0) + x[~y].mean(0)) / 2
        assert critic(middle[None]).item() == pytest.approx(0, abs=1e-3)


def test_a_critic_of_other_attributes_raises_the_accuracy_of_ten_examples():
    """The other attributes depend on the same few directions."""
    z, _ = gaussian(3000, 1)
    inner = z @ TURN.T
    labels = torch.stack([(inner[:, k : k + 2].sum(1) > 0).float() for k in range(0, 8, 2)], 1)
    latents = Latents(z, labels=labels, names=["One", "Two", "Three", "Four"])
    known = AttributeCritic.fit(latents, width=64, max_train_steps=200, batch_size=128)
    test, test_labels = gaussian(2000, 2)
    better = []
    for seed in range(10, 18):
        x, y = gaussian(10, seed)
        alone = ExampleCritic.fit("Tall", x[y], x[~y], latents=latents)
        helped = ExampleCritic.fit("Tall", x[y], x[~y], latents=latents, known=known)
        better.append(accuracy(helped, test, test_labels) - accuracy(alone, test, test_labels))
    assert sum(better) / len(better) > 0.05, better
    assert sum(gain > 0 for gain in better) >= 6, better


def test_the_known_critic_is_not_changed_and_not_referred_to():
    latents = toy_latents(200, seed=0)
    known = AttributeCritic.fit(latents, width=16, max_train_steps=5, batch_size=32)
    before = {k: v.clone() for k, v in known.state_dict().items()}
    critic = ExampleCritic.fit(
        "Tall", latents.mean[:5], latents.mean[5:9], latents=latents, known=known
    )
    assert all(p.requires_grad for p in known.parameters())
    assert all(torch.equal(v, before[k]) for k, v in known.state_dict().items())
    expected = critic(latents.mean)
    with torch.no_grad():
        for parameter in known.parameters():
            parameter.zero_()
    assert torch.equal(critic(latents.mean), expected)


def test_pairs_are_more_accurate_than_as_many_examples():
    """What both of a pair have in common cancels."""
    z, held = gaussian(2000, 2)
    gains = []
    for seed in range(20, 26):
        identity = SPREAD * noise(0, 10, (SIZE,), seed=seed)
        other = SPREAD * noise(10, 10, (SIZE,), seed=seed)
        slight = 0.3 * SPREAD * noise(20, 10, (SIZE,), seed=seed)
        before, after = (identity - SHIFT) @ TURN, (identity + slight + SHIFT) @ TURN
        pairs = ExampleCritic.from_pairs("Tall", before, after)
        examples = ExampleCritic.fit("Tall", after, (other - SHIFT) @ TURN)
        gains.append(accuracy(pairs, z, held) - accuracy(examples, z, held))
    assert sum(gains) / len(gains) > 0.05, gains


def test_a_spatial_latent_too_large_for_a_matrix_has_the_same_answer(monkeypatch):
    z = noise(0, 300, (4, 3, 3), seed=1)
    kinds = z[:6] + 0.5, z[6:12]
    critic = ExampleCritic.fit("Tall", *kinds, latents=Latents(z))
    monkeypatch.setattr(module, "MOST_FEATURES", 20)
    low_rank = ExampleCritic.fit("Tall", *kinds, latents=Latents(z))
    torch.testing.assert_close(low_rank(z), critic(z), rtol=1e-3, atol=1e-3)
    assert critic(z).shape == (300, 1)


def test_the_laws_of_critics_hold_and_ascent_climbs_it():
    latents = toy_latents(400, seed=0)
    smiles = truth(latents.mean)[:, 0] > 0.5
    others = AttributeCritic.fit(
        latents.select(NAMES[1:]), width=32, max_train_steps=100, batch_size=64
    )
    critic = ExampleCritic.fit(
        "Smiling", latents.mean[smiles][:15], latents.mean[~smiles][:15], latents=latents
    )
    z = latents.mean[~smiles][:40]
    both = critic["Smiling"] & ~others["Male"]
    check_critic(both, z)
    assert both.attributes == {"Smiling", "Male"}
    moved = Ascent.for_edits(others).move(z, Request(where=critic["Smiling"])).z
    assert truth(moved)[:, 0].mean() > 0.8


def test_the_fit_is_deterministic_and_is_restored_from_disk(tmp_path):
    latents = toy_latents(300, seed=0)
    known = RewardCritic.fit(latents, width=16, depth=2, max_train_steps=5, batch_size=32)
    one, two = (
        ExampleCritic.fit("Tall", latents.mean[:5], latents.mean[5:9], latents=latents, known=known)
        for _ in range(2)
    )
    assert torch.equal(one(latents.mean), two(latents.mean))
    save_folder(tmp_path / "critic", {"critic": one.state_dict()}, {"config": one.config})
    tensors, state = load_folder(tmp_path / "critic")
    again = ExampleCritic(**state["config"])
    assert not torch.equal(again(latents.mean), one(latents.mean))
    load_strict(again, tensors["critic"], "critic")
    assert torch.equal(again(latents.mean), one(latents.mean))


def test_bad_examples_are_refused():
    z = noise(0, 20, (8,), seed=0)
    with pytest.raises(InputError, match=r"no example without it of 'Tall'.*bring latents of both"):
        ExampleCritic.fit("Tall", z, z[:0])
    with pytest.raises(InputError, match="no example with it"):
        ExampleCritic.from_pairs("Tall", z, z[:0])
    with pytest.raises(InputError, match="the same on average"):
        ExampleCritic.fit("Tall", z, z)
    with pytest.raises(InputError, match="not finite"):
        ExampleCritic.fit("Tall", z * torch.inf, z)
    with pytest.raises(ShapeError, match="of one shape"):
        ExampleCritic.fit("Tall", z, z[:, :4])
    with pytest.raises(ShapeError, match="one after"):
        ExampleCritic.from_pairs("Tall", z[:5], z[:6])
    with pytest.raises(ShapeError, match="another decoder"):
        ExampleCritic.fit("Tall", z[:5], z[5:], latents=Latents(z[:, :4]))
    with pytest.raises(ShapeError, match="another decoder"):
        ExampleCritic.fit("Tall", z[:5], z[5:], known=AttributeCritic((4,), ["Smiling"], width=8))
    with pytest.raises(InputError, match=r"known critic \(Smiling\).*pass latents"):
        ExampleCritic.fit("Tall", z[:5], z[5:], known=AttributeCritic((8,), ["Smiling"], width=8))
    with pytest.raises(ShapeError, match="another decoder"):
        ExampleCritic.fit("Tall", z[:5], z[5:])(z[:, :4])

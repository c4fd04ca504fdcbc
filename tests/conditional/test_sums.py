"""Packs on one decoder are added, weighted, renamed and removed, in any order."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import Linear, ToyVAE, toy_decoder

from latentctl import Actor, AttributeCritic, Conditional, Gaussian, Latents, condition
from latentctl.conditional import verify
from latentctl.critics import PixelCritic
from latentctl.errors import FingerprintError, InputError, UnknownNameError
from latentctl.random import noise, seeded

FIELDS = ("x", "z", "start", "satisfied", "probability", "shift", "evaluations")


def pack(name, seed, decoder, **parts):
    with seeded(seed):
        names = name.split()
        return condition(decoder, AttributeCritic((8,), names, width=8), **parts)


@pytest.fixture(scope="module")
def decoder():
    return toy_decoder(ToyVAE())


@pytest.fixture(scope="module")
def packs(decoder):
    """Three packs, each made on a decoder of its own with the same weights."""
    names = ("Smiling Male", "Hat", "Age")
    return [pack(name, seed, toy_decoder(ToyVAE())) for seed, name in enumerate(names)]


@pytest.fixture(scope="module")
def photos():
    return noise(0, 4, (3, 4, 4), seed=1, uniform=True)


def equal(a, b):
    assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)
    assert torch.equal(a.leakage.nan_to_num(-1), b.leakage.nan_to_num(-1))
    return True


def same(one, other, **request):
    """Whether two sums give the same bits; their moves are cut short."""
    request = request or {"Smiling": True}
    x = noise(0, 3, (3, 4, 4), seed=1, uniform=True)
    assert one.names == other.names and one.threshold == other.threshold
    for mover in (one.controller, other.controller, one.editor, other.editor):
        mover.steps = 6
    assert equal(one.sample(3, seed=3, **request), other.sample(3, seed=3, **request))
    return equal(one.edit(x, **request), other.edit(x, **request))


def test_every_order_and_grouping_gives_the_same_bits(packs, tmp_path):
    a, b, c = packs
    whole = a + b + c
    assert whole.names == ("Age", "Hat", "Smiling", "Male")
    both = {"Smiling": True, "Age": False}
    for one, two, three in itertools.permutations(packs):
        assert same(one + two + three, whole, **both)
    saved = Conditional.from_pretrained((a + c).save_pretrained(tmp_path / "ac"), a.decoder)
    assert same(saved + b, whole, **both) and same(b + (c + a), whole, **both)
    assert same(2 * a + b, b + a * 2) and (b + a).fingerprint() == (a + b).fingerprint()


def test_removal_gives_the_bits_back(packs, tmp_path):
    a, b, c = packs
    assert same(a + b - b, a) and same(a + b + c - b, c + a) and same(b + a + c - b - c, a)
    assert same(a + 0.3 * b - b, a) and same((a + b + c).without("Hat", "Age"), a)
    assert same(0.5 * a * 2, a)
    again = Conditional.from_pretrained((a + b + c).save_pretrained(tmp_path / "abc"), a.decoder)
    assert same(again, a + b + c) and same(again - b - c, a) and same(again.without("Hat"), a + c)
    assert same(again + pack("Beard", 7, a.decoder) - pack("Beard", 7, a.decoder), a + b + c)


def test_the_parts_of_a_pack_come_back_with_it(decoder, packs):
    a, b, _ = packs
    actor = Actor((8,), ("Smiling", "Male"), width=8)
    evaluator = PixelCritic(decoder, lambda x: x.flatten(1)[:, :2], names=("Smiling", "Male"))
    rich = condition(decoder, a.critic, actor, evaluator=evaluator, prior=Gaussian((8,)))
    back = rich + b - b
    assert back.controller is actor and back.evaluator is evaluator and same(back, rich)


def test_a_sum_says_how_it_moves_and_who_scores_it(decoder, packs, caplog):
    _, b, _ = packs
    other = pack("Age", 2, decoder)
    nets = {
        n: PixelCritic(decoder, lambda x: x.flatten(1)[:, :1], names=[n]) for n in ("Hat", "Age")
    }
    actor = Actor((8,), ("Hat",), width=8)
    one = condition(decoder, b.critic, actor, evaluator=nets["Hat"])
    two = condition(decoder, other.critic, evaluator=nets["Age"])
    caplog.clear()
    out = (one + two).edit(torch.rand(3, 3, 4, 4), Hat=True)
    assert "gradient ascent on the joint critic: Actor" in caplog.text
    expected = torch.cat([nets["Age"].score_samples(out.x), nets["Hat"].score_samples(out.x)], 1)
    assert out.names == ("Age", "Hat") and torch.equal(out.probability, expected.sigmoid())
    assert not out.leakage[:, 0].isnan().any()  # of an attribute of the other pack
    assert (one + two).threshold == 0.8
    caplog.clear()
    mixed = one + other
    assert mixed.evaluator is None and mixed.threshold == 0.95 and "evaluator" in caplog.text


def test_an_attribute_is_added_to_a_sum(packs):
    a, b, _ = packs
    whole = a + b
    latents = Latents(
        noise(0, 40, (8,), seed=5), None, (noise(0, 40, (1,), seed=6) > 0).float(), ["Age"]
    )
    whole.add("Age", latents, width=8, max_train_steps=2, progress=False)
    assert whole.names == ("Hat", "Smiling", "Male", "Age") and same(whole.without("Age"), a + b)


def test_weights_change_moves_and_not_scores(packs, photos):
    a, b, _ = packs
    light, heavy = (a + weight * b for weight in (0.1, 10.0))
    z = noise(0, 4, (8,), seed=0)
    assert torch.equal(light.critic(z), heavy.critic(z))
    request = {"Smiling": True, "Hat": True}
    column = light.names.index("Hat")
    far, near = (s.edit(photos, **request).probability[:, column] for s in (heavy, light))
    assert bool((far > near).all())


def test_a_sum_is_verified_like_any_pack(packs, photos, tmp_path):
    whole = packs[0] + 2 * packs[1]
    path = whole.edit(photos, Hat=True, where="Smiling | ~Male").save(tmp_path / "a.png")
    assert verify(path, 2 * packs[1] + packs[0]).intact
    assert set(verify(path, packs[0] + packs[1]).changed) == {"pack"}


def test_what_does_not_fit_is_refused_with_advice(packs, decoder):
    a, b, c = packs
    with pytest.raises(InputError, match=r"renamed\(\{'Hat': 'Hat_2'\}\)"):
        b + pack("Hat", 9, decoder)
    renamed = pack("Hat", 9, decoder).renamed({"Hat": "Hat_2"})
    assert (b + renamed).names == ("Hat", "Hat_2") and same(b + renamed - renamed, b, Hat=1)
    with pytest.raises(InputError, match="reserved"):
        b.renamed({"Hat": "seed"})
    with pytest.raises(UnknownNameError):
        b.renamed({"Hut": "Hat"})
    with pytest.raises(FingerprintError, match="same decoder"):
        a + pack("Hat", 1, toy_decoder(ToyVAE(seed=1)))
    with pytest.raises(InputError, match="not in this sum"):
        a + b - c
    with pytest.raises(InputError, match="Nothing would be left"):
        a - a
    with pytest.raises(InputError, match="name these as well"):
        (a + b).without("Male")
    with pytest.raises(UnknownNameError, match="Did you mean 'Male'"):
        (a + b).without("Mail")
    with pytest.raises(InputError, match="must be of type"):
        a + 3
    for weight in (0, -1, float("nan"), "2"):
        with pytest.raises(InputError, match="weight"):
            a * weight
    with pytest.raises(InputError, match="need names"):
        a + condition(decoder, Linear(torch.ones(8)))


def test_a_sum_with_other_priors_takes_the_decoders_own(decoder, packs, caplog):
    mine = condition(decoder, packs[0].critic, prior=Gaussian((8,)))
    assert (mine + packs[1]).prior is decoder.prior and "different priors" in caplog.text
    both = condition(decoder, packs[1].critic, prior=Gaussian((8,)))
    assert (mine + both).prior is mine.prior

"""Exclusive groups of knowledge: joint presence, contradictions, growth, and saving."""

import copy
import pickle

import pytest
import torch

import latentctl
from latentctl import Gaussian, KnowledgeBase, Latents
from latentctl.errors import InputError, UnknownNameError
from latentctl.knowledge.exclusive import Group, joint_log_prob

QUICK = {"critic_steps": 80, "max_train_steps": 0, "width": 8, "critic_width": 32}
QUICK |= {"learning_rate": 1e-2, "batch_size": 128}
CLASSES = ("low", "middle", "high")


def which(z):
    return torch.where(z[:, 0] > 0, 2, (z[:, 1] > 0).long())


@pytest.fixture(scope="module")
def latents():
    z = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.nn.functional.one_hot(which(z), 3)
    return Latents(z, None, torch.cat([labels, z[:, 2:3] > 0], 1).float(), [*CLASSES, "other"])


@pytest.fixture(scope="module")
def known(latents):
    base = KnowledgeBase(Gaussian((8,)), (8,))
    for name in latents.names:
        base.add(name, latents, **QUICK)
    return base


@pytest.fixture
def base(known):
    again = KnowledgeBase(known.prior, (8,))
    again.realism = known.realism
    again._hold(known)
    return again


def test_the_joint_presence_is_the_softmax_with_none():
    odds = torch.tensor([[0.5, -1.0, 2.0]])
    group = Group(("a", "b", "c"))
    whole = 1 + odds.exp().sum()
    for present, absent, expected in (
        (["a"], [], odds[0, 0].exp() / whole),
        (["a"], ["b"], odds[0, 0].exp() / whole),
        ([], ["a"], 1 - odds[0, 0].exp() / whole),
        ([], ["a", "b", "c"], 1 / whole),
    ):
        assert torch.allclose(joint_log_prob(odds, group, present, absent).exp(), expected)
    closed = Group(("a", "b", "c"), exhaustive=True)
    assert torch.allclose(joint_log_prob(odds, closed, ["b"], []), odds.log_softmax(1)[:, 1])


def test_what_is_in_no_group_stays_independent(base):
    z = torch.randn(50, 8)
    alone = base.log_weight(z, present=["other"])
    base.declare_exclusive(CLASSES)
    assert torch.equal(base.log_weight(z, present=["other"]), alone)
    both = base.log_weight(z, present=["other", "low"])
    assert torch.allclose(both, alone + base.log_weight(z, present=["low"]), atol=1e-6)


def test_absent_classes_leave_the_others(base):
    base.declare_exclusive(CLASSES, exhaustive=True)
    found = which(base.sample(300, absent=["low", "middle"], seed=1))
    assert (found == 2).float().mean() > 0.88
    found = which(base.sample(300, absent=["low"], seed=1))
    assert (found > 0).float().mean() > 0.88
    assert 0.2 < (found == 1).float().mean() < 0.47  # as often as in the data, a third


class TestContradictions:
    def test_two_present(self, base):
        base.declare_exclusive(CLASSES)
        with pytest.raises(InputError, match="low and high cannot be present at once"):
            base.sample(2, present=["high", "low"])
        with pytest.raises(InputError, match="present at once"):
            base.log_weight(torch.zeros(1, 8), present=["high", "low"])

    def test_all_absent(self, base):
        base.declare_exclusive(CLASSES)
        assert base.sample(2, absent=CLASSES).shape == (2, 8)
        base.declare_exclusive(CLASSES, exhaustive=True)
        with pytest.raises(InputError, match="cannot all be absent"):
            base.sample(2, absent=CLASSES)

    def test_a_group_of_one_or_of_twins(self, base):
        with pytest.raises(InputError, match="two or more"):
            base.declare_exclusive(["low"])
        with pytest.raises(InputError, match="twice: low"):
            base.declare_exclusive(["low", "low"])

    def test_an_unknown_name(self, base):
        with pytest.raises(UnknownNameError, match="high"):
            base.declare_exclusive(["low", "hihg"])

    def test_a_member_of_another_group(self, base):
        base.declare_exclusive(["low", "middle"])
        with pytest.raises(InputError, match="low exclude middle already"):
            base.declare_exclusive(["low", "high"])


def test_a_group_grows_online_and_older_answers_stay(known, latents):
    base = KnowledgeBase(known.prior, (8,))
    base.realism = known.realism
    base._hold([known["low"], known["middle"]])
    base.declare_exclusive(["low", "middle"])
    z = latents.mean[:64]
    ask = {"present": ["low"], "seed": 3}
    before = base(z), base.log_weight(z, ["low"]), base.sample(8, **ask), base["low"].sample(4)
    base.add("high", latents, **QUICK)
    after = base(z)[:, :2], base.log_weight(z, ["low"]), base.sample(8, **ask)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (*after, base["low"].sample(4)), strict=True)
    )
    base.declare_exclusive(CLASSES, exhaustive=True)
    assert base.groups == [Group(CLASSES, exhaustive=True)]
    assert torch.equal(base(z)[:, :2], before[0])
    assert torch.equal(base["low"].sample(4), before[3])
    base.remove("middle")
    assert base.groups == [Group(("low", "high"))]  # none of them is possible again
    base.remove("high")
    assert base.groups == []


def test_groups_are_saved_copied_and_pickled(base, tmp_path):
    base.declare_exclusive(CLASSES, exhaustive=True)
    z, ask = torch.randn(8, 8), {"absent": ["low", "high"]}
    loaded = KnowledgeBase.load(base.save(tmp_path / "base"), prior=base.prior)
    for again in (loaded, copy.deepcopy(base), pickle.loads(pickle.dumps(base))):
        assert again.groups == base.groups
        assert torch.equal(again.log_weight(z, **ask), base.log_weight(z, **ask))
        assert torch.equal(again.sample(4, **ask), base.sample(4, **ask))


def test_groups_are_in_a_pack(base, decoder, tmp_path):
    base.declare_exclusive(CLASSES)
    faces = latentctl.condition(decoder, base)
    faces.save_pretrained(tmp_path / "pack")
    again = latentctl.Conditional.from_pretrained(tmp_path / "pack", decoder)
    assert again.critic.groups == base.groups

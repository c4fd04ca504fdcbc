"""Rules that fail: in the trial, at random calls, by writing in place, and by their names."""

from __future__ import annotations

import inspect
import logging
import os
import random

import pytest
import torch

import latentctl
from latentctl.conditional import Conditional
from latentctl.errors import InputError, UnknownNameError
from latentctl.latents import Latents
from latentctl.latents.names import RESERVED
from latentctl.random import generator
from latentctl.rewards import CountedRewards, edit_by_rule, encoding_rewards, explore, prior_rewards

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
KINDS = ("raise", "nan", "inf", "range", "shape", "string", "none", "object", "complex")


def draw(count, shape, seed=0):
    return torch.randint(0, 9, (count, *shape), generator=generator(seed))


def share(x):
    return (x > 4).float().mean(-1)


# trial


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 8])
def test_a_rule_of_one_sample_that_broadcasts_is_called_with_one(steps):
    """Each has the shape of a batch rule for some count of samples, and wrong numbers."""
    rules = {
        "relative": lambda m: m.float().mean(-1) / m.max().clamp(min=1),
        "starts_low": lambda m: (m[0] < 5) * 1.0,
        "highest_last": lambda m: (m[-1] == m.max()).float(),
        "rises": lambda m: (m[1:] >= m[:-1]).float().mean(0),
    }
    x = draw(30, (steps,)).unique(dim=0)
    alone = {name: torch.stack([rule(row).float() for row in x]) for name, rule in rules.items()}
    for count in (2, 3, steps, len(x)):
        found = CountedRewards(rules)(x[:count])
        for column, name in enumerate(rules):
            torch.testing.assert_close(found[:, column], alone[name][:count], msg=name)


def test_batch_rules_are_called_with_batches():
    calls = []
    x = draw(40, (3, 5))
    found = CountedRewards(lambda x: calls.append(len(x)) or share(x).mean(1))(x)
    torch.testing.assert_close(found[:, 0], share(x).mean(1))
    assert calls[0] == len(x) and set(calls[1:]) == {1, 3}, "in the trial, 3 rows of one"


def test_a_rule_with_two_readings_is_refused_until_one_is_named():
    x = draw(20, (3, 4, 5))
    x[0, 0] = 8

    def both(x):
        return (x > 4).float().mean((1, 2)).amax(-1)  # of a picture, or of a batch of them

    with pytest.raises(InputError, match="vectorised=False"):
        CountedRewards(both)(x)
    torch.testing.assert_close(CountedRewards(both, vectorised=True)(x)[:, 0], both(x))
    alone = torch.stack([both(row) for row in x])
    torch.testing.assert_close(CountedRewards(both, vectorised=False)(x)[:, 0], alone)
    with pytest.raises(InputError, match="in a batch of one"):
        CountedRewards(lambda x: x.flatten(1).sum(1) / x.flatten(1).sum(1).max())(x)


def test_one_sample_does_not_decide_what_a_rule_takes():
    counted = CountedRewards(lambda m: m.float().mean(-1) / m.max())
    x = draw(20, (6,)) + 1
    one, rest = counted(x[:1]), counted(x)
    expected = torch.stack([row.float().mean() / row.max() for row in x])
    torch.testing.assert_close(rest[:, 0], expected)
    assert torch.equal(one, rest[:1])


def test_a_rule_that_writes_in_place_changes_nothing():
    def greedy(x):
        out = share(x)
        x.zero_()
        return out

    x = draw(50, (6,))
    before = x.clone()
    found = CountedRewards({"a": greedy, "b": share, "c": lambda row: float(greedy(row))})(x)
    assert torch.equal(x, before)
    for column in found.unbind(1):
        assert torch.equal(column, share(before))


# faults at random calls


class Faulty:
    """A rule that fails at random calls in random ways, and notes which it tried."""

    def __init__(self, seed, batched, rate):
        self.draw, self.batched, self.rate = random.Random(seed), batched, rate
        self.tried = []

    def __call__(self, x):
        if not self.batched and x.ndim != 1:
            raise TypeError("one melody only")
        if self.batched and x.ndim != 2:
            raise IndexError("a batch only")
        out = share(x)
        if self.draw.random() < 0.5:
            x.fill_(7)
        if self.draw.random() >= self.rate:
            return out
        kind = self.draw.choice(KINDS)
        self.tried.append(kind)
        if kind == "raise":
            raise self.draw.choice([ValueError, KeyError, ZeroDivisionError])("as drawn")
        if kind in ("nan", "inf", "range"):
            bad = {"nan": torch.nan, "inf": torch.inf, "range": 1.5}[kind]
            out = out.clone()
            out.view(-1)[self.draw.randrange(out.numel())] = bad
            return out
        wrong = {"shape": torch.ones(3, 7), "string": "good", "none": None, "object": self}
        return wrong.get(kind, torch.complex(out, out))


def test_faults_at_random_calls_are_counted_and_change_no_other_reward():
    tried, kinds, failed = 0, set(), 0
    for case in range(12):
        rule = Faulty(SEED * 1000 + case, batched=case % 2 == 0, rate=0.25)
        counted = CountedRewards({"first": share, "faulty": rule, "last": share})
        x = draw(240, (6,), seed=case).unique(dim=0)
        found = torch.cat([counted(part) for part in x.split(20)])
        truth = share(x)
        assert torch.equal(found[:, 0], truth) and torch.equal(found[:, 2], truth)
        lost = torch.isnan(found[:, 1])
        assert torch.equal(found[~lost, 1], truth[~lost])
        assert counted.failed == int(lost.sum()) == sum(counted.errors.values())
        assert counted.calls == len(x)
        tried, kinds, failed = (
            tried + len(rule.tried),
            kinds | {*rule.tried},
            failed + counted.failed,
        )
    print(f"{tried} faults of {len(kinds)} kinds tried, {failed} samples without a reward")
    assert tried >= 200 and kinds == {*KINDS}
    assert failed >= 100


@pytest.fixture(scope="module")
def decoder():
    return latentctl.wrap(
        (lambda x: x.float() / 2 - 2, lambda z: (2 * z + 4).round().long().clamp(0, 9)),
        latent_shape=(6,),
    )


TINY = {"width": 16, "depth": 2, "batch_size": 32, "first_steps": 2, "train_steps": 4}
SIZES = {"rounds": 3, "prior_samples": 90, "moves": 40}


@pytest.mark.parametrize("batched", [True, False])
def test_an_exploration_goes_on_after_faults(decoder, batched, caplog):
    rule = Faulty(SEED + 7, batched, rate=0.2)
    with caplog.at_level(logging.WARNING):
        found = explore(decoder, {"share": share, "faulty": rule}, **SIZES, **TINY)
    assert len(found.rounds) == 4 and rule.tried
    truth = share(decoder.decode(found.latents.mean))
    labels = found.latents.labels
    known = ~torch.isnan(labels[:, 1])
    assert torch.equal(labels[:, 0], truth) and torch.equal(labels[known, 1], truth[known])
    assert found.rewards.failed <= int((~known).sum())  # the same content counts once
    if not batched:  # a batch that fails is scored again, one by one
        assert found.rewards.failed > 0
    assert not found.rewards.failed or caplog.messages[-1] == found.rewards.report()
    for kind in found.rewards.errors:  # each kind once where it first happened, and at the end
        assert sum(kind in message for message in caplog.messages) <= 2


def test_a_message_is_printed_once_with_its_count(caplog):
    def failing(row):
        raise ValueError("no zeros") if int(row[0]) < 3 else KeyError(int(row[0]))

    def half(row):
        return failing(row) if int(row[0]) < 4 else 1.0

    with caplog.at_level(logging.WARNING):
        counted = CountedRewards(half)
        x = draw(300, (6,))
        for part in x.split(30):
            counted(part)
    assert caplog.text.count("no zeros") == 1
    assert counted.errors["'half': it raised ValueError: no zeros"] == int((x[:, 0] < 3).sum())
    assert f"{counted.failed} of 300 samples have no reward" in counted.report()


def test_too_many_failures_end_the_work(decoder):
    with pytest.raises(InputError, match=r"90 of 90.* nan"):
        prior_rewards(decoder, lambda x: share(x) * torch.nan, 90)
    mostly = CountedRewards(lambda row: float(share(row)) / float(int(row[0]) > 6))
    x = draw(80, (6,))
    with pytest.raises(InputError, match=r"of 80 samples.*ZeroDivisionError"):
        mostly(x)
    few = CountedRewards(lambda row: float(share(row)) / float(int(row[0]) > 2))
    assert torch.equal(torch.isnan(few(x)[:, 0]), x[:, 0] <= 2)


# names and arguments


def test_reserved_names_are_the_arguments_of_sample_and_edit(decoder):
    own = {
        name
        for method in (Conditional.sample, Conditional.edit)
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    assert own == RESERVED
    z = torch.zeros(4, 6)
    for name in sorted(RESERVED):
        for make in (
            lambda name: CountedRewards({name: share}),
            lambda name: Latents(z, labels=torch.zeros(4, 1), names=[name]),
            lambda name: latentctl.AttributeCritic((6,), [name], width=8),
            lambda name: latentctl.RewardCritic((6,), [name], width=8),
            lambda name: latentctl.condition(
                decoder, latentctl.PixelCritic(decoder, lambda x: share(x)[:, None], names=[name])
            ),
        ):
            with pytest.raises(InputError, match=f"'{name}'.*reserved|named '{name}'"):
                make(name)


def test_rules_are_given_in_any_sensible_way(decoder):
    def low(x):
        return 1 - share(x)

    expected = CountedRewards({"share": share, "low": low})(draw(9, (6,)))
    assert torch.equal(CountedRewards([share, low])(draw(9, (6,))), expected)
    assert CountedRewards(lambda x: share(x)).names == ("reward",)
    for wrong in ([], {}, 3, None, "share", [share, 3], {"a": None}):
        with pytest.raises(InputError, match="function"):
            CountedRewards(wrong)
    for twice in ([share, share], [lambda x: 1, lambda x: 0]):
        with pytest.raises(InputError, match="twice"):
            CountedRewards(twice)
    with pytest.raises(InputError, match="text"):
        CountedRewards({3: share})


def test_encodings_are_latents_or_their_means(decoder):
    means = torch.randn(30, 6, generator=generator(2))
    latents = encoding_rewards(decoder, {"share": share}, means, 20)
    same = encoding_rewards(decoder, CountedRewards(share), Latents(means), 20)
    assert torch.equal(latents.mean, same.mean) and torch.equal(latents.labels, same.labels)
    with pytest.raises(InputError, match=r"Encodings are Latents.* a list"):
        encoding_rewards(decoder, share, [1, 2], 2)


def test_edits_of_a_list_are_those_of_its_batch(decoder):
    critic = latentctl.RewardCritic((6,), ["share"], width=8)
    x = draw(5, (6,))
    expected = edit_by_rule(decoder, critic, {"share": share}, x, steps=3, restarts=0)
    for given in (list(x), x.tolist(), x.numpy()):
        assert torch.equal(
            edit_by_rule(decoder, critic, [share], given, steps=3, restarts=0).x, expected.x
        )
    same = edit_by_rule(decoder, critic, share, x, rules="share", steps=3, restarts=0)
    assert torch.equal(same.x, expected.x)
    with pytest.raises(UnknownNameError, match="'shar'"):
        edit_by_rule(decoder, critic, share, x, rules="shar")
    for wrong in ([x[0], x[0, :3]], ["a.png"], object()):
        with pytest.raises(InputError):
            edit_by_rule(decoder, critic, share, wrong, steps=3, restarts=0)

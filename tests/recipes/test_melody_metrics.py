"""The measures of melodies, against known values and by their laws."""

from __future__ import annotations

import math

import pytest
import torch
from latentctl_adapters.melody_rewards import HOLD, REST
from support.melody.metrics import (
    NgramModel,
    classifier_auc,
    diversity,
    edit_distance,
    notes_changed,
)

from latentctl.errors import InputError
from latentctl.random import generator


def words(text):
    return torch.tensor([[ord(letter) for letter in text]])


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("abcd", "abcd", 0), ("abcd", "bcde", 2), ("abcd", "axyd", 2), ("aaaa", "bbbb", 4)],
)
def test_the_edit_distance_is_levenshteins(a, b, distance):
    assert edit_distance(words(a), words(b)).item() == distance
    assert edit_distance(words(b), words(a)).item() == distance


def test_diversity_tells_copies_from_melodies():
    x = torch.randint(130, (300, 32), generator=generator(0))
    other = diversity(x)
    assert other["distinct"] == 1.0
    assert other["edit_distance"] > 25
    same = diversity(x[:1].expand(300, -1))
    assert same == {"distinct": 1 / 300, "edit_distance": 0.0}


def test_notes_changed_counts_pitches_and_onsets():
    before = torch.tensor([[60, HOLD, 62, REST]])
    for after, count in (
        ([60, HOLD, 62, REST], 0),
        ([60, HOLD, 63, REST], 1),
        ([60, HOLD, HOLD, REST], 1),
        ([60, 64, 62, REST], 1),
        ([60, REST, 62, HOLD], 0),  # only how long they last
    ):
        assert notes_changed(torch.tensor([after]), before).item() == count


def scales(count, seed):
    start = torch.randint(40, 80, (count, 1), generator=generator(seed))
    up = torch.tensor([0, 2, 4, 5, 7, 9, 11, 12])
    return start + up


def test_the_model_of_melodies_is_the_same_in_every_key():
    model = NgramModel(scales(20, 0))
    high, other = scales(5, 1) + 20, scales(5, 1)[:, torch.randperm(8, generator=generator(2))]
    assert bool((model(high) > -0.5).all())
    assert bool((model(other) < -2).all())


def test_the_model_of_melodies_sums_to_one():
    model = NgramModel(torch.tensor([[60, HOLD, 62, HOLD], [60, 64, REST, 62]]), order=3)
    past = [1000, 1128]  # a first note, a hold
    kinds = {token for counts in model.counts.values() for token in counts}
    seen = sum(math.exp(model._log_prob(past, token)) for token in kinds)
    unseen = math.exp(model._log_prob(past, 99)) * (model.kinds - len(kinds))
    assert seen + unseen == pytest.approx(1, abs=1e-9)
    assert model.kinds == len(range(-127, 128)) + 3


def test_only_different_latents_are_distinguished():
    real = torch.randn(600, 8, generator=generator(0))
    same = torch.randn(600, 8, generator=generator(1))
    assert classifier_auc(real, same, steps=150) == pytest.approx(0.5, abs=0.1)
    assert classifier_auc(real, same + 1, steps=150) > 0.9


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="needs melodies"):
        NgramModel(torch.empty(0, 32, dtype=torch.long))

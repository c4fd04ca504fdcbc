"""Pairs of drawn faces that differ in one attribute."""

from __future__ import annotations

import pytest
import torch
from latentctl_adapters.embedded.counterfactuals import counterfactuals, dataset
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, ProceduralFaces, render

from latentctl.errors import UnknownNameError

BALD, HAT, NO_BEARD = (ATTRIBUTES.index(name) for name in ("Bald", "Wearing_Hat", "No_Beard"))
PEOPLE = 100


def test_one_attribute_changes_and_the_person_stays():
    faces = ProceduralFaces(30, size=32)
    pairs = counterfactuals(faces, "Eyeglasses")
    column = ATTRIBUTES.index("Eyeglasses")
    assert len(pairs) == 30 and torch.equal(pairs.image, faces.images(0, 30))
    changed = pairs.before != pairs.after
    assert changed[:, column].all() and changed.sum() == 30
    assert torch.equal(pairs.value, pairs.after[:, column] > 0.5)
    drawn = (255 * render(pairs.identity, pairs.after, 32)).round().byte()
    assert torch.equal(pairs.truth, drawn)


def test_outside_the_region_nothing_changes():
    pairs = counterfactuals(ProceduralFaces(20), "Smiling")
    difference = (pairs.image.float() - pairs.truth.float()).abs().amax(1, keepdim=True)
    assert difference[~pairs.region].max() <= 4 < difference[pairs.region].min()
    assert 0.01 < pairs.region.float().mean() < 0.1


def test_pairs_that_uncover_or_cannot_be_seen_are_left_out():
    faces = ProceduralFaces(PEOPLE, size=16)
    attributes = faces.factors(0, PEOPLE).attributes
    colour = counterfactuals(faces, "Black_Hair")
    assert not (colour.before[:, BALD] > 0.5).any() and (attributes[:, BALD] > 0.5).any()
    bangs = counterfactuals(faces, "Bangs", True)
    assert bangs.value.all() and not (bangs.before[:, [BALD, HAT]] > 0.5).any()
    mustache = counterfactuals(faces, "Mustache", True)
    assert 0 < len(mustache) < PEOPLE // 3 and (mustache.before[:, NO_BEARD] < 0.5).all()
    lips, all_lips = (counterfactuals(faces, "Wearing_Lipstick", fair=f) for f in (True, False))
    assert PEOPLE // 2 < len(lips) < len(all_lips) == PEOPLE
    # what is asked for may be uncovered
    assert (counterfactuals(faces, "Wearing_Hat", False).before[:, HAT] > 0.5).all()


def test_the_data_set_has_a_row_for_each_pair():
    pytest.importorskip("datasets")
    faces = ProceduralFaces(6, size=16)
    data = dataset(faces, ["Smiling", "Bald"])
    pairs = counterfactuals(faces, "Smiling")
    row = data[0]
    assert row["attribute"] == "Smiling" and row["image"].size == row["region"].size == (16, 16)
    assert row["value"] == bool(pairs.value[0]) and len(row["identity"]) == 46
    assert row["after"]["Smiling"] == row["value"] != row["before"]["Smiling"]
    assert data["attribute"][-1] == "Bald" and len(data) > len(pairs)


def test_an_unknown_attribute_is_named():
    with pytest.raises(UnknownNameError, match="Smiling"):
        counterfactuals(ProceduralFaces(1), "Smilng")

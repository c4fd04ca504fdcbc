"""The measures of edits beside the drawn counterfactual."""

from __future__ import annotations

import pytest
import torch
from latentctl_adapters.embedded.counterfactuals import counterfactuals
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from latentctl_adapters.embedded.pca import PCA

import latentctl

pytest.importorskip("sklearn")

from benchmarks.edits.truth import Truth

NAMES = ("Smiling", "Wearing_Hat")


@pytest.fixture(scope="module")
def truth():
    people = ProceduralFaces(24, size=16)
    decoder = latentctl.wrap(PCA.fit(people.images(0, 24), 12))
    pairs = [counterfactuals(people, name) for name in reversed(NAMES)]
    return Truth(decoder, pairs, NAMES)


def test_requests_turn_the_attribute_of_each_pair(truth):
    assert truth.names == ["Wearing_Hat", "Smiling"] and len(truth.z) == len(truth.image)
    hat = truth.number == 0
    assert truth.target[hat, 0].isnan().all() and not truth.target[hat, 1].isnan().any()
    assert torch.equal(truth.target[hat, 1] > 0.5, truth.value[hat])
    assert torch.equal(truth.request.hold, truth.target.isnan())


def test_no_edit_goes_no_way_and_the_truth_goes_all_the_way_that_can_be_decoded(truth):
    still = truth.measure("no edit", truth.z)
    for key in ("share", "inside", "outside", "decoded"):
        assert abs(still[key]) < 1e-5, key
    best = truth.measure("truth", truth.bound)
    assert best["decoded"] == pytest.approx(1, abs=1e-5)
    assert 0 < best["share"] < 1 and best["inside"] > 0
    half = truth.measure("half of the way", torch.lerp(truth.z, truth.bound, 0.5))
    assert half["decoded"] == pytest.approx(0.5, abs=0.2) and 0 < half["share"] < 0.9
    away = truth.measure("away", truth.z + (truth.z - truth.bound))
    assert away["share"] < 0 and away["outside"] > 0
    assert set(still["by"]) == set(NAMES) and still["by"]["Wearing_Hat"]["pairs"] > 10

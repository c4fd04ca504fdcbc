"""A promise about verdicts holds on new edits."""

import pytest
import torch

from latentctl.errors import InputError, ShapeError
from latentctl.evaluation import Guarantee
from latentctl.random import generator


def scores(kind, count, draw):
    """Scores, and verdicts that are wrong the more often, the lower they are."""
    score = torch.rand(count, generator=draw) ** (0.3 if kind == "confident" else 1.0)
    chance = {
        "calibrated": 1 - score,
        "confident": (1 - score) / 4,
        "optimistic": (1 - score) * 2 + 0.02,
        "useless": torch.full_like(score, 0.3),
    }[kind]
    return score, torch.rand(count, generator=draw) < chance


@pytest.mark.parametrize("kind", ["calibrated", "confident", "optimistic", "useless"])
def test_the_risk_of_new_edits_is_kept_in_nearly_all_splits(kind):
    draw = generator(0, purpose=kind)
    test, wrong = scores(kind, 100_000, draw)
    kept, undecided = 0, []
    for _ in range(100):
        promise = Guarantee.fit(*scores(kind, 1000, draw))
        accepted = promise.accepts(test)
        kept += not bool(accepted.any()) or float(wrong[accepted].float().mean()) <= 0.05
        undecided.append(promise.undecided)
    assert kept >= 95
    if kind == "confident":
        assert sum(undecided) / 100 < 0.4
    if kind == "useless":
        assert sum(share == 1 for share in undecided) >= 95


def test_scores_without_errors_are_accepted_and_few_are_not():
    promise = Guarantee.fit(torch.linspace(0, 1, 500), torch.zeros(500, dtype=torch.bool))
    assert promise.threshold == 0 and promise.undecided == 0
    few = Guarantee.fit(torch.ones(40), torch.zeros(40, dtype=torch.bool))
    assert few.threshold is None and not few.accepts(torch.ones(3)).any()
    assert "from no score on; 100 % undecided" in repr(few)
    loose = Guarantee.fit(torch.ones(40), torch.zeros(40, dtype=torch.bool), alpha=0.2)
    assert loose.threshold is not None


def test_what_makes_no_promise_is_refused():
    right = torch.zeros(9, dtype=torch.bool)
    with pytest.raises(ShapeError, match="verdicts"):
        Guarantee.fit(torch.ones(8), right)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        Guarantee.fit(torch.full((9,), torch.nan), right)
    with pytest.raises(InputError, match="alpha"):
        Guarantee.fit(torch.ones(9), right, alpha=0.0)

"""A promise about verdicts holds on new edits, is saved with the pack, and is said at edit time."""

import dataclasses
import json

import pytest
import torch
from conftest import ToyVAE, toy_latents
from torch import nn

from latentctl import Conditional, Latents, PixelCritic, condition
from latentctl.conditional import Bound, calibrate, verify
from latentctl.controllers.request import flips
from latentctl.errors import InputError, ShapeError
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
        bound = Bound.fit(*scores(kind, 1000, draw))
        accepted = bound.accepts(test)
        kept += not bool(accepted.any()) or float(wrong[accepted].float().mean()) <= 0.05
        undecided.append(bound.undecided)
    assert kept >= 95
    if kind == "confident":
        assert sum(undecided) / 100 < 0.4
    if kind == "useless":
        assert sum(share == 1 for share in undecided) >= 95


def test_scores_without_errors_are_accepted_and_few_are_not():
    right = torch.zeros(500, dtype=torch.bool)
    bound = Bound.fit(torch.linspace(0, 1, 500), right)
    assert bound.threshold == 0 and bound.undecided == 0
    assert Bound.fit(torch.linspace(0, 1, 500), right, least=0.7).threshold == 0.7
    few = Bound.fit(torch.ones(40), right[:40])
    assert few.threshold is None and not few.accepts(torch.ones(3)).any()
    assert "from no score on; 100 % undecided" in repr(few)
    assert Bound.fit(torch.ones(40), right[:40], alpha=0.2).threshold is not None


def test_a_rare_verdict_is_accepted_where_it_is_right():
    score = torch.linspace(0, 1, 4000)
    bound = Bound.fit(score, score < 0.95)  # 200 are right, fewer than every share that is tried
    assert 0.94 < bound.threshold < 0.96


def test_what_makes_no_promise_is_refused():
    right = torch.zeros(9, dtype=torch.bool)
    with pytest.raises(ShapeError, match="verdicts"):
        Bound.fit(torch.ones(8), right)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        Bound.fit(torch.full((9,), torch.nan), right)
    with pytest.raises(InputError, match="alpha"):
        Bound.fit(torch.ones(9), right, alpha=0.0)


class Seen(nn.Module):
    """The log-odds of what the toy decodes, of which one attribute may be read wrongly."""

    def __init__(self, noise, sign=1.0):
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(noise))
        self.sign = sign

    def forward(self, x):
        z = ToyVAE().encode(x).mean
        hat = self.sign * (z[:, 0] + z[:, 2])
        return 8 * torch.stack([z[:, 0], z[:, 1], hat], 1) + self.noise * z[:, 4:7]


@pytest.fixture
def judges(decoder, critic):
    """An evaluator that reads hats as no hats, and a judge that does not."""
    networks = Seen(0.5, -1.0), Seen(0.1)
    return [PixelCritic(decoder, network, names=critic.names) for network in networks]


@pytest.fixture
def promised(decoder, critic, judges):
    faces = condition(decoder, critic, evaluator=judges[0])
    faces.guarantee = calibrate(faces, toy_latents(600, seed=5), judges[1])
    return faces


def test_edits_say_what_is_promised_and_it_holds(promised, judges):
    z, turned = toy_latents(600, seed=8), torch.arange(600) % 3
    y = flips(judges[0].score(z.mean).sigmoid(), turned).target
    out, plain = promised.edit(z, y=y), dataclasses.replace(promised, guarantee=None).edit(z, y=y)
    seen = judges[1].score_samples(out.x).sigmoid()
    reached = ((seen - y).abs() < 0.5).any(1)
    assert reached[plain.unreachable].float().mean() > 0.9, "the evaluator reads hats as no hats"
    assert reached[out.satisfied].float().mean() >= 0.95 and out.satisfied[turned < 2].all()
    assert not out.unreachable.any() and out.undecided[turned == 2].all()
    assert out.clean.float().mean() > 0.95
    assert "at most 5 % of each wrong if requests are exchangeable" in repr(out)
    assert out.guarantee is promised.guarantee is out[:3].guarantee and len(out[:3].clean) == 3
    assert "undecided" in out._repr_html_() and "clean" in repr(out)
    assert "Each holds with a probability of 95 %, if later edits are" in repr(promised.guarantee)
    assert "at most 5 %" in repr(promised)


def test_what_it_does_not_cover_is_judged_as_without_it(promised):
    z = Latents(toy_latents(20, seed=8).mean)
    plain = dataclasses.replace(promised, guarantee=None)
    for request in (
        {"Smiling": True, "Male": True},
        {"Smiling": 0.7},
        {"Smiling": True, "strength": 0.5},
        {"where": "Smiling"},
    ):
        out, other = promised.edit(z, **request), plain.edit(z, **request)
        assert out.guarantee is None and out.clean is None and not out.undecided.any()
        assert torch.equal(out.satisfied, other.satisfied)
    assert promised.sample(2, Smiling=True).guarantee is None
    assert plain.edit(z, Smiling=True).receipts()[0]["clean"] is None


def test_it_is_saved_with_the_pack_and_told_in_the_receipt(promised, decoder, judges, tmp_path):
    z = Latents(toy_latents(4, seed=8).mean)
    path = promised.save_pretrained(tmp_path / "pack")
    again = Conditional.from_pretrained(path, decoder, evaluator=judges[0])
    assert again.guarantee == promised.guarantee
    assert Conditional.from_pretrained(path, decoder).guarantee is None
    assert Conditional.from_pretrained(path, decoder, evaluator=judges[1]).guarantee is None
    file = again.edit(z, Smiling=True).save(tmp_path / "a.png")
    receipt = json.loads(file.with_suffix(".png.json").read_text())
    assert receipt["guarantee"]["alpha"] == 0.05
    assert "exchangeable" in receipt["guarantee"]["assumes"]
    assert {"undecided", "clean"} <= receipt["samples"][0].keys()
    assert verify(file, promised).intact
    promised.guarantee = dataclasses.replace(promised.guarantee, edits=3)
    assert "guarantee" in verify(file, promised).changed["metadata"]
    card = again.model_card("me/faces").text
    assert "## Guarantee" in card and "| unreachable | 5 % |" in card
    bright = PixelCritic(decoder, lambda x: x.flatten(1)[:, :1], names=["Bright"])
    assert (again + condition(decoder, bright)).guarantee is None


def test_a_judge_that_cannot_deny_is_refused(decoder, critic, judges):
    z, faces = toy_latents(20, seed=8), condition(decoder, critic, evaluator=judges[0])
    with pytest.raises(InputError, match="shares a network"):
        calibrate(faces, z, PixelCritic(decoder, Seen(0.5, -1.0), names=critic.names))
    with pytest.raises(InputError, match="Pass names="):
        calibrate(faces, z, PixelCritic(decoder, Seen(0.1), names=["a", "b", "c"]))
    with pytest.raises(InputError, match="about an evaluator"):
        calibrate(condition(decoder, critic), z, judges[1])
    with pytest.raises(InputError, match="present or absent"):
        calibrate(faces, z, judges[1], Smiling=0.7)
    refined = condition(decoder, critic, evaluator=judges[0], refine_with=judges[1])
    with pytest.raises(InputError, match="refinement"):
        calibrate(refined, z, judges[1])

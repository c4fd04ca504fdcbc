"""Ties: attributes that go together in the data, and what an edit does with them."""

import dataclasses

import pytest
import torch

from latentctl import AttributeCritic, Conditional, KnowledgeBase, condition, distill
from latentctl.controllers import Ascent, amortise
from latentctl.critics import JoinedCritic
from latentctl.critics.ties import Tie, find_ties, log_odds_ratios
from latentctl.errors import InputError, UnknownNameError
from latentctl.latents import Latents
from latentctl.random import noise

NAMES = ("Smiling", "Cheeks", "Male", "Beard")
FEW = {"max_train_steps": 3, "width": 8, "depth": 1}


def draw(*shape, purpose):
    return noise(0, shape[0], shape[1:], seed=0, purpose=purpose, uniform=True)


@pytest.fixture(scope="module")
def labels():
    """Cheeks go with smiles, beards are of men alone, smiles and men are independent."""
    smiling, male = (draw(4000, 2, purpose="causes") < 0.5).float().unbind(1)
    other, shaved = (draw(4000, 2, purpose="noise") < torch.tensor([0.1, 0.4])).unbind(1)
    cheeks = torch.where(other, 1 - smiling, smiling)
    return torch.stack([smiling, cheeks, male, male * (~shaved).float()], 1)


@pytest.fixture(scope="module")
def tied_latents(labels):
    mean = noise(0, 4000, (8,), seed=0, purpose="ties")
    mean[:, :4] += 3 * (2 * labels - 1)
    return Latents(mean, None, labels, NAMES)


def test_the_parameters_of_an_ising_model_are_found():
    """Six attributes in a chain, of which only neighbours depend on each other."""
    theta = torch.zeros(6, 6)
    for k in range(5):
        theta[k, k + 1] = theta[k + 1, k] = (-2.0 if k % 2 else 2.0) * (k != 2)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    weight = ((states - 0.5) @ theta * (states - 0.5)).sum(1).div(2).exp()
    order = torch.multinomial(weight, 20_000, True, generator=torch.Generator().manual_seed(0))
    found = log_odds_ratios(states[order]).float()
    torch.testing.assert_close(found, theta, atol=0.15, rtol=0)
    pairs = {(tie.first, tie.second) for tie in find_ties(states[order], "abcdef", factor=4.0)}
    assert pairs == {("a", "b"), ("b", "c"), ("d", "e"), ("e", "f")}


def test_ties_of_labels_that_are_unknown_soft_few_or_constant(labels):
    pairs = {frozenset(tie[:2]) for tie in find_ties(labels, NAMES)}
    assert pairs == {frozenset({"Smiling", "Cheeks"}), frozenset({"Male", "Beard"})}
    unknown = torch.where(draw(4000, 4, purpose="unknown") < 0.3, torch.nan, labels)
    soft = 0.95 * labels + 0.02
    for some in (unknown, soft, labels[:400]):
        assert {frozenset(tie[:2]) for tie in find_ties(some, NAMES)} == pairs
    assert find_ties(labels[:4], NAMES) == ()
    assert find_ties(torch.ones(500, 4), NAMES) == find_ties(labels * torch.nan, NAMES) == ()
    apart = torch.full((800, 2), torch.nan)  # two data sets, each with one label
    apart[:400, 0], apart[400:, 1] = labels[:400, 0], labels[:400, 1]
    assert find_ties(apart, NAMES[:2]) == ()


def test_ties_are_kept_with_the_critic(tied_latents, decoder, tmp_path):
    critic = AttributeCritic.fit(tied_latents, **FEW)
    assert [set(tie[:2]) for tie in critic.ties] == [{"Male", "Beard"}, {"Smiling", "Cheeks"}]
    assert "Smiling and Cheeks (odds x" in repr(critic)
    assert AttributeCritic.load(critic.save(tmp_path / "critic")).ties == critic.ties
    some = critic.select(["Cheeks", "Beard", "Male"])
    assert some.names == ("Cheeks", "Beard", "Male") and some.ties == critic.ties[:1]
    z = torch.randn(5, 8)
    assert torch.equal(some(z), critic(z)[:, [1, 3, 2]])
    faces = condition(decoder, some)
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert again.critic.ties == some.ties and torch.equal(again.critic(z), some(z))
    assert critic["Male"].ties == () and (critic["Male"] & critic["Beard"]).ties == ()
    joined = JoinedCritic(critic.select(["Smiling", "Cheeks"]), some.select(["Male"]))
    assert joined.ties == critic.ties[1:]
    assert type(joined).load(joined.save(tmp_path / "joined")).ties == joined.ties
    critic.ties = [("Smiling", "Male")]
    assert critic.ties == (Tie("Smiling", "Male"),) and "Smiling and Male" in repr(critic)
    assert AttributeCritic.load(critic.save(tmp_path / "other")).ties == critic.ties
    for wrong in (["Smiling"], [("Smiling",)], [("Male", "Male")]):
        with pytest.raises(InputError, match="pair of attributes"):
            critic.ties = wrong
    with pytest.raises(UnknownNameError, match="Did you mean 'Smiling'"):
        critic.ties = [("Smilling", "Male")]


def test_ties_of_what_is_distilled_or_added(tied_latents, decoder):
    quick = {"width": 16, "depth": 1, "learning_rate": 1e-2, "batch_size": 64}
    critic = AttributeCritic.fit(tied_latents, max_train_steps=60, **quick)
    few = {"samples": 32, "rounds": 0, "max_train_steps": 2, "width": 8}
    bare = Latents(tied_latents.mean)
    assert distill(critic, tied_latents, **few).ties == critic.ties
    more = {"samples": 500, "rounds": 0, "max_train_steps": 100, "lr_warmup_steps": 5}
    student = distill(critic, bare, **{**quick, **more})
    assert {frozenset(t[:2]) for t in student.ties} == {frozenset(t[:2]) for t in critic.ties}
    faces = condition(decoder, AttributeCritic.fit(tied_latents.select(NAMES[:3]), **FEW))
    assert len(faces.critic.ties) == 1
    faces.add("Beard", tied_latents, **FEW)
    assert {frozenset(t[:2]) for t in faces.critic.ties} == {frozenset(t[:2]) for t in critic.ties}
    base = KnowledgeBase(decoder.prior, (8,))
    quick = {"max_train_steps": 1, "critic_steps": 2, "width": 8, "critic_width": 8}
    for name in ("Male", "Beard"):
        base.add(name, tied_latents, **quick)
    assert [set(tie[:2]) for tie in base.ties] == [{"Male", "Beard"}]
    base.remove("Male")
    assert base.ties == ()


def test_an_edit_holds_what_is_untied_and_reports_the_rest_apart(tied_latents, decoder):
    critic = AttributeCritic.fit(tied_latents, **FEW)
    faces = condition(decoder, critic, editor=Ascent.for_edits(critic, steps=2))
    photos = decoder.decode(tied_latents.mean[:3])

    def parts(**request):
        out = faces.edit(photos, **request)
        return ["".join("-+"[not math] for math in row.isnan().all(0).tolist())
                for row in (out.leakage, out.tied, out.free)]  # fmt: skip

    assert parts(Smiling=True) == ["--++", "-+--", "----"]
    assert parts(Smiling=True, hold=True) == ["-+++", "----", "----"]
    assert parts(Smiling=True, hold=False) == ["----", "-+--", "--++"]
    assert parts(Smiling=True, hold="Cheeks") == ["-+--", "----", "--++"]
    assert parts(Smiling=True, hold=["Male"]) == ["--+-", "-+--", "---+"]
    assert parts(Smiling=True, Beard=False) == ["----", "-++-", "----"]
    assert parts(where="Smiling | Beard") == ["----", "-++-", "----"]
    assert parts(where="Male", hold=False) == ["----", "---+", "++--"]
    with pytest.raises(InputError, match="'untied', True, False, or names"):
        faces.edit(photos, Smiling=True, hold=3)
    sample = faces.sample(2, Smiling=True)
    assert all(getattr(sample, f).isnan().all() for f in ("leakage", "tied", "free"))
    out = faces.edit(photos, Smiling=[True, None, None], hold=["Male"])
    row, other = out.receipts()[:2]
    assert row["tied_Cheeks"] is not None and other["tied_Cheeks"] is None
    assert other["free_Cheeks"] is not None and row["leakage_Male"] is not None
    assert all(word in repr(out) for word in ("leakage", "tied", "free"))
    assert ", tied, " in out._repr_html_()
    critic.ties = ()
    assert parts(Smiling=True) == parts(Smiling=True, hold=True) == ["-+++", "----", "----"]


def test_an_amortised_editor_is_trained_for_what_edits_hold(tied_latents, monkeypatch):
    critic = AttributeCritic.fit(tied_latents, **FEW)
    ascent, seen = Ascent.for_edits(critic), []
    objective = Ascent.objective

    def remember(self, z, origin, request, **options):
        seen.append(request)
        return objective(self, z, origin, request, **options)

    monkeypatch.setattr(Ascent, "objective", remember)
    amortise(ascent, tied_latents, **FEW)
    held = torch.cat([request.hold for request in seen])
    asked = ~torch.cat([request.target for request in seen]).isnan()
    smiles = asked[:, 0] & ~asked[:, 1:].any(1)
    assert 0.1 < held[smiles][:, 1].float().mean() < 0.5 and held[smiles][:, 2:].all()
    assert dataclasses.replace(seen[0]).hold is not None and not (held & asked).any()

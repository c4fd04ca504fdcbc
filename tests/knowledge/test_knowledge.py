"""Knowledge: presence, density, and additions that change no older output."""

import copy
import math

import pytest
import torch
from conftest import toy_latents

import latentctl
from latentctl import AttributeCritic, Gaussian, KnowledgeBase, LatentFlow, Latents
from latentctl.errors import CheckpointError, FingerprintError, InputError, UnknownNameError
from latentctl.evaluation.laws import check_critic
from latentctl.knowledge.knowledge import Knowledge
from latentctl.random import generator

QUICK = {"critic_steps": 120, "max_train_steps": 60, "width": 32, "critic_width": 64}
QUICK |= {"batch_size": 128, "learning_rate": 3e-3}
TINY = {**QUICK, "critic_steps": 4, "max_train_steps": 4}  # for what needs no quality


@pytest.fixture(scope="module")
def prior(latents):
    return LatentFlow.fit(latents, "coupling", width=32, blocks=2, max_train_steps=150)


@pytest.fixture(scope="module")
def base(latents, prior):
    base = KnowledgeBase(prior, (8,))
    for name in ("Smiling", "Male"):
        base.add(name, latents, **QUICK)
    return base


def test_presence_is_a_calibrated_critic(base, held_out):
    z = held_out.sample(torch.randn(len(held_out), 8, generator=generator(5)))
    probability = base["Smiling"].probability(z)[:, 0]
    truth = held_out.column("Smiling")
    assert ((probability > 0.5) == truth.bool()).float().mean() > 0.93
    sure = probability > 0.9
    assert truth[sure].mean() == pytest.approx(probability[sure].mean().item(), abs=0.05)


def test_it_obeys_the_algebra_of_critics(base):
    check_critic(base["Smiling"], torch.randn(16, 8, generator=generator(1)))
    both = base["Smiling"] & ~base["Male"]
    assert both.attributes == {"Smiling", "Male"}


def test_samples_have_what_is_asked(base):
    z = base["Smiling"].sample(400, seed=1)
    assert (z[:, 0] > 0).float().mean() > 0.85
    assert z[:, 3].mean() == pytest.approx(1.5, abs=0.15)  # and are still where the data are
    assert torch.equal(base["Smiling"].sample(3, seed=1, start=10), z[10:13]) or torch.allclose(
        base["Smiling"].sample(3, seed=1, start=10), z[10:13], atol=1e-5
    )


def test_the_conditional_density_gains_on_the_prior_where_it_should(base, held_out):
    z = held_out.mean
    gain = base["Smiling"].log_prob(z) - base.prior.log_prob(z)
    smiling = held_out.column("Smiling") > 0.5
    assert gain[smiling].mean() > 0.3  # log 2 at best, beyond what the prior misses
    assert gain[~smiling].mean() < 0


def test_the_bound_tightens_and_stays_below_the_integral(base):
    knowledge = base["Smiling"]
    z = knowledge.sample(8, seed=3)
    few, many = (knowledge.log_prob(z, samples=n) for n in (4, 256))
    draws = torch.randn(20_000, 2, generator=generator(0))
    exact = torch.stack(
        [
            knowledge.conditional_log_prob(row.expand(len(draws), -1), draws).logsumexp(0)
            for row in z
        ]
    ) - math.log(len(draws))
    assert (many - exact.detach()).abs().max() < 0.3
    assert few.mean() < many.mean() + 0.1


def test_a_density_over_latents_integrates_to_one():
    data = Latents(torch.randn(400, 1), None, (torch.arange(400)[:, None] % 2).float(), ["odd"])
    flow = LatentFlow.fit(Latents(torch.randn(400, 2)), "coupling", width=8, max_train_steps=5)
    two = Latents(torch.randn(400, 2), None, data.labels, ["odd"])
    knowledge = Knowledge.fit("odd", flow, two, **{**TINY, "max_train_steps": 30})
    axis = torch.linspace(-8, 8, 161)
    grid = torch.cartesian_prod(axis, axis)
    c = torch.tensor([[0.3, -0.5]]).expand(len(grid), -1)
    with torch.no_grad():
        density = knowledge.conditional_log_prob(grid, c).exp()
    assert density.sum().item() * 0.1**2 == pytest.approx(1, abs=0.02)


def test_adding_leaves_every_older_answer_as_it_was(latents, prior):
    grown, other = KnowledgeBase(prior, (8,)), KnowledgeBase(prior, (8,))
    grown.add("Smiling", latents, **TINY)
    z = latents.mean[:64]
    state = {k: v.clone() for k, v in prior.state_dict().items()}

    def answers():
        k = grown["Smiling"]
        return k(z), k.sample(16, seed=2), k.log_prob(z), k.code(z)

    before = answers()
    grown.add("Hat", latents, **TINY)
    assert all(torch.equal(a, b) for a, b in zip(before, answers(), strict=True))
    assert all(torch.equal(v, prior.state_dict()[k]) for k, v in state.items())
    assert grown(z).shape == (64, 2)
    # and it is what another base learns, to which something else was added before
    for name in ("Male", "Smiling"):
        other.add(name, latents, **TINY)
    assert torch.equal(grown["Smiling"](z), other["Smiling"](z))


def test_several_at_once_and_absence(base):
    z = base.sample(200, present=["Smiling", "Male"], seed=4)
    assert ((z[:, 0] > 0) & (z[:, 1] > 0)).float().mean() > 0.8
    z = base.sample(200, present=["Smiling"], absent=["Male"], seed=4)
    assert ((z[:, 0] > 0) & (z[:, 1] < 0)).float().mean() > 0.8
    z = base.sample(200, absent=["Smiling"], seed=4)
    assert (z[:, 0] < 0).float().mean() > 0.85
    assert z.std(0)[4:].min() > 0.5  # a product of critics alone would have lost the prior's width
    part = base.sample(5, absent=["Smiling"], seed=4, start=20)
    assert torch.allclose(part, z[20:25], atol=1e-5)


@pytest.mark.slow
def test_unlabelled_rows_help_by_the_discriminator(latents, prior):
    labels = latents.labels.clone()
    labels[300:] = torch.nan
    semi = latents.with_labels(labels, latents.names)
    knowledge = Knowledge.fit("Smiling", prior, semi, **QUICK)
    held_out = toy_latents(400, seed=7)
    right = (knowledge(held_out.mean)[:, 0] > 0) == held_out.column("Smiling").bool()
    assert right.float().mean() > 0.85


def test_too_few_labels_to_calibrate_by_are_named(latents, prior):
    few = latents.column("Smiling").clone()
    shown = few.nonzero().flatten()
    few[shown[3:]] = torch.nan  # three of them are left
    data = Latents(latents.mean, latents.std, few[:, None], ["Smiling"])
    with pytest.raises(InputError, match=r"none has it.*give `held_out`"):
        Knowledge.fit("Smiling", prior, data, **QUICK)


def test_a_code_may_be_given_by_labels(latents, prior):
    values = latents.mean[:, 4:5].sigmoid()
    both = latents.with_labels(torch.cat([latents.labels, values], 1), [*latents.names, "tilt"])
    knowledge = Knowledge.fit(
        "Smiling",
        prior,
        both,
        code=["tilt"],
        **{**TINY, "max_train_steps": 150},
    )
    found = knowledge.code(latents.mean)[:, 0]
    assert torch.corrcoef(torch.stack([found, values[:, 0]]))[0, 1] > 0.8
    low, high = (
        knowledge.sample(200, seed=0, c=torch.tensor([[value]]))[:, 4].mean()
        for value in (0.35, 0.65)
    )
    assert high > low + 0.3


def test_conditioning_takes_a_knowledge_as_it_is(decoder, base):
    faces = latentctl.condition(decoder, base["Smiling"] & base["Male"], prior=base["Smiling"])
    out = faces.sample(8, seed=0)
    assert out.satisfied.float().mean() > 0.9


def test_grids(spatial_latents):
    prior = LatentFlow.fit(spatial_latents, "coupling", width=8, max_train_steps=5, batch_size=32)
    base = KnowledgeBase(prior, (4, 8, 8))
    base.add("Bright", spatial_latents[:100], **{**TINY, "width": 8, "critic_width": 8})
    assert base["Bright"].sample(3).shape == (3, 4, 8, 8)
    assert base["Bright"].log_prob(spatial_latents.mean[:3]).shape == (3,)


class TestSaving:
    def test_a_base_comes_back_bit_for_bit(self, base, prior, tmp_path):
        again = KnowledgeBase.load(base.save(tmp_path / "base"), prior=prior)
        z = torch.randn(8, 8)
        assert torch.equal(again(z), base(z))
        assert torch.equal(again.sample(4, present=["Male"]), base.sample(4, present=["Male"]))
        assert again.names == base.names and again.prior is again["Male"].prior is prior
        assert torch.equal(again.posterior_std, base.posterior_std)

    def test_one_knowledge_comes_back_bit_for_bit(self, base, prior, tmp_path):
        again = Knowledge.load(base["Male"].save(tmp_path / "male"), prior=prior)
        assert again.config == base["Male"].config
        z = torch.randn(8, 8)
        assert torch.equal(again(z), base["Male"](z))
        assert torch.equal(again.log_prob(z), base["Male"].log_prob(z))

    def test_an_empty_base_is_saved_and_counts_as_true(self, prior, tmp_path):
        empty = KnowledgeBase(prior, (8,))
        assert empty and len(empty) == 0
        assert KnowledgeBase.load(empty.save(tmp_path / "empty"), prior=prior).names == ()

    def test_the_prior_is_not_in_the_folder(self, base, prior, tmp_path):
        sizes = [file.stat().st_size for file in base["Male"].save(tmp_path / "k").iterdir()]
        weights = sum(p.numel() for p in base["Male"].parameters())
        assert sum(sizes) < 4 * (weights - sum(p.numel() for p in prior.parameters())) + 20_000

    def test_another_flow_is_refused(self, base, tmp_path):
        path = base.save(tmp_path / "base")
        with pytest.raises(FingerprintError, match="saved over a prior"):
            KnowledgeBase.load(path, prior=LatentFlow((8,), width=32, blocks=2))
        with pytest.raises(FingerprintError, match="none was given"):
            KnowledgeBase.load(path)

    def test_a_critic_is_no_base(self, tmp_path, prior):
        critic = AttributeCritic((8,), ["Smiling"], width=8)
        with pytest.raises(CheckpointError, match="AttributeCritic, not a KnowledgeBase"):
            KnowledgeBase.load(critic.save(tmp_path / "critic"), prior=prior)


class TestBadInput:
    def test_a_name_added_twice(self, base, latents):
        with pytest.raises(InputError, match="already"):
            base.add("Male", latents)

    def test_one_class_only(self, prior, latents):
        ones = latents.with_labels(torch.ones(len(latents), 1), ["all"])
        with pytest.raises(InputError, match="nothing to learn"):
            Knowledge.fit("all", prior, ones)

    def test_an_unknown_label(self, base, latents):
        with pytest.raises(UnknownNameError, match="Smiling"):
            KnowledgeBase(base.prior, (8,)).add("Smilng", latents)

    def test_an_unknown_knowledge(self, base):
        with pytest.raises(UnknownNameError, match="Smiling"):
            base.sample(2, present=["Smilin"])

    def test_a_contradiction(self, base):
        with pytest.raises(InputError, match="both present and absent"):
            base.sample(2, present=["Male"], absent=["Male"])

    def test_too_few(self, prior, latents):
        with pytest.raises(InputError, match="at least 50"):
            Knowledge.fit("Smiling", prior, latents[:40])

    def test_a_prior_that_is_no_flow(self, latents):
        mixture = latentctl.priors.GaussianMixture.fit(latents[:100], 2)
        with pytest.raises(InputError, match="to_base"):
            KnowledgeBase(mixture, (8,))

    def test_a_gaussian_is_a_flow(self, latents):
        base = KnowledgeBase(Gaussian((8,)), (8,))
        base.add("Male", latents, **{**TINY, "max_train_steps": 0})
        assert torch.isfinite(base["Male"].log_prob(latents.mean[:4])).all()


class TestGrowing:
    def test_a_conditional_learns_one_more(self, decoder, latents, base):
        grown = copy.deepcopy(base)
        grown.remove("Male")
        faces = latentctl.condition(decoder, grown)
        before = faces.sample(6, Smiling=True, seed=1)
        assert before.satisfied.float().mean() > 0.8
        faces.add("Male", latents, **QUICK)
        after = faces.sample(6, Smiling=True, seed=1)
        assert torch.equal(before.x, after.x)
        assert torch.equal(before.probability[:, 0], after.probability[:, 0])
        both = faces.sample(6, Smiling=True, Male=False, seed=1)
        assert both.names == ("Smiling", "Male")
        assert both.satisfied.float().mean() > 0.8
        edited = faces.edit(both.x, Male=True)
        assert edited.satisfied.float().mean() > 0.5

    def test_a_label_that_the_latents_lack_is_named(self, decoder, latents, prior):
        critic = AttributeCritic((8,), ["Smiling"], width=8)
        for grown in (critic, KnowledgeBase(prior, (8,))):
            with pytest.raises(UnknownNameError, match="Bangs"):
                latentctl.condition(decoder, grown).add("Bangs", latents)

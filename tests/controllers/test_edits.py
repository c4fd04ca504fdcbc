"""Edits: near the input, refined, amortised, evaluated independently, and packed."""

import dataclasses
import logging

import pytest
import torch
from conftest import NAMES, truth

import latentctl
from latentctl import Ascent, AttributeCritic, PixelCritic, condition
from latentctl.controllers import Refined, Request, SphericalAscent, amortise
from latentctl.controllers.request import flips
from latentctl.errors import InputError, ShapeError

NAN = float("nan")


def flip(critic, z, column=0, **options):
    """The request to flip one attribute and to hold all others."""
    columns = torch.full((len(z),), column)
    return dataclasses.replace(flips(critic.score(z).sigmoid(), columns), **options)


def success(z, request, column=0):
    """Share of latents whose true attribute is the target."""
    return (truth(z)[:, column] == request.target[:, column]).float().mean()


@pytest.fixture
def z(held_out):
    return held_out.mean[:60]


class Reader(torch.nn.Module):
    """Inverts the toy decoder, an orthogonal map and a sigmoid, and reads the attributes."""

    names = NAMES

    def __init__(self, model):
        super().__init__()
        self.register_buffer("weight", model.weight.detach().clone())

    def forward(self, x):
        z = torch.logit(x.flatten(1), 1e-6) @ self.weight / 4
        return 3 * torch.stack([z[:, 0], z[:, 1], z[:, 0] + z[:, 2]], 1)


@pytest.fixture
def network(model):
    return Reader(model)


def test_ascent_for_edits_moves_less_for_the_same_success(critic, z):
    request = flip(critic, z)
    plain = Ascent(critic, steps=100).move(z, flip(critic, z, threshold=0.99)).z
    edit = Ascent.for_edits(critic).move(z, flip(critic, z, threshold=0.99)).z
    shift = [(moved - z).square().mean() for moved in (plain, edit)]
    assert success(edit, request) >= success(plain, request) - 0.05
    assert shift[1] < shift[0]


def test_a_larger_shift_weight_shortens_the_move(critic, z):
    request = flip(critic, z)
    moves = [Ascent.for_edits(critic, shift_weight=w).move(z, request).z for w in (0.0, 0.1, 1.0)]
    shifts = [(moved - z).square().mean() for moved in moves]
    assert shifts[0] > shifts[1] > shifts[2] > 0


def test_continuing_exceeds_the_threshold(critic, z):
    request = flip(critic, z)
    options = {"learning_rate": 0.05, "steps": 60}
    stops = Ascent(critic, **options).move(z, flip(critic, z, threshold=0.7))
    continues = Ascent(critic, continue_after_threshold=True, **options).move(
        z, flip(critic, z, threshold=0.7)
    )
    p = [
        critic.probability(move.z)[:, 0].sub(request.target[:, 0]).abs().mean()
        for move in (stops, continues)
    ]
    assert p[1] < p[0]
    assert bool((continues.evaluations >= stops.evaluations).all())


def test_a_fractional_target_is_not_exceeded_by_a_continuing_ascent(critic, z):
    y = torch.full((len(z), 3), NAN)
    y[:, 0] = 0.6
    request = Request(target=y, threshold=0.95)
    aimed = Ascent.for_edits(critic, steps=200, learning_rate=0.03).move(z, request).z
    assert ((critic.probability(aimed)[:, 0] - 0.6).abs() <= 0.051).float().mean() > 0.9


def test_an_amortised_editor_approaches_the_loss_of_the_ascent_in_one_evaluation(
    critic, latents, z
):
    ascent = Ascent.for_edits(critic)
    editor = amortise(ascent, latents, width=64, depth=3, max_train_steps=700, learning_rate=3e-3)
    request = flip(critic, z)
    loss = {}
    made = {"none": z, "ascent": ascent.move(z, request).z, "editor": editor.move(z, request).z}
    for name, moved in made.items():
        loss[name] = ascent.objective(moved, z, request)[0].mean()
    assert loss["editor"] - loss["ascent"] < 0.4 * (loss["none"] - loss["ascent"])
    assert editor.move(z, request).evaluations.tolist() == [1] * len(z)
    assert editor.names == critic.names and editor.learned


def test_an_ascent_without_a_critic_cannot_be_amortised(latents):
    with pytest.raises(InputError, match="critic of attributes"):
        amortise(Ascent.for_edits(), latents)
    with pytest.raises(InputError, match="clone the moves"):
        amortise(SphericalAscent(), latents)


def test_a_refinement_starts_at_the_result_of_the_first_stage(critic, z):
    with latentctl.random.seeded(0):
        wrong = AttributeCritic((8,), NAMES, width=16).eval()  # untrained
    request = flip(wrong, z)
    first = Ascent.for_edits(wrong)
    refined = Refined(first, critic, steps=80, learning_rate=0.1)
    near, far = first.move(z, request), refined.move(z, request)
    goal = 1 - wrong.probability(z)[:, 0].round()
    error = [(critic.probability(m.z)[:, 0] - goal).abs().mean() for m in (near, far)]
    assert error[1] < 0.5 * error[0]
    assert bool((far.evaluations > near.evaluations).all())


def test_a_held_attribute_keeps_its_probability_by_the_second_critic(critic, z):
    with latentctl.random.seeded(0):
        wrong = AttributeCritic((8,), NAMES, width=16).eval()
    request = flip(wrong, z)
    moved = Refined(Ascent.for_edits(wrong, steps=1), critic, steps=60, learning_rate=0.05).move(
        z, request
    )
    before, after = (critic.probability(part)[:, 1] for part in (z, moved.z))
    # not the probability 0.5 of the untrained critic
    assert (after - before).abs().mean() < (before - 0.5).abs().mean()


class TestEvaluator:
    def test_receipts_have_the_scores_of_the_evaluator(self, decoder, critic, held_out, network):
        x = decoder.decode(held_out.mean[:20])
        evaluator = PixelCritic(decoder, network)
        faces = condition(decoder, critic, evaluator=evaluator)
        out = faces.edit(x, Smiling=True)
        assert torch.allclose(out.probability, evaluator.probability(out.z), atol=1e-5)
        assert not torch.allclose(out.probability, critic.probability(out.z), atol=1e-2)
        change = (evaluator.probability(out.z) - evaluator.probability(out.start)).abs()
        assert torch.allclose(out.leakage[:, 1:], change[:, 1:], atol=1e-5)
        assert faces.threshold == 0.8
        assert torch.equal(out.satisfied, out.probability[:, 0] >= 0.8)

    def test_with_an_evaluator_that_rejects_everything_nothing_is_satisfied(
        self, decoder, critic, held_out
    ):
        x = decoder.decode(held_out.mean[:10])
        rejects = PixelCritic(decoder, lambda x: x.new_full((len(x), 3), -9.0), names=NAMES)
        out = condition(decoder, critic, evaluator=rejects).edit(x, Smiling=True)
        assert not out.satisfied.any() and out.unreachable.all()
        half = condition(decoder, critic, evaluator=rejects).edit(x, Smiling=True, strength=0.5)
        assert not half.unreachable.any(), "only a whole move counts as unreachable"

    def test_a_logical_request_is_evaluated_too(self, decoder, critic, held_out, network):
        x = decoder.decode(held_out.mean[:20])
        evaluator = PixelCritic(decoder, network)
        faces = condition(decoder, critic, evaluator=evaluator)
        where = (critic["Smiling"] & ~critic["Male"]) | critic["Hat"]
        out = faces.edit(x, where=where)
        seen = where.of(evaluator).probability(out.z)[:, 0]
        assert torch.equal(out.satisfied, seen >= 0.8)
        assert torch.allclose(
            where.of(evaluator)(out.z),
            ((evaluator["Smiling"] & ~evaluator["Male"]) | evaluator["Hat"])(out.z),
        )
        assert torch.equal(where(out.z), where(out.z)), "the expression itself is unchanged"
        match = critic.match(torch.tensor([[1.0, 0.0, NAN]]))
        assert torch.allclose(match.of(evaluator)(out.z), evaluator.match(match.y)(out.z))

    def test_an_evaluator_of_other_attributes_is_refused(self, decoder, critic):
        other = PixelCritic(decoder, lambda x: x.flatten(1)[:, :1], names=["Bright"])
        with pytest.raises(InputError, match="Bright"):
            condition(decoder, critic, evaluator=other)

    def test_networks_refine_edits_and_not_samples(self, decoder, critic, held_out, network):
        x = decoder.decode(held_out.mean[:10])
        faces = condition(decoder, critic, refine_with=PixelCritic(decoder, network))
        plain = condition(decoder, critic)
        assert isinstance(faces.editor, Refined)
        assert torch.equal(faces.sample(4, Smiling=True).z, plain.sample(4, Smiling=True).z)
        assert not torch.equal(faces.edit(x, Smiling=True).z, plain.edit(x, Smiling=True).z)


class TestPacks:
    def test_edits_of_a_loaded_pack_are_bit_equal(self, decoder, critic, held_out, tmp_path):
        x = decoder.decode(held_out.mean[:10])
        faces = condition(decoder, critic)
        faces.save_pretrained(tmp_path / "pack")
        loaded = latentctl.Conditional.from_pretrained(tmp_path / "pack", decoder)
        for a, b in (
            (faces.edit(x, Smiling=True), loaded.edit(x, Smiling=True)),
            (faces.sample(3, Smiling=True), loaded.sample(3, Smiling=True)),
        ):
            assert torch.equal(a.z, b.z) and torch.equal(a.probability, b.probability)

    def test_an_amortised_editor_is_kept(self, decoder, critic, latents, held_out, tmp_path):
        x = decoder.decode(held_out.mean[:10])
        editor = amortise(Ascent.for_edits(critic), latents, width=16, max_train_steps=20)
        faces = condition(decoder, critic, editor=editor)
        faces.save_pretrained(tmp_path / "pack")
        loaded = latentctl.Conditional.from_pretrained(tmp_path / "pack", decoder)
        assert torch.equal(faces.edit(x, Smiling=True).z, loaded.edit(x, Smiling=True).z)

    def test_networks_are_passed_again_to_loading(
        self, decoder, critic, held_out, network, tmp_path, caplog
    ):
        x = decoder.decode(held_out.mean[:10])
        slow, evaluator = (PixelCritic(decoder, network) for _ in range(2))
        editor = Refined(Ascent.for_edits(critic, steps=5), slow, steps=7)
        faces = condition(decoder, critic, editor=editor, evaluator=evaluator)
        faces.save_pretrained(tmp_path / "pack")
        load = latentctl.Conditional.from_pretrained
        with caplog.at_level(logging.WARNING):
            load(tmp_path / "pack", decoder)
        assert "refine_with=" in caplog.text and "evaluator=" in caplog.text
        again = load(tmp_path / "pack", decoder, refine_with=slow, evaluator=evaluator)
        a, b = (f.edit(x, Smiling=True) for f in (faces, again))
        assert torch.equal(a.z, b.z) and torch.equal(a.probability, b.probability)


def test_an_editor_for_another_decoder_is_refused(decoder, critic):
    with latentctl.random.seeded(0):
        other = latentctl.Actor((5,), NAMES, width=16)
    with pytest.raises(ShapeError, match="another decoder"):
        condition(decoder, critic, editor=other)


class TestRegions:
    @pytest.fixture
    def spatial(self, spatial_latents):
        """A decoder of grids `(4, 8, 8)` to images of 16 x 16, and a critic of one attribute."""
        torch.manual_seed(0)
        up = torch.nn.ConvTranspose2d(4, 3, 2, stride=2)
        down = torch.nn.Conv2d(3, 4, 2, stride=2)
        decoder = latentctl.wrap((down, up), latent_shape=(4, 8, 8), value_range=(-9, 9))
        critic = AttributeCritic.fit(
            spatial_latents, width=16, max_train_steps=150, learning_rate=3e-3, batch_size=64
        )
        return decoder, critic

    @pytest.mark.parametrize("kind", ["ascent", "refined", "actor"])
    def test_latents_outside_the_region_stay_bit_for_bit(self, spatial, spatial_latents, kind):
        decoder, critic = spatial
        editor = {
            "ascent": lambda: Ascent.for_edits(critic),
            "refined": lambda: Refined(Ascent.for_edits(critic, steps=5), critic, steps=5),
            "actor": lambda: amortise(
                Ascent.for_edits(critic), spatial_latents, width=16, max_train_steps=40
            ),
        }[kind]()
        x = decoder.decode(spatial_latents.mean[:6])
        mask = torch.zeros(16, 16)
        mask[:, :8] = 1
        out = condition(decoder, critic, editor=editor).edit(x, mask=mask, Bright=True)
        moved = (out.z != out.start).any(1)  # (B, 8, 8)
        assert not moved[:, :, 4:].any() and moved.any()
        assert torch.equal(out.x[..., 8:], decoder.decode(out.start)[..., 8:])

    def test_the_search_is_restricted_to_the_region(self, spatial, spatial_latents):
        decoder, critic = spatial
        x = decoder.decode(spatial_latents.mean[:30])
        mask = torch.zeros(1, 16, 16, dtype=torch.bool)
        mask[..., :8] = True
        ascent = Ascent.for_edits(critic, shift_weight=0.2)  # the optimum has a limited shift
        editor = condition(decoder, critic, editor=ascent)
        inside = editor.edit(x, mask=mask, hold=False, Bright=True)
        free = ascent.move(inside.start, Request(target=torch.tensor([[1.0, NAN]]))).z
        cut = torch.where(torch.arange(8) < 4, free, inside.start)
        odds = [critic["Bright"](part).mean() for part in (inside.z, cut)]
        assert odds[0] > odds[1], (
            "a search within the region reaches more than a cut of the free one"
        )

    def test_masks_that_do_not_fit(self, spatial, decoder, critic, held_out):
        other, bright = spatial
        x = other.decode(torch.zeros(2, 4, 8, 8))
        with pytest.raises(ShapeError, match="mask"):
            condition(other, bright).edit(x, mask=torch.ones(8, 8), Bright=True)
        toy = decoder.decode(held_out.mean[:2])
        with pytest.raises(InputError, match="spatial latents"):
            condition(decoder, critic).edit(toy, mask=torch.ones(4, 4), Smiling=True)


def test_an_attribute_that_the_evaluator_lacks_cannot_be_added(decoder, latents, network):
    known = latentctl.KnowledgeBase(decoder.prior, decoder.latent_shape)
    known.add("Smiling", latents, max_train_steps=5)
    evaluator = PixelCritic(decoder, lambda x: network(x)[:, :1], names=["Smiling"])
    faces = condition(decoder, known, evaluator=evaluator)
    with pytest.raises(InputError, match="evaluator has the attributes Smiling"):
        faces.add("Male", latents)

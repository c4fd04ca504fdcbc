"""Samples, edits, and their receipts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import FAST, NAMES, QUICK, ToyVAE, grid_decoder, toy_decoder, truth

import latentctl
from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    Conditional,
    ExampleCritic,
    FlowMatching,
    Gaussian,
    KnowledgeBase,
    LatentFlow,
    condition,
)
from latentctl.controllers import FlowEdit, Transport
from latentctl.critics import Critic, JoinedCritic
from latentctl.critics.expression import parse
from latentctl.errors import InputError
from latentctl.latents import Latents
from latentctl.random import noise

NAN = torch.nan
KINDS = ("ascent", "langevin", "transport", "actor", "flow matching")


def build(kind, critic, learned):
    if kind in ("actor", "flow matching"):
        return learned[Actor if kind == "actor" else FlowMatching]
    options = {"ascent": {}, "langevin": {"noise": 0.2}, "transport": {"steps": 10}}
    return (Transport if kind == "transport" else Ascent)(critic, **options[kind])


@pytest.fixture
def photos(decoder, held_out):
    return decoder.decode(held_out.mean[:40])


@pytest.fixture
def faces(decoder, critic):
    return condition(decoder, critic)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_requested_attributes(kind, decoder, critic, learned):
    faces = condition(decoder, critic, build(kind, critic, learned), threshold=0.8)
    out = faces.sample(60, Smiling=True, Hat=False)
    labels = truth(decoder.encode(out.x).mean)
    target = torch.tensor([1.0, NAN, 0.0])
    right = ((labels == target) | target.isnan()).all(1)
    enough = 0.4 if kind == "flow matching" else 0.75  # its edges between classes are blurred
    assert right.float().mean() > enough and out.satisfied.float().mean() > 0.1
    assert right[out.satisfied].float().mean() > 0.75
    assert 0.05 < labels[:, 1].mean() < 0.95, "Male was free"
    before = truth(out.start)
    assert ((before == target) | target.isnan()).all(1).float().mean() < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_receipt_has_the_scores_of_the_critic(kind, decoder, critic, learned, photos):
    faces = condition(decoder, critic, editor=build(kind, critic, learned), threshold=0.9)
    out = faces.edit(photos, Smiling=True)
    assert out.names == NAMES and len(out) == 40
    p, before = critic.probability(out.z), critic.probability(out.start)
    torch.testing.assert_close(out.probability, p)
    assert torch.equal(out.satisfied, p[:, 0] >= 0.9 - 1e-7)
    torch.testing.assert_close(out.leakage[:, 1:], (p - before)[:, 1:].abs())
    rms = ((out.z - out.start) ** 2).mean(1).sqrt()
    torch.testing.assert_close(out.shift, rms)
    torch.testing.assert_close(out.x, decoder.decode(out.z))
    assert torch.equal(out.evaluations == 0, before[:, 0] >= 0.9)
    assert str(out).startswith(f"Outcome(40 samples, {int(out.satisfied.sum())} satisfied")


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_satisfies_the_request_is_reconstructed_bit_for_bit(
    kind, decoder, critic, learned, photos
):
    editor = build(kind, critic, learned)
    out = condition(decoder, critic, editor=editor).edit(photos, Smiling=True)
    rebuilt = decoder.decode(decoder.encode(photos).mean)
    held = critic.probability(out.start)[:, 0] >= 0.95
    assert 0 < held.sum() < 40
    assert torch.equal(out.x[held], rebuilt[held]) and torch.equal(out.z[held], out.start[held])
    assert out.satisfied[held].all() and (out.evaluations[held] == 0).all()
    assert (out.x[~held] != rebuilt[~held]).flatten(1).any(1).all()
    assert (out.evaluations[~held] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_the_reconstruction_and_more_moves_further(
    kind, decoder, critic, learned, photos
):
    faces = condition(decoder, critic, editor=build(kind, critic, learned))
    rebuilt = decoder.decode(decoder.encode(photos).mean)
    still = faces.edit(photos, Smiling=True, strength=0)
    assert torch.equal(still.x, rebuilt) and (still.shift == 0).all()
    assert (still.evaluations == 0).all() and not still.satisfied.all()
    outs = [faces.edit(photos, Smiling=True, strength=s) for s in (0.25, 0.5, 0.75, 1.0)]
    for near, far in zip([still, *outs], outs, strict=False):
        moved = far.evaluations > 0
        assert moved.any() and (far.shift[moved] > near.shift[moved]).all()
        distance = [(out.x - rebuilt).flatten(1).norm(dim=1).mean() for out in (near, far)]
        assert distance[1] > distance[0]


@pytest.mark.parametrize("kind", KINDS)
def test_edits_are_by_the_editor_whatever_moves_the_samples(kind, decoder, critic, learned, photos):
    controller = build(kind, critic, learned)
    faces, plain = condition(decoder, critic, controller), condition(decoder, critic)
    assert faces.controller is controller and faces.editor is not controller
    edits = [f.edit(photos, Smiling=True).z for f in (faces, plain)]
    assert torch.equal(*edits) and faces.editor.config == Ascent.for_edits(critic).config
    samples = [f.sample(4, Smiling=True).z for f in (faces, plain)]
    assert kind == "ascent" or not torch.equal(*samples)


def test_attributes_that_are_not_named_are_held(faces, photos):
    out = faces.edit(photos, Smiling=[True] * 20 + [None] * 20)
    assert out.leakage.isnan().tolist() == [[True, False, False]] * 20 + [[False] * 3] * 20
    assert faces.edit(photos, Smiling=True, hold=False).leakage.isnan().all()
    assert faces.sample(4, Smiling=True).leakage.isnan().all()
    for hold in (["Male"], "Male"):
        free = faces.edit(photos, Smiling=True, hold=hold).leakage.isnan()
        assert free.tolist() == [[True, False, True]] * 40
    where = faces.critic["Smiling"] | faces.critic["Hat"]
    free = faces.edit(photos, where=where).leakage.isnan()
    assert free.tolist() == [[True, False, True]] * 40


def test_holding_reduces_leakage(faces, critic, photos):
    flip = (faces.score(photos)[:, 0] < 0.5).tolist()
    held, free = (faces.edit(photos, Smiling=flip, hold=hold) for hold in (True, False))
    assert held.satisfied.float().mean() > 0.8
    leak = (critic.probability(free.z) - critic.probability(free.start)).abs()[:, 2].mean()
    assert held.leakage[:, 2].mean() < 0.7 * leak


def test_a_held_attribute_of_probability_one_is_no_target(decoder, critic, photos):
    requests = []

    class Spy(Ascent):
        def move(self, z, request):
            requests.append(request)
            return super().move(z, request)

    certain = AttributeCritic((8,), NAMES, width=8)
    torch.nn.init.zeros_(certain.net.head.weight)
    certain.net.head.bias.data = torch.tensor([-1.0, 50.0, -120.0])  # probabilities of exactly 1, 0
    condition(decoder, certain, editor=Spy(certain, steps=2)).edit(photos, Smiling=True)
    (request,) = requests
    assert (request.target[:, 0] == 1).all() and request.target[:, 1:].isnan().all()
    assert request.hold.tolist() == [[False, True, True]] * 40
    assert torch.equal(request.values[:, 1:], torch.tensor([[1.0, 0.0]]).expand(40, -1))


def test_a_target_may_be_a_probability(faces, photos):
    out = faces.edit(photos, Smiling=0.7)
    assert out.satisfied.float().mean() > 0.9
    near = (out.probability[:, 0] - 0.7).abs() <= 0.05 + 1e-6
    assert torch.equal(near, out.satisfied) and (out.evaluations > 0).any()


def test_targets_by_name_by_tensor_and_by_row_are_the_same(faces):
    by_name = faces.sample(3, Smiling=True, Male=[False, None, True], Hat=None)
    y = torch.tensor([[1.0, 0.0, NAN], [1.0, NAN, NAN], [1.0, 1.0, NAN]])
    by_tensor = faces.sample(3, y=y)
    assert torch.equal(by_name.z, by_tensor.z)
    column = faces.sample(3, Smiling=torch.ones(3), Male=torch.tensor([0.0, NAN, 1.0]))
    assert torch.equal(by_name.z, column.z)
    one, each = faces.sample(3, y=y[:1]), faces.sample(3, y=y[:1].expand(3, -1))
    assert torch.equal(one.z, each.z) and not torch.equal(one.z, by_tensor.z)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_depend_on_its_batch(kind, decoder, critic, learned):
    faces = condition(decoder, critic, build(kind, critic, learned))
    whole = faces.sample(20, Smiling=True, seed=4)
    parts = [faces.sample(n, Smiling=True, seed=4, start=s) for s, n in ((0, 3), (3, 10), (13, 7))]
    assert torch.equal(torch.cat([p.start for p in parts]), whole.start)
    torch.testing.assert_close(torch.cat([p.z for p in parts]), whole.z, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat([p.x for p in parts]), whole.x, rtol=0, atol=1e-4)
    assert torch.equal(faces.sample(20, Smiling=True, seed=4).x, whole.x), "bit for bit"
    assert not torch.allclose(faces.sample(20, Smiling=True, seed=5).start, whole.start)


def test_more_samples_than_one_batch_and_none_at_all(faces, photos):
    out = faces.sample(150, Smiling=True)
    assert out.x.shape == (150, 3, 4, 4)
    assert faces.sample(0, Smiling=True).x.shape == (0, 3, 4, 4)
    assert len(faces.edit(photos[:0], Smiling=True)) == 0


def test_where_takes_any_expression(faces, photos, critic):
    where = (critic["Smiling"] & critic["Hat"]) | ~critic["Male"]
    out = faces.edit(photos, where=where)
    p = critic.probability(out.z)
    by_hand = 1 - (1 - p[:, 0] * p[:, 2]) * p[:, 1]
    assert torch.equal(out.satisfied, where.probability(out.z)[:, 0] >= 0.95)
    torch.testing.assert_close(where.probability(out.z)[:, 0], by_hand, rtol=1e-4, atol=1e-4)
    assert out.satisfied.float().mean() > 0.9 and (out.shift > 0).any()
    named = faces.sample(30, Smiling=True, where=~critic["Male"])
    assert (named.probability[named.satisfied][:, :2] - torch.tensor([1.0, 0.0])).abs().max() < 0.06


def test_one_critic_without_names(decoder, realism):
    faces = condition(decoder, realism, Ascent(steps=200), threshold=0.7)
    out = faces.sample(20)
    assert out.probability.shape == (20, 0) and out.satisfied.float().mean() > 0.9
    assert (out.z[:, 3] - 1.5).abs().mean() < (out.start[:, 3] - 1.5).abs().mean()
    with pytest.raises(InputError, match="no named attributes"):
        faces.sample(2, Smiling=True)


def test_a_network_without_attributes_and_a_realism_critic(decoder, latents, realism):
    flow = FlowMatching((8,), width=8, depth=1)
    assert (condition(decoder, realism, flow).sample(10).evaluations > 0).any()
    actor = Actor.fit(latents.select([]), max_train_steps=20, width=16, depth=1, **FAST)
    faces = condition(decoder, actor.realism, actor)
    out = faces.sample(10)
    assert torch.equal(out.satisfied, actor.realism.probability(out.z)[:, 0] >= 0.95)
    assert torch.equal(out.evaluations > 0, actor.realism.probability(out.start)[:, 0] < 0.95)
    with pytest.raises(InputError, match=r"controllers\.Ascent"):
        faces.sample(10, where=~actor.realism)


def test_another_prior_gives_the_starts(decoder, critic, latents):
    prior = Gaussian.fit(latents)
    out = condition(decoder, critic, prior=prior).sample(50, seed=2)
    assert torch.equal(out.start, prior.sample(50, seed=2))
    assert (out.start[:, 3].mean() - 1.5).abs() < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_is_not_changed(kind, model, decoder, critic, learned, photos, tmp_path):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fingerprint, keys = decoder.fingerprint(), set(decoder.state_dict())
    z = noise(0, 5, (8,), seed=0)
    expected = decoder.decode(z)
    faces = condition(decoder, critic, build(kind, critic, learned))
    faces.sample(5, Smiling=True)
    faces.edit(photos, Male=False)
    faces.score(photos)
    faces.save_pretrained(tmp_path / "pack")
    del faces
    assert decoder.fingerprint() == fingerprint == toy_decoder(ToyVAE()).fingerprint()
    assert set(decoder.state_dict()) == keys and torch.equal(decoder.decode(z), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m.training for m in decoder.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in decoder.modules())


def test_score_is_the_probability_of_the_encodings(faces, decoder, critic, held_out):
    photos = decoder.decode(held_out.mean[:100])
    torch.testing.assert_close(faces.score(photos), critic.probability(decoder.encode(photos).mean))
    assert ((faces.score(photos) > 0.5).float() == held_out.labels[:100]).float().mean() > 0.9


def test_grids_through_samples_and_edits(spatial_latents):
    decoder = grid_decoder()
    critic = AttributeCritic.fit(
        spatial_latents, width=8, depth=1, max_train_steps=60, batch_size=32, learning_rate=2e-2
    )
    ascent = Ascent(critic, steps=150)
    faces = condition(decoder, critic, ascent, editor=ascent, threshold=0.9)
    out = faces.sample(8, Bright=True)
    assert out.x.shape == (8, 1, 16, 16) and out.satisfied.float().mean() > 0.8
    brighter = out.z[:, 0].mean((1, 2)) > out.start[:, 0].mean((1, 2))
    assert brighter[out.evaluations > 0].float().mean() > 0.8
    free, held = (faces.edit(out.x, Bright=False, hold=hold) for hold in (False, True))
    assert free.satisfied.float().mean() > 0.8 and free.shift.shape == (8,)
    leak = (free.probability - critic.probability(free.start)).abs()[:, 1]
    assert held.leakage[:, 1].mean() < 0.7 * leak.mean()


def test_a_users_critic_works_with_condition(decoder):
    class Third(Critic):
        def forward(self, z):
            return 4 * (z[:, 2:3] - 1)

    out = condition(decoder, Third(), Ascent(steps=200)).sample(10)
    assert out.satisfied.all() and (out.z[:, 2] > 1.5).all() and (out.start[:, 2] < 1.5).any()


def test_the_public_names_exist_and_an_import_is_light():
    assert len([name for name in latentctl.__all__ if name != "__version__"]) <= 29
    assert all(hasattr(latentctl, name) for name in latentctl.__all__)
    code = """
import sys, torch, einops
before = set(sys.modules)
import latentctl
new = {m.split(".")[0] for m in set(sys.modules) - before}
light = sys.stdlib_module_names | {"latentctl", "safetensors", "zuko"}
print(sorted(m for m in new if m not in light and not m.startswith("_")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_sample_of_the_prior_is_moved_even_if_it_satisfies_the_request(decoder, critic, actor):
    faces = latentctl.condition(decoder, critic, actor, threshold=0.6)
    out = faces.sample(60, Smiling=True)
    satisfied = critic.probability(out.start)[:, 0] >= 0.6
    assert satisfied.any() and not satisfied.all()
    assert bool((out.z != out.start).flatten(1).any(1).all()) and out.evaluations.min() == 1


class Counted(AttributeCritic):
    """Counts how often each latent is scored without gradients."""

    calls = 0

    def forward(self, z):
        self.calls += len(z) * (not torch.is_grad_enabled())
        return super().forward(z)


@pytest.mark.parametrize("request_of", [{"Smiling": True}, {"where": "Smiling | ~Male"}])
def test_a_latent_is_scored_once_before_a_move_and_once_after(
    request_of, decoder, critic, photos, latents
):
    counted = Counted(**critic.config)
    counted.load_state_dict(critic.state_dict())
    if "where" in request_of:
        request_of = {"where": parse(request_of["where"], counted)}
    for hold in (True, False):
        faces = condition(decoder, counted)
        counted.calls = 0
        out = faces.edit(photos, hold=hold, **request_of)
        assert counted.calls == 2 * len(photos) and (out.evaluations > 0).any()
        counted.calls = 0
        faces.sample(7, **request_of)
        assert counted.calls == 2 * 7


def test_an_attribute_is_not_added_to_an_editor_that_knows_its_own_alone(decoder, critic, learned):
    editor = FlowEdit(critic, learned[FlowMatching])
    faces = condition(decoder, critic, editor=editor)
    new = Latents(noise(0, 20, (8,), seed=0), labels=torch.ones(20, 1), names=["New"])
    with pytest.raises(InputError, match="The FlowEdit was made for Smiling, Male, Hat"):
        faces.add("New", new)
    assert faces.names == NAMES and editor.attributes is critic


def test_an_attribute_is_added_without_a_change_of_older_outputs(
    decoder, latents, photos, tmp_path
):
    older, both = latents.select(["Smiling", "Male"]), latents.select(["Hat"])
    faces = condition(decoder, AttributeCritic.fit(older, max_train_steps=200, **QUICK))
    z = noise(0, 9, (8,), seed=1)
    before = faces.critic(z), faces.edit(photos, Smiling=True, hold=["Male"]).x
    new = faces.add("Hat", both, max_train_steps=200, **QUICK)
    assert faces.names == NAMES and torch.equal(faces.critic(z)[:, :2], before[0])
    assert torch.equal(new(z), faces.critic(z)[:, 2:])
    same = faces.edit(photos, Smiling=True, hold=["Male"]).x
    torch.testing.assert_close(same, before[1], rtol=0, atol=1e-5)
    out = faces.edit(photos, Hat=True)
    assert (out.probability[:, 2] > 0.5).float().mean() > 0.7 and not out.leakage[
        :, :2
    ].isnan().any()
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert again.names == NAMES and torch.equal(again.edit(photos, Hat=True).x, out.x)
    with pytest.raises(InputError, match="Hat"):
        again.add("Hat", both)


def test_a_knowledge_base_grows_in_a_conditional_and_is_packed(decoder, latents, photos, tmp_path):
    quick = {"max_train_steps": 20, "critic_steps": 60, "width": 16, "critic_width": 16}
    faces = condition(decoder, KnowledgeBase(decoder.prior, decoder.latent_shape))
    for name in ("Smiling", "Male"):
        faces.add(name, latents, **quick)
    out = faces.edit(photos, Smiling=True)
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert isinstance(again.critic, KnowledgeBase) and again.names == ("Smiling", "Male")
    assert torch.equal(again.edit(photos, Smiling=True).x, out.x)
    again.add("Hat", latents, **quick)
    same = again.edit(photos, Smiling=True, hold=["Male"]).x
    torch.testing.assert_close(same, out.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["expression", "examples", "joined"])
def test_a_pack_holds_any_critic(kind, decoder, critic, latents, photos, tmp_path):
    z = latents.mean
    examples = ExampleCritic.fit("Tall", z[z[:, 4] > 0], z[z[:, 4] <= 0])
    made = {
        "expression": (critic["Smiling"] & ~critic["Male"]) * 0.5 | critic.match(torch.ones(1, 3)),
        "examples": examples,
        "joined": JoinedCritic(critic, examples),
    }[kind]
    request = {"Tall": True} if made.names else {}
    faces = condition(decoder, made, prior=LatentFlow.fit(latents, max_train_steps=2, width=8))
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert torch.equal(again.critic(z), made(z)) and again.names == made.names
    assert torch.equal(again.sample(5, **request).x, faces.sample(5, **request).x)


def test_one_list_of_held_attributes_serves_every_edit(decoder, critic, photos):
    faces = condition(decoder, critic)
    for name in NAMES:
        listed = faces.edit(photos, hold=NAMES, **{name: True})
        assert torch.equal(listed.z, faces.edit(photos, **{name: True}).z)
        assert listed.leakage.isnan().all(0).tolist() == [other == name for other in NAMES]
    where = critic["Hat"] & critic["Male"]
    listed = faces.edit(photos, where=where, hold=["Hat", "Smiling"])
    assert listed.leakage.isnan().all(0).tolist() == [False, True, True]
    some = [True, *[None] * (len(photos) - 1)]  # requested of the first alone, held in the others
    held = faces.edit(photos, Male=some, hold="Male").leakage[:, 1].isnan()
    assert held.tolist() == [value is not None for value in some]

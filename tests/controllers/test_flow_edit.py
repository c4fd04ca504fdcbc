"""Edits along a conditional flow."""

from __future__ import annotations

import pytest
import torch

from latentctl import Ascent, AttributeCritic, FlowMatching, Latents
from latentctl.controllers import FlowEdit, Request
from latentctl.controllers.request import target_context
from latentctl.errors import InputError

NAMES = ("Right", "Up")


@pytest.fixture(scope="module")
def latents() -> Latents:
    """Four clusters by two attributes, in the first two of four dimensions."""
    source = torch.Generator().manual_seed(0)
    labels = (torch.rand(512, 2, generator=source) < 0.5).float()
    z = 0.2 * torch.randn(512, 4, generator=source)
    z[:, :2] += 2 * labels - 1
    z[:, 2:] *= 5
    return Latents(z, None, labels, NAMES)


@pytest.fixture(scope="module")
def editor(latents: Latents) -> FlowEdit:
    few = {"width": 32, "learning_rate": 5e-3, "progress": False}
    critic = AttributeCritic.fit(latents, max_train_steps=100, **few)
    flow = FlowMatching.fit(latents, max_train_steps=250, depth=2, **few)
    return FlowEdit(critic, flow)


def flipped(latents: Latents, name: str) -> Request:
    labels, column = latents.labels[:64], NAMES.index(name)
    target = torch.full_like(labels, torch.nan)
    target[:, column] = 1 - labels[:, column]
    return Request(target=target, hold=target.isnan())


def test_an_edit_flips_what_is_asked_and_keeps_the_rest(editor: FlowEdit, latents: Latents) -> None:
    z, labels = latents.mean[:64], latents.labels[:64]
    move = editor.move(z, flipped(latents, "Right"))
    after = (move.z[:, :2] > 0).float()
    assert (after[:, 0] == 1 - labels[:, 0]).float().mean() > 0.9
    assert (after[:, 1] == labels[:, 1]).float().mean() > 0.9
    # what the flow does not know of
    both = torch.stack([z[:, 2:].flatten(), move.z[:, 2:].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8
    # 5 steps of the flow: 5 rounds back and 2 forward, of 2 evaluations each; and the ascent
    assert (move.evaluations == 1 + 5 * (2 * 5 + 2 * 2) + 20).all()


def test_the_flow_alone_changes_the_attribute_and_nothing_else(
    editor: FlowEdit, latents: Latents
) -> None:
    z, labels = latents.mean[:64], latents.labels[:64]
    other = labels.clone()
    other[:, 1] = 1 - other[:, 1]
    before, after = (target_context(z, y, NAMES) for y in (labels, other))
    moved = editor.flow.net.carried(z, before, after, first=2, guidance=1.5)
    found = (moved[:, :2] > 0).float()
    assert (found == other).all(1).float().mean() > 0.9
    assert (moved[:, 2:] - z[:, 2:]).abs().mean() < 0.5, "their std is 1"


def test_equal_contexts_lead_back(editor: FlowEdit, latents: Latents) -> None:
    z = latents.mean[:16]
    context = target_context(z, latents.labels[:16], NAMES)
    again = editor.flow.net.carried(z, context, context, first=2, guidance=1.5)
    assert torch.allclose(again, z, atol=0.02)
    alone = editor.flow.net.carried(z[:1], context[:1], context[:1], first=2, guidance=1.5)
    assert torch.allclose(alone, again[:1], atol=1e-5)


def test_other_requests_are_those_of_the_ascent(editor: FlowEdit, latents: Latents) -> None:
    z, ascent = latents.mean[:8], Ascent.for_edits(editor.attributes)
    graded = Request(target=torch.tensor([[0.7, torch.nan]]))
    where = Request(where=editor.attributes["Right"] & editor.attributes["Up"])
    for request in (graded, where):
        assert torch.equal(editor.move(z, request).z, ascent.move(z, request).z)
    mixed = Request(target=torch.tensor([[0.7, torch.nan], [1.0, torch.nan]]).repeat(4, 1))
    assert torch.allclose(editor.move(z, mixed).z[::2], ascent.move(z, graded).z[::2], atol=1e-6)


def test_it_is_saved_with_its_flow(editor: FlowEdit, latents: Latents, tmp_path) -> None:
    loaded = FlowEdit.load(editor.save(tmp_path / "editor"))
    request, z = flipped(latents, "Up"), latents.mean[:64]
    assert torch.equal(loaded.move(z, request).z, editor.move(z, request).z)


def test_flow_and_critic_have_the_same_attributes(editor: FlowEdit) -> None:
    other = AttributeCritic((4,), ["Right"], width=16)
    with pytest.raises(InputError, match="same labels"):
        FlowEdit(other, editor.flow)
    with pytest.raises(InputError, match="start"):
        FlowEdit(editor.attributes, editor.flow, start=1)

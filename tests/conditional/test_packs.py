"""Packs: the trained parts without the decoder, verified when they are loaded."""

from __future__ import annotations

import copy
import errno
import os
import pickle

import pytest
import torch
from conftest import ToyVAE, toy_decoder

import latentctl.storage.folder
from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    Conditional,
    FlowMatching,
    Gaussian,
    LatentFlow,
    condition,
    with_inversion,
    wrap,
)
from latentctl.controllers import Controller, Transport, Updater
from latentctl.critics import PixelCritic
from latentctl.decoder import Decoder, Posterior
from latentctl.errors import AdapterError, CheckpointError, FingerprintError, InputError, ShapeError
from latentctl.priors.whitening import Whitening
from latentctl.storage.folder import load_folder, save_folder

KIB64 = 64 * 1024
WITHOUT_REALISM = ("flow-matching", "updater")


def build(kind, critic, realism, learned):
    return {
        "ascent": lambda: Ascent(critic, realism, steps=20, noise=0.1, distance_weight=0.01),
        "transport": lambda: Transport(critic, realism, steps=6, realism_weight=0.3),
        "actor": lambda: learned[Actor],
        "flow-matching": lambda: learned[FlowMatching],
        "updater": lambda: learned[Updater],
    }[kind]()


@pytest.fixture
def faces(decoder, critic):
    return condition(decoder, critic)


@pytest.fixture
def pack(faces, tmp_path):
    return faces.save_pretrained(tmp_path / "pack")


@pytest.mark.parametrize("kind", ["ascent", "transport", "actor", "flow-matching", "updater"])
def test_a_round_trip_gives_bit_equal_outcomes(kind, decoder, critic, realism, learned, tmp_path):
    controller = build(kind, critic, realism, learned)
    faces = condition(decoder, critic, controller, editor=controller, threshold=0.9)
    path = faces.save_pretrained(tmp_path / "pack")
    again = Conditional.from_pretrained(path, toy_decoder(ToyVAE()))
    assert again.threshold == 0.9 and again.names == faces.names
    assert again.controller.config == controller.config
    photos = decoder.decode(faces.prior.sample(10, seed=5))
    for one, other in (
        (faces.sample(12, Smiling=True, seed=3), again.sample(12, Smiling=True, seed=3)),
        (faces.edit(photos, Male=False), again.edit(photos, Male=False)),
    ):
        for field in ("x", "z", "start", "satisfied", "probability", "shift", "evaluations"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field
        assert torch.equal(one.leakage.nan_to_num(-1), other.leakage.nan_to_num(-1))
    assert (faces.realism is None) == (again.realism is None) == (kind in WITHOUT_REALISM)
    pairs = [(faces.realism, again.realism), (critic, again.critic)]
    for one, other in pairs[faces.realism is None :]:
        saved, loaded = one.state_dict(), other.state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_a_pack_holds_the_prior(decoder, critic, latents, tmp_path):
    faces = condition(decoder, critic, prior=Gaussian.fit(latents))
    path = faces.save_pretrained(tmp_path / "pack")
    again = Conditional.from_pretrained(path, decoder)
    assert torch.equal(again.sample(5, seed=1).start, faces.sample(5, seed=1).start)
    own = condition(decoder, critic)
    assert not torch.equal(own.sample(5, seed=1).start, faces.sample(5, seed=1).start)


def test_a_pack_carries_the_flows_that_its_decoder_was_composed_with(critic, latents, tmp_path):
    bare = toy_decoder(ToyVAE())
    flows = [LatentFlow((8,), kind, width=8, blocks=1) for kind in ("coupling", "spline")]
    decoder = bare
    for flow in flows:
        flow.map.white = Whitening.fit(latents)
        decoder = decoder.through(flow)
        faces = condition(decoder, critic)
        path = faces.save_pretrained(tmp_path / "pack")
        photos = decoder.decode(faces.prior.sample(4, seed=5))
        for other in (bare, decoder, toy_decoder(ToyVAE())):
            again = Conditional.from_pretrained(path, other)
            assert again.decoder.fingerprint() == decoder.fingerprint()
            assert torch.equal(again.sample(6, Male=True).x, faces.sample(6, Male=True).x)
            assert torch.equal(again.edit(photos, Hat=True).x, faces.edit(photos, Hat=True).x)
        with pytest.raises(FingerprintError, match="through a coupling flow"):
            Conditional.from_pretrained(path, toy_decoder(ToyVAE(seed=1)))
    with pytest.raises(FingerprintError):  # made for two flows, not for one
        Conditional.from_pretrained(path, bare.through(flows[0]))


def test_a_bare_model_is_wrapped_as_it_was(critic, tmp_path):
    wrapped = wrap(ToyVAE(), latent_shape=(8,), value_range=(-1, 2))
    faces = condition(wrapped, critic)
    path = faces.save_pretrained(tmp_path / "pack")
    again = Conditional.from_pretrained(path, ToyVAE().train())
    assert again.decoder.value_range == (-1, 2)
    assert torch.equal(again.sample(5, Male=True).x, faces.sample(5, Male=True).x)
    with pytest.raises(AdapterError, match="No adapter accepts a str"):
        Conditional.from_pretrained(path, "my-model")


def test_a_conditional_is_copied_and_pickled(decoder, critic, realism, latents):
    wrapped = wrap(ToyVAE(), latent_shape=(8,))
    pixels = PixelCritic(wrapped, Brightness(), names=critic.names)
    for base in (wrapped, with_inversion(wrapped, steps=2), wrapped.through(LatentFlow((8,)))):
        parts = {"evaluator": pixels, "prior": Gaussian.fit(latents), "realism": realism}
        mover = Ascent(critic, realism, steps=4)
        faces = condition(base, critic, mover, editor=mover, **parts)
        photos = base.decode(latents[:3].mean)
        for other in (copy.deepcopy(faces), pickle.loads(pickle.dumps(faces))):
            assert other.decoder is not base and other.decoder.fingerprint() == base.fingerprint()
            assert torch.equal(other.sample(4, Hat=True).x, faces.sample(4, Hat=True).x)
            assert torch.equal(other.edit(photos, Hat=True).x, faces.edit(photos, Hat=True).x)


class Brightness(torch.nn.Module):
    def forward(self, x):
        return 8 * (x.flatten(1)[:, :3] - 0.5)


class BigVAE(ToyVAE):
    """The toy with another megabyte of weights."""

    def __init__(self):
        super().__init__()
        self.ballast = torch.nn.Parameter(torch.ones(2**18))


@pytest.mark.parametrize("kind", ["ascent", "actor"])
def test_the_decoders_weights_are_not_in_it(kind, critic, realism, learned, tmp_path):
    decoder = toy_decoder(BigVAE())
    faces = condition(decoder, critic, build(kind, critic, realism, learned))
    path = faces.save_pretrained(tmp_path / "pack")
    size = sum(file.stat().st_size for file in path.rglob("*"))
    parts = [critic, faces.realism, *([learned[Actor].net] if kind == "actor" else [])]
    learned = sum(t.numel() * 4 for part in parts for t in part.state_dict().values())
    assert learned < size < learned + KIB64 < 2**20
    _, state = load_folder(path)
    assert state["decoder"]["name"] == "toy" and state["base"] == state["decoder"]
    assert state["decoder"]["fingerprint"] == decoder.fingerprint()


def test_another_decoder_is_refused(pack):
    with pytest.raises(FingerprintError, match=r"made for toy with fingerprint .* this decoder"):
        Conditional.from_pretrained(pack, toy_decoder(ToyVAE(seed=1)))
    model = ToyVAE()
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    with pytest.raises(FingerprintError):
        Conditional.from_pretrained(pack, toy_decoder(model))


def test_every_truncated_or_flipped_file_is_refused(pack, decoder):
    files = sorted(file for file in pack.rglob("*") if file.is_file())
    assert len(files) >= 3
    for file in files:
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            for damaged in (bytes(flipped), whole[:place]):
                file.write_bytes(damaged)
                with pytest.raises(CheckpointError, match=file.name):
                    Conditional.from_pretrained(pack, decoder)
        file.write_bytes(whole)
    Conditional.from_pretrained(pack, decoder)


def test_a_missing_pack_or_file_is_named(pack, decoder):
    with pytest.raises(CheckpointError, match=r"nowhere is missing"):
        Conditional.from_pretrained(pack.parent / "nowhere", decoder)
    (pack / "critic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"critic\.safetensors is missing"):
        Conditional.from_pretrained(pack, decoder)


def test_loading_is_strict(pack, decoder, tmp_path):
    tensors, state = load_folder(pack)
    weights = tensors["critic"]
    first = next(iter(weights))
    for change, words in (
        ({k: v for k, v in weights.items() if k != first}, f"missing {first}"),
        (weights | {"other": torch.ones(1)}, "unexpected other"),
        (weights | {first: torch.ones(1)}, rf"{first} has shape \(1,\)"),
    ):
        other = save_folder(tmp_path / "other", tensors | {"critic": change}, state)
        with pytest.raises(CheckpointError, match=words):
            Conditional.from_pretrained(other, decoder)
    with pytest.raises(CheckpointError, match="missing"):
        Conditional.from_pretrained(save_folder(tmp_path / "none", {}, state), decoder)


def test_a_folder_that_is_no_pack_is_refused(decoder, tmp_path):
    path = save_folder(tmp_path / "step-000001", {}, {"step": 1})
    with pytest.raises(CheckpointError, match=r"is not a pack.*resume_from_checkpoint"):
        Conditional.from_pretrained(path, decoder)


def test_an_unknown_kind_is_refused(pack, decoder, tmp_path):
    tensors, state = load_folder(pack)
    state["modules"]["controller"]["kind"] = "teleport"
    with pytest.raises(CheckpointError, match=r"kind 'teleport'.*Upgrade"):
        Conditional.from_pretrained(save_folder(tmp_path / "later", tensors, state), decoder)


def test_a_later_format_is_refused(faces, decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(latentctl.storage.folder, "FORMAT", 99)
    path = faces.save_pretrained(tmp_path / "pack")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"format 99.*upgrade latentctl to >="):
        Conditional.from_pretrained(path, decoder)


def test_no_pickle_is_written_or_read(faces, decoder, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    path = faces.save_pretrained(tmp_path / "pack")
    Conditional.from_pretrained(path, decoder)
    with pytest.raises(AssertionError):
        pickle.dumps(1)


def test_a_full_disk_keeps_the_older_pack(pack, decoder, critic, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*Free some disk space"):
        condition(decoder, critic, threshold=0.5).save_pretrained(pack)
    monkeypatch.undo()
    assert Conditional.from_pretrained(pack, decoder).threshold == 0.95


def test_what_cannot_be_packed_is_refused(decoder, critic, realism, tmp_path):
    class Mine(Ascent):
        pass

    class Owned(Controller):
        def search(self, z, request):
            raise NotImplementedError

    class Elsewhere:
        def sample(self, count, *, seed=0, start=0):
            return torch.zeros(count, 8)

        def log_prob(self, z):
            return torch.zeros(len(z))

    network = PixelCritic(decoder, lambda x: x.flatten(1)[:, :3], names=critic.names)
    for unusual, words in (
        (condition(decoder, critic, Mine(critic)), "The Mine cannot be saved"),
        (condition(decoder, critic, Owned()), "The Owned cannot be saved"),
        (condition(decoder, network), "The PixelCritic cannot be saved"),
        (condition(decoder, critic, prior=Elsewhere()), "The Elsewhere cannot be saved"),
    ):
        with pytest.raises(InputError, match=words):
            unusual.save_pretrained(tmp_path / "pack")
        assert not (tmp_path / "pack").exists()


def test_a_network_that_a_pack_cannot_build_is_refused(decoder, critic, tmp_path):
    updater = Updater((8,), critic.names, context_encoder=torch.nn.Identity(), width=8)
    with pytest.raises(InputError, match="The Identity cannot be saved"):
        condition(decoder, critic, updater).save_pretrained(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_parts_that_do_not_fit_together_are_refused(decoder, critic, realism):
    with pytest.raises(ShapeError, match=r"AttributeCritic is over latents \(5,\).*toy has \(8,\)"):
        condition(decoder, AttributeCritic((5,), ["Smiling"], width=8))
    with pytest.raises(ShapeError, match=r"Actor is over latents \(5,\)"):
        condition(decoder, critic, Actor((5,), critic.names, width=8))
    for kind in (Actor, FlowMatching, Updater):
        swapped = kind((8,), critic.names[::-1], width=8)
        with pytest.raises(
            InputError, match=rf"{kind.__name__} has the attributes Hat, Male.*same order"
        ):
            condition(decoder, critic, swapped)
    with pytest.raises(InputError, match="Ascent does not use this realism critic"):
        condition(decoder, critic, Ascent(critic), realism=realism)
    assert condition(decoder, critic, realism=realism).controller.realism is realism


def test_a_decoder_without_encoder_still_samples_from_a_pack(pack):
    without_encoder = Decoder(
        ToyVAE(), lambda m, z: m.decode(z), latent_shape=(8,), sample_shape=(3, 4, 4), name="toy"
    )
    assert len(Conditional.from_pretrained(pack, without_encoder).sample(2, Smiling=True)) == 2
    assert isinstance(toy_decoder(ToyVAE()).encode(torch.rand(1, 3, 4, 4)), Posterior)


def test_a_controller_may_ascend_another_critic_than_the_one_that_scores(decoder, critic, tmp_path):
    other = AttributeCritic((8,), critic.names, width=8)
    faces = condition(decoder, critic, Ascent(other), editor=Ascent.for_edits(other))
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert torch.equal(again.sample(3, Smiling=True).x, faces.sample(3, Smiling=True).x)
    assert again.controller.attributes is again.editor.attributes is not again.critic

"""The reference autoencoders: shapes, likelihood, learning, and what they save."""

from __future__ import annotations

import errno
import json
import math
import os

import pytest
import torch
from latentctl_adapters.conv_vae import ConvAE, ConvVAE
from torch.distributions import Normal, kl_divergence

from latentctl.decoder.registry import load, wrap
from latentctl.errors import CheckpointError, InputError
from latentctl.evaluation.laws import check_decoder
from latentctl.random import generator
from latentctl.storage import load_folder, save_folder
from latentctl.storage.files import sealed

SMALL = {"resolution": 16, "latent_size": 8, "width": 4}


def small(cls=ConvVAE, **options):
    torch.manual_seed(0)
    return cls(**{**SMALL, **options})


def images(count=8, channels=3, side=16):
    """Smooth images that differ in two factors."""
    a, b = torch.rand(2, count, 1, 1, 1, generator=generator(0, purpose="images"))
    ramp = torch.linspace(0, 1, side)
    return (a * ramp + b * (1 - ramp)[:, None]).expand(count, channels, side, side) * 0.5 + 0.2


@pytest.mark.parametrize("cls", [ConvVAE, ConvAE])
@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 1), (30, 3), (33, 2), (64, 3)])
def test_every_size_comes_back(cls, side, channels):
    model = small(cls, resolution=side, channels=channels)
    x = images(2, channels, side)
    assert model(x).shape == x.shape
    decoder = wrap(model)
    assert decoder.sample_shape == (channels, side, side) and decoder.latent_shape == (8,)
    assert decoder.value_range == (0.0, 1.0)
    assert (decoder.encode(x).std is None) == (cls is ConvAE)


def test_the_laws_of_decoders_hold():
    check_decoder(wrap(small()))
    check_decoder(wrap(small(ConvAE)))


def test_sizes_that_cannot_be_are_refused():
    for wrong in ({"resolution": 8}, {"width": 0}, {"sigma_x": 0.0}, {"sigma_x": math.nan}):
        with pytest.raises(InputError, match="Need resolution"):
            small(**wrong)


def test_the_paper_size_has_the_weights_that_were_counted():
    with torch.device("meta"):
        model = ConvVAE.paper()
    count = sum(p.numel() for p in model.parameters())
    assert model.config["latent_size"] == 1024
    assert count == pytest.approx(154.5e6, rel=1e-3)


def test_the_loss_is_the_bound_in_nats():
    model, x = small(sigma_x=0.3), images()
    eps = torch.randn(8, 8, generator=generator(0))
    loss, parts = model.loss(x, eps, beta=0.5)
    q = model.encode(x)
    likelihood = Normal(model.decode(q.mean + q.stddev * eps), 0.3).log_prob(x).sum((1, 2, 3))
    kl = kl_divergence(q, Normal(torch.zeros(8), 1.0)).sum(1)
    torch.testing.assert_close(loss, (-likelihood + 0.5 * kl).mean())
    torch.testing.assert_close(parts["kl"], kl.mean().detach())
    assert not any(part.requires_grad for part in parts.values())
    plain = small(ConvAE, sigma_x=0.3)
    expected = -Normal(plain(x), 0.3).log_prob(x).sum((1, 2, 3)).mean()
    torch.testing.assert_close(plain.loss(x)[0], expected)
    with pytest.raises(InputError, match="eps"):
        model.loss(x)


def test_the_std_stays_positive_where_softplus_underflows():
    model = small()
    with torch.no_grad():
        model.encoder[-1].bias[8:] = -200.0
    loss, _ = model.loss(images(), torch.zeros(8, 8))
    assert bool((model.encode(images()).stddev > 0).all()) and bool(torch.isfinite(loss))


@pytest.mark.parametrize("cls", [ConvVAE, ConvAE])
def test_it_learns(cls):
    model, x = small(cls), images(32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    before = (model(x) - x).square().mean().item()
    for step in range(120):
        loss, _ = model.loss(x, torch.randn(32, 8, generator=generator(0, step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = (model(x) - x).square().mean().item()
    assert after < 0.2 * before
    assert after < 0.5 * x.var(0).mean().item(), "better than the mean image"


def test_options_reach_the_decoder():
    from latentctl.decoder import Gaussian

    prior = Gaussian((8,), std=2.0)
    assert wrap(small(), prior=prior).prior is prior
    assert wrap(small(), decode="decode", latent_shape=(8,)).sample_shape == (3, 16, 16)


@pytest.mark.parametrize("cls", [ConvVAE, ConvAE])
def test_what_is_saved_comes_back_bit_for_bit(cls, tmp_path):
    model = small(cls, sigma_x=0.2)
    model.save_pretrained(tmp_path / "vae")
    kind = "conv-vae" if cls is ConvVAE else "conv-ae"
    files = [f"{kind}.safetensors", "manifest.json", "state.json"]
    assert sorted(os.listdir(tmp_path / "vae")) == files
    again = cls.from_pretrained(tmp_path / "vae")
    assert again.config == model.config and again.sigma_x == 0.2 and not again.training
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    decoder = load("conv-vae", pretrained_model_name_or_path=tmp_path / "vae")
    assert decoder.fingerprint() == wrap(model).fingerprint()
    assert decoder.name == cls.__name__
    small(cls, width=8).save_pretrained(tmp_path / "vae")
    assert cls.from_pretrained(tmp_path / "vae").config["width"] == 8


def edit(folder, **changes):
    """Changes the saved state, and seals it anew."""
    tensors, state = load_folder(folder)
    (entry,) = state["modules"].values()
    entry.update(changes)
    save_folder(folder, tensors, state)


def configure(folder, **changes):
    (entry,) = load_folder(folder)[1]["modules"].values()
    edit(folder, config={**entry["config"], **changes})


def later(folder):
    path = folder / "manifest.json"
    path.write_bytes(sealed({**json.loads(path.read_text()), "format": 99}))


def rewrite(folder):
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"width": 4', '"width": 8'))


def cut(folder):
    path = folder / "conv-vae.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder):
    path = folder / "conv-vae.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "changes", "words"),
    [
        (cut, {}, "truncated or corrupted"),
        (flip, {}, "truncated or corrupted"),
        (rewrite, {}, "corrupted"),
        (later, {}, "upgrade latentctl"),
        (edit, {"kind": "conv-ae"}, "holds ConvAE, not a ConvVAE|does not fit"),
        (configure, {"width": 8}, "asks for more than the"),
        (configure, {"resolution": 32}, "does not fit"),
        (configure, {"heads": 3}, "malformed"),
        (configure, {"width": -1}, "cannot be built: Need resolution"),
        (configure, {"width": "four"}, "malformed"),
        (lambda f: (f / "manifest.json").write_text("{"), {}, "corrupted"),
        (lambda f: (f / "manifest.json").write_text("[1, 2]"), {}, "corrupted"),
        (lambda f: (f / "manifest.json").unlink(), {}, "manifest.json is missing"),
        (lambda f: (f / "conv-vae.safetensors").unlink(), {}, "conv-vae.safetensors is missing"),
    ],
)
def test_what_is_damaged_is_refused(damage, changes, words, tmp_path):
    small().save_pretrained(tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=words):
        ConvVAE.from_pretrained(tmp_path)


def test_a_full_disk_leaves_the_older_weights(tmp_path, monkeypatch):
    model = small()
    model.save_pretrained(tmp_path)
    fired = []

    def full(descriptor):
        fired.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        small(sigma_x=0.7).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert fired
    assert ConvVAE.from_pretrained(tmp_path).sigma_x == 0.1


def test_a_name_that_is_nowhere_is_refused(monkeypatch):
    import huggingface_hub

    def offline(repo_id, **options):
        raise OSError(f"no network, asked for {repo_id}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        CheckpointError, match="someone/faces is not a local folder, and the hub returned no model"
    ):
        load("conv-vae", pretrained_model_name_or_path="someone/faces")


def test_a_model_of_the_hub_is_downloaded(monkeypatch, tmp_path):
    import huggingface_hub

    snapshot = tmp_path / "models--someone--faces" / "snapshots" / "v1"
    small().save_pretrained(snapshot)
    asked = []

    def download(repo_id, **options):
        asked.append((repo_id, options))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    decoder = load(
        "conv-vae", pretrained_model_name_or_path="someone/faces", revision="v1", cache_dir="c"
    )
    assert decoder.fingerprint() == wrap(small()).fingerprint()
    patterns = [options["allow_patterns"] for _, options in asked]
    assert patterns == [["manifest.json"], ["conv-vae.safetensors", "state.json"]]
    for repo_id, options in asked:
        assert (repo_id, options["revision"], options["cache_dir"]) == ("someone/faces", "v1", "c")

"""Autoencoders of pythae: posteriors of each family, folders, pickles, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from latentctl_adapters import pythae_model
from torch import nn

from latentctl.decoder.registry import load, wrap
from latentctl.errors import AdapterError, CheckpointError
from latentctl.evaluation.laws import check_decoder
from latentctl.random import noise

models = pytest.importorskip("pythae.models")
architectures = pytest.importorskip("pythae.models.nn")
ModelOutput = pytest.importorskip("pythae.models.base.base_utils").ModelOutput

SHAPE = (1, 6, 6)


def build(name, **options):
    torch.manual_seed(0)
    config = name + ("_Config" if "_" in name else "Config")
    return getattr(models, name)(getattr(models, config)(input_dim=SHAPE, latent_dim=4, **options))


def images(count=3):
    return noise(0, count, SHAPE, seed=0, purpose="images", uniform=True)


@pytest.mark.parametrize("name", ["AE", "VAE", "BetaVAE", "WAE_MMD", "Adversarial_AE", "VAMP"])
def test_the_laws_hold_and_the_owner_finds_the_model_as_it_was(name):
    model = build(name).train()
    decoder = wrap(model)
    assert decoder.latent_shape == (4,) and decoder.sample_shape == SHAPE
    assert decoder.value_range == (0.0, 1.0) and decoder.name == name
    check_decoder(decoder)
    assert model.training and all(p.requires_grad for p in model.encoder.parameters())


def test_the_posterior_of_a_vae_is_its_own():
    model = build("VAE")
    out = model.encoder(images())
    posterior = wrap(model).encode(images())
    torch.testing.assert_close(posterior.mean, out.embedding.detach())
    torch.testing.assert_close(posterior.std, torch.exp(0.5 * out.log_covariance).detach())
    z = posterior.mean
    torch.testing.assert_close(wrap(model).decode(z), model.decoder(z).reconstruction.detach())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AE", {}),
        ("WAE_MMD", {}),
        ("HVAE", {}),
        ("Adversarial_AE", {"deterministic_posterior": True}),
    ],
)
def test_a_point_is_given_where_there_is_no_normal_posterior(name, options):
    model = build(name, **options)
    posterior = wrap(model).encode(images())
    assert posterior.std is None
    torch.testing.assert_close(posterior.mean, model.encoder(images()).embedding.detach())


@pytest.mark.parametrize("name", ["VAE_IAF", "VAE_LinNF"])
def test_the_latent_is_the_one_behind_the_flow(name, monkeypatch):
    model = build(name).eval()
    decoder = wrap(model)
    posterior = decoder.encode(images())
    assert posterior.std is None
    # the mean of the encoder takes the place of its sample
    monkeypatch.setattr(model, "_sample_gauss", lambda mu, std: (mu, None))
    with torch.no_grad():
        z = model({"data": images()}).z
    torch.testing.assert_close(posterior.mean, z)
    assert not torch.allclose(z, model.encoder(images()).embedding)
    check_decoder(decoder)


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_vqvae_quantises_as_it_decodes(use_ema):
    model = build("VQVAE", use_ema=use_ema, num_embeddings=16)
    decoder = wrap(model)
    assert decoder.latent_shape == (4,) and not decoder.differentiable
    check_decoder(decoder)
    mean = decoder.encode(images()).mean
    with torch.no_grad():
        expected = model.eval()({"data": images()}).recon_x
    torch.testing.assert_close(decoder.decode(mean), expected)


class Squeeze(architectures.BaseEncoder):
    """A grid of latents."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 2, 2)

    def forward(self, x):
        return ModelOutput(embedding=self.layer(x), log_covariance=torch.zeros(1))


class Stretch(architectures.BaseDecoder):
    """Pixels without bounds."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ConvTranspose2d(3, 1, 2, 2)

    def forward(self, z):
        return ModelOutput(reconstruction=self.layer(z))


def custom(name="AE", **options):
    torch.manual_seed(0)
    config = getattr(models, f"{name}Config")(input_dim=SHAPE, latent_dim=4, **options)
    return getattr(models, name)(config, encoder=Squeeze(), decoder=Stretch())


@pytest.mark.parametrize("name", ["AE", "VQVAE"])
def test_networks_of_ones_own_may_have_grids_of_latents(name):
    decoder = wrap(custom(name))
    assert decoder.latent_shape == (3, 3, 3)
    assert decoder.value_range in (None, (-math.inf, math.inf))
    assert decoder.encode(images()).std is None, "a plain AE does not use the log_covariance"
    check_decoder(decoder)


@torch.no_grad()
def test_half_precision_stays_half_inside():
    model = build("VAE")
    full = wrap(model)
    mean = full.encode(images()).mean
    half = wrap(build("VAE").to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.encode(images()).mean, mean, rtol=0.05, atol=0.02)
    torch.testing.assert_close(half.decode(mean), full.decode(mean), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ["AE", "VAE", "VQVAE"])
def test_what_pythae_saved_is_loaded(name, tmp_path):
    model = build(name)
    model.save(str(tmp_path))
    decoder = load("pythae-model", pretrained_model_name_or_path=tmp_path, value_range=(0.0, 1.0))
    assert decoder.fingerprint() == wrap(model).fingerprint() and decoder.name == name
    z = noise(0, 2, (4,), seed=0, purpose="z")
    assert torch.equal(decoder.decode(z), wrap(model).decode(z))


def test_pickles_are_read_only_if_allowed(tmp_path):
    model = custom()
    model.save(str(tmp_path))
    with pytest.raises(AdapterError, match=r"decoder\.pkl, encoder\.pkl.*allow_pickle=True"):
        load("pythae-model", pretrained_model_name_or_path=tmp_path)
    decoder = load("pythae-model", pretrained_model_name_or_path=tmp_path, allow_pickle=True)
    assert decoder.fingerprint() == wrap(model).fingerprint()


def test_a_folder_that_cannot_be_loaded_is_explained(tmp_path):
    def attempt():
        load("pythae-model", pretrained_model_name_or_path=tmp_path)

    with pytest.raises(CheckpointError, match=r"no model_config\.json"):
        attempt()
    build("VAE").save(str(tmp_path))
    attempt()
    config = tmp_path / "model_config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "latent_dim": 5}))
    with pytest.raises(CheckpointError, match="pythae cannot load"):
        attempt()
    config.write_text(json.dumps(written))
    weights = tmp_path / "model.pt"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="Save or download it"):
        attempt()


def test_latents_that_are_not_flat_are_refused():
    with pytest.raises(AdapterError, match="latents of a SVAE lie on a sphere"):
        wrap(build("SVAE"))


def test_an_encoder_that_does_not_fit_is_named():
    model = custom()
    model.input_dim = (2, 6, 6)
    with pytest.raises(AdapterError, match=r"does not take samples \(2, 6, 6\)"):
        wrap(model)


def test_methods_of_ones_own_still_go_through_the_trial_run():
    model = build("VAE")
    decoder = wrap(model, encode=lambda x: model.encoder(x)["embedding"], decode="decoder")
    assert decoder.encode(images()).std is None and decoder.sample_shape == SHAPE


def test_only_models_of_pythae_are_taken_and_it_is_not_imported_for_others():
    assert pythae_model.accepts(build("AE"))
    assert not pythae_model.accepts(nn.Linear(1, 1))
    code = (
        "import sys, torch, latentctl\n"
        "latentctl.wrap(torch.nn.Linear(2, 3), decode='forward')\n"
        "assert 'latentctl_adapters.pythae_model' in sys.modules\n"
        "assert not {'pythae', 'diffusers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

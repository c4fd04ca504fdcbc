"""Autoencoders of diffusers: scaled latents, shapes as configured, saving, and refusals."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from latentctl_adapters import diffusers_vae

from latentctl.decoder.registry import load, wrap
from latentctl.errors import AdapterError, CheckpointError, LawError, ShapeError
from latentctl.evaluation.laws import check_decoder
from latentctl.priors import LatentFlow
from latentctl.random import noise

diffusers = pytest.importorskip("diffusers")

BLOCKS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}
MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 4.0, 0.5]


def kl(**options):
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(**{**BLOCKS, **options})


def tiny():
    torch.manual_seed(0)
    names = ("encoder_block_out_channels", "decoder_block_out_channels")
    counts = ("num_encoder_blocks", "num_decoder_blocks")
    return diffusers.AutoencoderTiny(
        **dict.fromkeys(names, (8, 8)), **dict.fromkeys(counts, (1, 1))
    )


def vq():
    torch.manual_seed(0)
    model = diffusers.VQModel(**BLOCKS, num_vq_embeddings=32)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


def asymmetric():
    torch.manual_seed(0)
    widths = {"down_block_out_channels": (8, 16), "up_block_out_channels": (8, 16)}
    rest = {key: value for key, value in BLOCKS.items() if key != "block_out_channels"}
    return diffusers.AsymmetricAutoencoderKL(**widths, **rest)


def images(count=2, side=16):
    return noise(0, count, (3, side, side), seed=0, purpose="images", uniform=True) * 2 - 1


@pytest.mark.parametrize("make", [kl, tiny, vq, asymmetric])
def test_the_laws_hold_and_the_owner_finds_the_model_as_it_was(make):
    model = make().train()
    channels = 3 if make is vq else 4
    decoder = wrap(model, latent_shape=(channels, 8, 8))
    assert decoder.latent_shape == (channels, 8, 8) and decoder.sample_shape == (3, 16, 16)
    assert decoder.value_range == (-1.0, 1.0) and decoder.name == type(model).__name__
    assert (decoder.encode(images()).std is None) == (make in (tiny, vq))
    check_decoder(decoder)
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "shift", "scale"),
    [
        ({}, torch.tensor(0.0), torch.tensor(0.18215)),
        ({"shift_factor": 0.25, "scaling_factor": 1.5}, torch.tensor(0.25), torch.tensor(1.5)),
        (
            {"latents_mean": MEAN, "latents_std": STD, "scaling_factor": 0.5},
            torch.tensor(MEAN).view(-1, 1, 1),
            0.5 / torch.tensor(STD).view(-1, 1, 1),
        ),
    ],
)
@torch.no_grad()
def test_latents_are_those_that_a_diffusion_model_sees(options, shift, scale):
    model = kl(**options).eval()
    decoder, x = wrap(model), images()
    own = model.encode(x).latent_dist
    posterior = decoder.encode(x)
    torch.testing.assert_close(posterior.mean, (own.mean - shift) * scale)
    torch.testing.assert_close(posterior.std, own.std * scale)
    plain = model.decode(own.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(decoder.decode(posterior.mean), plain)
    assert not torch.allclose(decoder.decode(own.mean), plain, atol=1e-2), "the factors do count"


@torch.no_grad()
def test_a_tiny_autoencoder_works_on_images_from_minus_one_to_one():
    model = tiny().eval()
    decoder, x = wrap(model, latent_shape=(4, 8, 8)), images()
    raw = model.encoder.layers((x + 1) / 2)  # its layers see [0, 1]
    torch.testing.assert_close(decoder.encode(x).mean, raw)
    pixels = model.decoder.layers(torch.tanh(raw / 3) * 3) * 2 - 1
    torch.testing.assert_close(decoder.decode(raw), pixels.clamp(-1, 1))


def test_pixels_are_clamped_as_pipelines_do():
    model = kl()
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(1000)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = wrap(model).decode(z)
    assert x.min() == -1 and x.max() == 1
    assert wrap(model, value_range=(-torch.inf, torch.inf)).decode(z).abs().max() > 10


def test_the_shape_of_latents_follows_the_resolution(caplog):
    assert wrap(kl(sample_size=[32, 16])).latent_shape == (4, 16, 8)
    assert wrap(kl(), latent_shape=(4, 4, 6)).sample_shape == (3, 8, 12)
    assert diffusers_vae.wrap(kl(), resolution=24).latent_shape == (4, 12, 12)
    assert diffusers_vae.wrap(kl(), resolution=(24, 8)).sample_shape == (3, 24, 8)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert wrap(tiny()).sample_shape == (3, 512, 512)
    assert "names no resolution" in caplog.text and "latent_shape" in caplog.text
    with pytest.raises(AdapterError, match=r"\(3, 17, 17\) .* multiple"):
        diffusers_vae.wrap(kl(), resolution=17)
    with pytest.raises(AdapterError, match=r"does not take \(5, 8, 8\)"):
        wrap(kl(), latent_shape=(5, 8, 8))
    with pytest.raises(ShapeError, match="3, 16, 16"):
        wrap(kl()).encode(images(side=32))


@torch.no_grad()
def test_half_precision_stays_half_inside():
    model, x = kl(), images()
    full = wrap(model).encode(x)
    decoder = wrap(kl().to(torch.bfloat16))
    assert (
        decoder.dtype == torch.bfloat16 == decoder.model.decode(full.mean.bfloat16()).sample.dtype
    )
    half = decoder.encode(x)
    assert half.mean.dtype == half.std.dtype == torch.float32
    torch.testing.assert_close(half.mean, full.mean, rtol=0.05, atol=0.05)
    torch.testing.assert_close(
        decoder.decode(full.mean), wrap(model).decode(full.mean), rtol=0.1, atol=0.1
    )
    z = full.mean.requires_grad_()
    with torch.enable_grad():
        decoder.decode(z).square().sum().backward()
    assert z.grad.dtype == torch.float32 and z.grad.abs().max() > 0


def test_slicing_is_kept():
    sizes = {}
    for slicing in (False, True):
        model = kl()
        if slicing:
            model.enable_slicing()
        decoder, seen = wrap(model), []
        decoder.model.decoder.conv_in.register_forward_hook(
            lambda module, inputs, out, seen=seen: seen.append(len(out))
        )
        decoder.decode(torch.zeros(3, 4, 8, 8))
        sizes[slicing] = seen
    assert sizes == {False: [3], True: [1, 1, 1]}


def test_tiling_is_kept_and_lets_gradients_through():
    model = kl().eval()
    whole = wrap(model)
    model.enable_tiling()
    model.tile_sample_min_size, model.tile_latent_min_size = 8, 4
    tiled, z = wrap(model), whole.encode(images()).mean
    torch.testing.assert_close(
        tiled.decode(z), model.decode(z / 0.18215).sample.detach().clamp(-1, 1)
    )
    assert not torch.allclose(tiled.decode(z), whole.decode(z), atol=1e-4)
    check_decoder(tiled)
    model.tile_sample_min_size, model.tile_latent_min_size = 12, 6  # a quarter of 6 is not whole
    with pytest.raises(AdapterError, match="tiles whose overlap"):
        wrap(model)


def test_a_quantised_model_states_that_its_gradient_is_not_one():
    model = vq().eval()
    decoder = wrap(model)
    z = noise(0, 2, (3, 8, 8), seed=0, purpose="z").requires_grad_()
    x = decoder.decode(z)
    with torch.no_grad():
        torch.testing.assert_close(decoder.decode(z + 1e-6), x, rtol=0, atol=1e-4)
    (through,) = torch.autograd.grad(x.square().sum(), z)
    codes = model.quantize(z.detach() / 0.18215)[0].requires_grad_()
    at_codes = model.decode(codes, force_not_quantize=True).sample.clamp(-1, 1)
    (straight,) = torch.autograd.grad(at_codes.square().sum(), codes)
    torch.testing.assert_close(through, straight / 0.18215, rtol=1e-3, atol=1e-3)
    assert not decoder.differentiable
    decoder.differentiable = True
    with pytest.raises(LawError, match="finite differences"):
        check_decoder(decoder)


def test_through_a_flow_the_laws_hold_as_well():
    decoder = wrap(kl())
    check_decoder(decoder.through(LatentFlow((4, 8, 8), width=8, blocks=1)))


@pytest.mark.parametrize("make", [kl, vq, tiny])
def test_what_was_saved_is_loaded_whatever_its_class(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "vae", variant="fp16")
    decoder = load(
        "diffusers-vae",
        pretrained_model_name_or_path=tmp_path,
        subfolder="vae",
        variant="fp16",
        resolution=32,
    )
    again = diffusers_vae.wrap(model, resolution=32)
    assert decoder.sample_shape == (3, 32, 32)
    assert decoder.fingerprint() == again.fingerprint()
    z = torch.zeros(1, *decoder.latent_shape)
    assert torch.equal(decoder.decode(z), again.decode(z))
    half = load(
        "diffusers-vae",
        pretrained_model_name_or_path=tmp_path / "vae",
        variant="fp16",
        torch_dtype=torch.bfloat16,
        resolution=32,
    )
    assert half.dtype == torch.bfloat16


def test_slicing_and_tiling_can_be_asked_for(tmp_path):
    kl().save_pretrained(tmp_path / "kl")
    decoder = load(
        "diffusers-vae", pretrained_model_name_or_path=tmp_path / "kl", slicing=True, tiling=True
    )
    assert decoder.model.use_slicing and decoder.model.use_tiling
    vq().save_pretrained(tmp_path / "vq")
    with pytest.raises(AdapterError, match="VQModel has no enable_tiling"):
        load("diffusers-vae", pretrained_model_name_or_path=tmp_path / "vq", tiling=True)


def test_a_folder_that_cannot_be_loaded_is_explained(tmp_path):
    def attempt(**options):
        load("diffusers-vae", pretrained_model_name_or_path=tmp_path / "vae", **options)

    (tmp_path / "vae").mkdir()
    with pytest.raises(CheckpointError, match='subfolder="vae"'):
        attempt()
    kl().save_pretrained(tmp_path / "vae")
    attempt()
    config = tmp_path / "vae" / "config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "_class_name": "UNet2DModel"}))
    with pytest.raises(AdapterError, match="holds a UNet2DModel"):
        attempt()
    config.write_text(json.dumps({**written, "layers_per_block": 2}))
    with pytest.raises(CheckpointError, match="weights of its AutoencoderKL unset"):
        attempt()
    config.write_text(json.dumps({**written, "latent_channels": 8}))
    with pytest.raises(CheckpointError, match="must be safetensors that fit"):
        attempt()
    config.write_text(json.dumps(written))
    for file in (tmp_path / "vae").glob("*.safetensors"):
        file.unlink()
    torch.save(kl().state_dict(), tmp_path / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must be safetensors"):
        attempt()


def test_only_autoencoders_of_images_are_taken():
    class Mine(diffusers.AutoencoderKL):
        pass

    assert diffusers_vae.accepts(kl()) and diffusers_vae.accepts(Mine(**BLOCKS))
    assert not diffusers_vae.accepts(torch.nn.Linear(1, 1))
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    assert not diffusers_vae.accepts(unet)
    noisy = diffusers.ConsistencyDecoderVAE
    assert not diffusers_vae.accepts(noisy.__new__(noisy)), "it draws noise as it decodes"
    video = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32,), down_block_types=("DownEncoderBlock2D",)
    )
    with pytest.raises(AdapterError, match="no autoencoder of images"):
        wrap(video)


def test_methods_of_ones_own_still_go_through_the_trial_run():
    model = kl().eval()
    decoder = wrap(model, encode=lambda x: model.encode(x).latent_dist, latent_shape=(4, 8, 8))
    own = model.encode(images()).latent_dist
    torch.testing.assert_close(decoder.encode(images()).mean, own.mean.detach())

"""Pipelines of diffusers as decoders: families, schedulers, gradients, memory, the inverse."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import latentctl
from latentctl.controllers import SphericalAscent
from latentctl.errors import AdapterError, CheckpointError, InputError
from latentctl.evaluation.laws import check_decoder
from latentctl.latents import typicality
from latentctl.random import seeded

diffusers = pytest.importorskip("diffusers")
# a conversion inside the schedulers of diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = {"layers_per_block": 1, "norm_num_groups": 4}
WORDS = {"encoder_hidden_states": torch.ones(1, 5, 8)}
POOLED = {"pooled_projections": torch.ones(1, 8)}


def made(kind, **options):
    with seeded(0):
        return getattr(diffusers, kind)(**options)


def unet(channels=1, quiet=1.0):
    """A U-Net with random weights, whose output is `quiet` times as large as by default."""
    network = made(
        "UNet2DModel",
        **SMALL,
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        add_attention=False,
    )
    network.conv_out.weight.data *= quiet
    return network


def unet_with_words(**options):
    return made(
        "UNet2DConditionModel",
        **SMALL,
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=8,
        attention_head_dim=2,
        **options,
    )


def vae():
    return made(
        "AutoencoderKL",
        **SMALL,
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def dit():
    return made(
        "DiTTransformer2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=4,
    )


def sd3():
    return made(
        "SD3Transformer2DModel",
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        pos_embed_max_size=4,
    )


def flux():
    return made(
        "FluxTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )


def pipe(scheduler, **parts):
    return SimpleNamespace(scheduler=scheduler, **parts)


def ddpm():
    return latentctl.wrap(diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()), steps=2)


def consistency():
    scheduler = diffusers.CMStochasticIterativeScheduler()
    return latentctl.wrap(diffusers.ConsistencyModelPipeline(unet(), scheduler), steps=1)


def classes():
    whole = diffusers.DiTPipeline(dit(), vae(), diffusers.DDIMScheduler(clip_sample=False))
    return latentctl.wrap(whole, steps=1, condition=3, guidance=2.0)


def words():
    parts = {"unet": unet_with_words(), "vae": vae()}
    other = {"encoder_hidden_states": torch.zeros(1, 5, 8)}
    options = {"condition": WORDS, "unconditional": other, "guidance": 3.0}
    return latentctl.wrap(pipe(diffusers.EulerDiscreteScheduler(), **parts), steps=1, **options)


def words_and_sizes():
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    network = unet_with_words(**added, projection_class_embeddings_input_dim=56)
    more = {"text_embeds": torch.ones(1, 8), "time_ids": torch.ones(1, 6)}
    whole = pipe(diffusers.EulerDiscreteScheduler(), unet=network, vae=vae())
    return latentctl.wrap(whole, steps=1, condition={**WORDS, "added_cond_kwargs": more})


def stable_diffusion_3():
    whole = pipe(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=sd3(), vae=vae())
    return latentctl.wrap(whole, steps=2, condition={**WORDS, **POOLED})


def tokens():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    whole = pipe(scheduler, transformer=flux(), vae=vae())
    return latentctl.wrap(whole, steps=2, resolution=8, condition={**WORDS, **POOLED})


FAMILIES = [ddpm, consistency, classes, words, words_and_sizes, stable_diffusion_3, tokens]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_obeys_the_laws_of_decoders(family):
    decoder = family()
    check_decoder(decoder)
    assert decoder.can_encode == (family is not consistency)


SCHEDULERS = [
    ("DDIMScheduler", {"clip_sample": False}),
    ("EulerDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_samples_are_those_of_the_scheduler_itself(name, options):
    scheduler, network = getattr(diffusers, name)(**options), unet(quiet=0.1)
    decoder = latentctl.wrap(pipe(scheduler, unet=network), steps=3, value_range=(-1e9, 1e9))
    z = decoder.prior.sample(2)
    scheduler.set_timesteps(3)
    x = z * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else z
    with torch.no_grad():
        for t in scheduler.timesteps:
            scaled = hasattr(scheduler, "scale_model_input")
            u = scheduler.scale_model_input(x, t) if scaled else x
            x = scheduler.step(network(u, t).sample, t, x).prev_sample
    assert torch.allclose(decoder.decode(z), x, rtol=1e-3, atol=1e-3)


def test_a_setting_that_a_pipeline_has_changed_is_kept():
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True)
    before = latentctl.wrap(pipe(scheduler, unet=unet()), steps=3).fingerprint()
    scheduler._internal_dict = type(scheduler.config)({**scheduler.config, "steps_offset": 1})
    assert latentctl.wrap(pipe(scheduler, unet=unet()), steps=3).fingerprint() != before


def test_the_inverse_gives_back_the_noise():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    whole = pipe(scheduler, unet=unet(quiet=0.1))
    decoder = latentctl.wrap(whole, steps=3, value_range=(-1e9, 1e9))
    z = decoder.prior.sample(4)
    assert torch.allclose(decoder.encode(decoder.decode(z)).mean, z, atol=1e-2)


def test_a_noise_that_is_not_found_is_reported(caplog):
    decoder = ddpm()
    decoder.encode(decoder.decode(decoder.prior.sample(2)))
    assert "of 2 samples was not found" in caplog.text and "with_inversion" in caplog.text


def test_other_steps_share_the_weights_and_not_the_fingerprint():
    decoder = latentctl.wrap(
        pipe(diffusers.FlowMatchEulerDiscreteScheduler(), unet=unet()), steps=2
    )
    fine = decoder.with_steps(5)
    first, second = (next(iter(found.parameters())) for found in (decoder, fine))
    assert first.data_ptr() == second.data_ptr()
    assert fine.fingerprint() != decoder.fingerprint()
    z = decoder.prior.sample(2)
    assert torch.equal(decoder.render(z, 5), fine.decode(z))
    assert fine.name == decoder.name.replace("2 steps", "5 steps")


def test_the_condition_is_in_the_fingerprint():
    whole = pipe(diffusers.FlowMatchEulerDiscreteScheduler(), transformer=dit())
    one, same, other = (latentctl.wrap(whole, condition=c).fingerprint() for c in (1, 1, 2))
    assert one == same != other


def saved_bytes(decoder):
    """Bytes that a backward pass through the decoder needs."""
    sizes = {}

    def pack(x):
        sizes[x.data_ptr()] = x.numel() * x.element_size()
        return x

    z = decoder.prior.sample(1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        x = decoder.decode(z)
    (gradient,) = torch.autograd.grad(x.square().sum(), z)
    return sum(sizes.values()), gradient


def test_memory_grows_by_a_latent_a_step():
    whole = pipe(diffusers.FlowMatchEulerDiscreteScheduler(), unet=unet())
    few, gradient = saved_bytes(latentctl.wrap(whole, steps=2))
    many, _ = saved_bytes(latentctl.wrap(whole, steps=12))
    plain, same = saved_bytes(latentctl.wrap(whole, steps=2, checkpointing=False))
    latent = 64 * 4
    assert many - few <= 10 * 3 * latent < plain
    assert torch.allclose(gradient, same, rtol=1e-4, atol=1e-6)


def test_a_saved_pipeline_is_loaded_by_name(tmp_path):
    whole = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
    whole.save_pretrained(tmp_path / "pipe")
    where = {"pretrained_model_name_or_path": tmp_path / "pipe"}
    decoder = latentctl.load("diffusers-pipeline", **where, steps=2)
    assert decoder.fingerprint() == latentctl.wrap(whole, steps=2).fingerprint()
    with pytest.raises(CheckpointError, match="was not loaded as a pipeline"):
        latentctl.load("diffusers-pipeline", pretrained_model_name_or_path=tmp_path / "none")


def test_noise_is_ascended_on_its_sphere_by_default():
    whole = pipe(diffusers.FlowMatchEulerDiscreteScheduler(), unet=unet(quiet=0.1))
    decoder = latentctl.wrap(whole, steps=2)
    critic = latentctl.PixelCritic(
        decoder, lambda x: 50 * (x.mean((1, 2, 3))[:, None] - 0.5), names=["Bright"]
    )
    pictures = latentctl.condition(decoder, critic)
    assert isinstance(pictures.controller, SphericalAscent)
    assert isinstance(pictures.editor, SphericalAscent)
    out = pictures.sample(4, Bright=True)
    assert bool(out.satisfied.all()) and not torch.equal(out.z, out.start)
    assert torch.allclose(out.z.flatten(1).norm(dim=1), out.start.flatten(1).norm(dim=1))
    assert torch.equal(out.typicality, typicality(out.z))


def test_a_decoder_of_grids_is_the_autoencoder():
    base = latentctl.wrap(vae(), resolution=16)
    whole = pipe(diffusers.FlowMatchEulerDiscreteScheduler(), unet=unet(channels=4))
    decoder = latentctl.wrap(whole, vae=base)
    assert (decoder.latent_shape, decoder.sample_shape) == ((4, 8, 8), (3, 16, 16))


def test_the_autoencoder_may_be_unbounded_or_of_another_class(caplog):
    free = latentctl.wrap(
        torch.nn.ConvTranspose2d(4, 3, 2, stride=2),
        encode=lambda x: x[:, :1, ::2, ::2].repeat(1, 4, 1, 1),
        latent_shape=(4, 8, 8),
        value_range=(-float("inf"), float("inf")),
        decode="forward",
    )
    whole = pipe(diffusers.FlowMatchEulerDiscreteScheduler(), unet=unet(channels=4))
    decoder = latentctl.wrap(whole, vae=free)
    assert decoder.value_range is None
    x = 3 * decoder.decode(decoder.prior.sample(2))
    again = decoder.decode(decoder.encode(x).mean)
    assert float((again - x).square().mean()) > 0.01, "by the autoencoder, which loses much"
    assert "was not found" not in caplog.text
    tiny = made(
        "AutoencoderTiny",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )
    whole.vae = tiny
    assert latentctl.wrap(whole, steps=1).sample_shape == (3, 16, 16)


def test_prompts_are_encoded_by_the_pipeline():
    class Prompted(SimpleNamespace):
        config = SimpleNamespace()

        def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance):
            return torch.full((1, 5, 8), 1 + float(len(prompt))), None

    whole = Prompted(scheduler=diffusers.DDIMScheduler(clip_sample=False), unet=unet_with_words())
    decoder = latentctl.wrap(whole, steps=1, condition="a cat", guidance=2.0)

    def embeddings(decoder):
        given = dict(decoder.named_buffers())
        names = [f"model.denoiser.condition_{k}_encoder_hidden_states" for k in (0, 1)]
        return [float(given[name].mean()) for name in names]

    assert embeddings(decoder) == [6, 1]
    whole.config.force_zeros_for_empty_prompt = True
    assert embeddings(latentctl.wrap(whole, steps=1, condition="a cat", guidance=2.0)) == [6, 0]


REFUSED = [
    ({"steps": 0}, InputError, "at least 1 step"),
    ({"condition": "a cat"}, AdapterError, "encodes no prompts"),
    ({"condition": {"class_labels": torch.zeros(2)}}, AdapterError, "tensor with one row"),
    ({"resolution": 7, "vae": None}, AdapterError, "does not run on noise"),
    ({"decoder_steps": 3}, AdapterError, "has no option 'decoder_steps'"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED)
def test_refusals(options, error, words):
    network = unet() if "resolution" not in options else dit()
    whole = pipe(diffusers.DDIMScheduler(clip_sample=False), unet=network)
    with pytest.raises(error, match=words):
        latentctl.wrap(whole, **options)


@pytest.mark.parametrize("name", ["LCMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_scheduler_that_draws_noise_is_refused(name):
    whole = pipe(getattr(diffusers, name)(), unet=unet())
    with pytest.raises(AdapterError, match="draws noise"):
        latentctl.wrap(whole, steps=4)


def test_a_scheduler_that_clips_is_changed_and_said_so(caplog):
    latentctl.wrap(pipe(diffusers.DDIMScheduler(), unet=unet()), steps=2)
    assert "clips its predictions (clip_sample)" in caplog.text

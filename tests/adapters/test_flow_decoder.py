"""A flow over pixels as a decoder: the inverse is exact, and so are the bits."""

from __future__ import annotations

import math

import pytest
import torch
from latentctl_adapters.flow_decoder import PixelFlow

from latentctl import KnowledgeBase, Latents
from latentctl.decoder.registry import load, wrap
from latentctl.errors import CheckpointError, InputError, ShapeError
from latentctl.evaluation.laws import check_decoder
from latentctl.random import generator

QUICK = {"patch": 2, "width": 16, "blocks": 1, "batch_size": 64}


def bytes_of(x):
    return (255 * x).round() / 255


def uniform(*shape, purpose="u"):
    return torch.rand(*shape, generator=generator(0, purpose=purpose))


def bars(count, side=8, purpose="bars"):
    """Images of one bright bar, across or down, on a ground that never changes."""
    down = uniform(count, purpose=purpose) < 0.5
    place = (uniform(count, purpose=f"place {purpose}") * side).long()
    x = torch.zeros(count, 1, side, side)
    rows = torch.arange(count)
    x[rows[down], 0, :, place[down]] = 0.8
    x[rows[~down], 0, place[~down]] = 0.8
    return bytes_of(x), down.float()


@pytest.fixture(scope="module")
def model():
    return PixelFlow.fit(bars(600)[0], **QUICK, max_train_steps=250)


@pytest.mark.parametrize("gaussianise", [True, False])
@pytest.mark.parametrize("patch", [2, 8])
def test_the_decoder_is_the_inverse_of_the_encoder(gaussianise, patch):
    x = bars(300)[0]
    options = {**QUICK, "patch": patch, "gaussianise": gaussianise}
    model = PixelFlow.fit(x, **options, max_train_steps=20)
    other = bars(32, purpose="other")[0]
    assert (model.decode(model.encode(other)) - other).abs().max() < 1e-4
    z = model.flow.sample(32, seed=1)
    again = model.dequantise(model.image(z))
    black, white = (model.dequantise(torch.full_like(x[:1], value)) for value in (0.0, 1.0))
    inner = (again != black) & (again != white)  # the others were clamped to [0, 1]
    assert inner.float().mean() > 0.1
    # as probabilities: where a level is rare, the tails of z spread what a float of x cannot hold
    assert torch.allclose(torch.special.ndtr(again[inner]), torch.special.ndtr(z[inner]), atol=1e-4)
    assert torch.allclose(model.flow.from_base(model.flow.to_base(z)), z, atol=1e-4)


def test_the_grid_holds_patches_as_channels():
    model = PixelFlow(8, patch=2, width=8, blocks=1, gaussianise=False)
    x = bytes_of(uniform(2, 1, 8, 8))
    z = model.dequantise(x, 0.25)
    assert z.shape == (2, 4, 4, 4)
    assert torch.allclose(z[0, 3, 1, 2], (255 * x[0, 0, 3, 5] + 0.25) / 256 - 0.5)
    assert torch.allclose(model.image(model.dequantise(x)), x, atol=1e-6)


def test_gaussianised_pixels_are_normal_and_cost_what_their_histogram_costs(model):
    x = bars(600)[0]
    z = model.dequantise(x, uniform(*x.shape))
    quantiles = z.flatten().quantile(torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(quantiles, torch.tensor([-1.2816, 0, 1.2816]), atol=0.05)
    share = (x > 0).float().mean().item()
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    normal = torch.distributions.Normal(0, 1)
    bits = model.bits_per_dimension(
        x, uniform(*x.shape), lambda z: normal.log_prob(z).flatten(1).sum(1)
    )
    assert bits.mean() == pytest.approx(entropy, abs=0.01)


def test_uniform_noise_costs_eight_bits():
    noise = uniform(1000, 1, 8, 8, purpose="noise")
    x = bytes_of(noise)
    model = PixelFlow.fit(x[:800], **QUICK, max_train_steps=100)
    u = uniform(*x.shape)
    # a Gaussian on a uniform variable of its variance: log2 sqrt(2 pi e / 12) above the entropy
    gaussian = 8 + 0.5 * math.log2(2 * math.pi * math.e / 12)
    assert 7.9 < model.bits_per_dimension(x[800:], u[800:]).mean() < gaussian + 0.1


def test_what_never_changes_costs_nearly_nothing():
    x = torch.full((400, 1, 8, 8), 100 / 255)
    model = PixelFlow.fit(x, **QUICK, max_train_steps=20)
    assert model.bits_per_dimension(x, uniform(*x.shape)).mean() < 0.5


def test_the_density_is_that_of_the_whole_map(model):
    x = bars(4, purpose="four")[0]
    u = 0.1 + 0.8 * uniform(*x.shape)

    def base(inner):
        return model.flow.to_base(model.dequantise(x[:1], inner))

    jacobian = torch.autograd.functional.jacobian(base, u[:1]).reshape(64, 64).double()
    by_hand = -0.5 * base(u[:1]).double().square().sum() - 32 * math.log(2 * math.pi)
    by_hand = by_hand + torch.linalg.slogdet(jacobian)[1]  # of u, whose unit is a bin
    bits = -by_hand.item() / (64 * math.log(2))
    assert model.bits_per_dimension(x, u)[0].item() == pytest.approx(bits, abs=1e-3)


def test_seen_images_are_likelier_than_others(model):
    x, other = bars(64, purpose="new")[0], bytes_of(uniform(64, 1, 8, 8))
    u = uniform(64, 1, 8, 8)
    assert model.bits_per_dimension(x, u).mean() < 4 < model.bits_per_dimension(other, u).mean()


def test_knowledge_stands_on_it():
    x, down = bars(2000)
    model = PixelFlow.fit(x, **{**QUICK, "patch": 8}, max_train_steps=150)
    z = model.dequantise(x, uniform(*x.shape))
    data = Latents(z, None, down[:, None], ["down"])
    base = KnowledgeBase(model.flow, model.latent_shape)
    sizes = {"width": 32, "critic_width": 32, "critic_steps": 300, "max_train_steps": 150}
    knowledge = base.add("down", data, **sizes)
    new, is_down = bars(200, purpose="new")
    v = uniform(*new.shape, purpose="v")
    loss = model.bits_per_dimension(new, v, knowledge.log_prob)
    loss = loss - model.bits_per_dimension(new, v)
    assert loss[is_down > 0.5].mean() < 0 < loss[is_down < 0.5].mean()
    found = knowledge(model.dequantise(new, v))[:, 0] > 0
    assert (found == (is_down > 0.5)).float().mean() > 0.95


def test_the_laws_of_decoders_hold(model):
    decoder = wrap(model)
    assert decoder.latent_shape == (4, 4, 4) and decoder.value_range == (0.0, 1.0)
    check_decoder(decoder)


def test_it_comes_back_from_its_folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    decoder = load("flow-decoder", pretrained_model_name_or_path=tmp_path)
    e = torch.randn(3, *model.latent_shape, generator=generator(2))
    assert torch.equal(decoder.decode(e), model.decode(e))
    dropping = PixelFlow(resolution=8, channels=1, patch=4, width=8, blocks=1, dropout=0.1).eval()
    dropping.save_pretrained(tmp_path)
    decoder = load("flow-decoder", pretrained_model_name_or_path=tmp_path)
    e = torch.randn(3, *dropping.latent_shape, generator=generator(2))
    assert torch.equal(decoder.decode(e), dropping.decode(e))
    with pytest.raises(CheckpointError, match="corrupted"):
        (tmp_path / "pixel-flow.safetensors").write_bytes(b"cut")
        load("flow-decoder", pretrained_model_name_or_path=tmp_path)


def test_bad_input_is_told(model):
    with pytest.raises(InputError, match="multiple of the patch"):
        PixelFlow(resolution=10, patch=4)
    with pytest.raises(InputError, match="exact and quick"):
        PixelFlow(kind="matching")
    with pytest.raises(ShapeError, match="Pad or resize"):
        model.dequantise(torch.zeros(1, 1, 7, 7))
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        model.dequantise(torch.zeros(1, 1, 8, 8), 1.0)
    with pytest.raises(ShapeError, match="squares"):
        PixelFlow.fit(torch.zeros(100, 1, 8, 6))
    with pytest.raises(InputError, match="NaN"):
        PixelFlow.fit(torch.full((100, 1, 8, 8), torch.nan), patch=2)

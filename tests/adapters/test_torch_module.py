"""Any foreign module or callable becomes a decoder by a trial run."""

from __future__ import annotations

import functools
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from latentctl.decoder import Gaussian, Posterior
from latentctl.decoder.registry import wrap
from latentctl.errors import AdapterError
from latentctl.evaluation.laws import check_decoder


class MLPVAE(nn.Module):
    """Fully connected, with everything that moves in training mode."""

    def __init__(self, side=6):
        super().__init__()
        torch.manual_seed(0)
        size = side * side
        self.side = side
        self.hidden = nn.Sequential(nn.Linear(size, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.mean, self.log_variance = nn.Linear(16, 5), nn.Linear(16, 5)
        self.out = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
        self.pixels = nn.Linear(16, size)

    def encode(self, x):
        hidden = self.hidden(x.flatten(1))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, z):
        return torch.sigmoid(self.pixels(self.out(z))).view(-1, 1, self.side, self.side)


class Convolutional(nn.Module):
    """Spatial latents and tanh images; takes any size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.GroupNorm(2, 4))
        self.decoder = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 4), nn.Tanh())


class Fixed(nn.Module):
    """Takes 28x28 only, and begins its decoder with a convolution."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 2, 3, 2, 1), nn.Flatten(), nn.Linear(2 * 14 * 14, 8)
        )
        self.expand = nn.Linear(8, 2 * 14 * 14)
        self.up = nn.ConvTranspose2d(2, 1, 3, 2, 1, 1)

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.up(self.expand(z).view(-1, 2, 14, 14))


def test_a_model_in_training_mode_is_wrapped_and_stays_in_it(caplog):
    model = MLPVAE().train()
    statistics = model.out[1].running_mean.clone()
    with caplog.at_level(logging.WARNING):
        decoder = wrap(model)
    assert decoder.latent_shape == (5,) and decoder.sample_shape == (1, 6, 6)
    assert decoder.value_range == (0.0, 1.0) and decoder.differentiable
    assert decoder.encode(torch.rand(3, 1, 6, 6)).std.shape == (3, 5)
    check_decoder(decoder)
    assert model.training and torch.equal(model.out[1].running_mean, statistics)
    (line,) = [r.getMessage() for r in caplog.records]
    for words in (
        "MLPVAE: latent (5,), sample (1, 6, 6), values in [0, 1], encoder with std, prior N(0, I)",
        "latent_shape=...",
        "value_range=...",
    ):
        assert words in line


def test_the_log_variance_is_read_as_such():
    model = MLPVAE().eval()
    x = torch.rand(4, 1, 6, 6)
    mean, log_variance = model.encode(x)
    posterior = wrap(model).encode(x)
    torch.testing.assert_close(posterior.mean, mean.detach())
    torch.testing.assert_close(posterior.std, torch.exp(0.5 * log_variance).detach())


def test_a_log_variance_that_is_once_positive_is_still_one():
    model = MLPVAE().eval()
    decoder = wrap(model)
    with torch.no_grad():
        model.log_variance.weight.zero_()
        model.log_variance.bias.fill_(2.0)
    std = decoder.encode(torch.rand(2, 1, 6, 6)).std
    torch.testing.assert_close(std, torch.full((2, 5), math.e))


def test_spatial_latents_and_tanh_images():
    decoder = wrap(Convolutional())
    assert decoder.latent_shape == (4, 16, 16) and decoder.sample_shape == (3, 64, 64)
    assert decoder.value_range == (-1.0, 1.0)
    assert decoder.encode(torch.zeros(1, 3, 64, 64)).std is None
    check_decoder(decoder)
    small = wrap(Convolutional(), latent_shape=(4, 4, 4), value_range=(-math.inf, math.inf))
    assert small.sample_shape == (3, 16, 16)
    small.encode(torch.full((1, 3, 16, 16), 7.0))


def test_a_model_of_one_size_is_tried_until_it_fits():
    decoder = wrap(Fixed())
    assert decoder.latent_shape == (8,) and decoder.sample_shape == (1, 28, 28)
    assert decoder.value_range is None


def posterior_kinds(model, x):
    mean, log_variance = model.encode(x)
    std = torch.exp(0.5 * log_variance)
    return {
        "Posterior": Posterior(mean, std),
        "Normal": Normal(mean, std),
        "Independent": Independent(Normal(mean, std), 1),
        "latent_dist": SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=std)),
        "dict": {"mu": mean, "logvar": log_variance},
        "pythae": {"embedding": mean, "log_covariance": log_variance},
        "object": SimpleNamespace(loc=mean, scale=std),
        "tuple": (mean, log_variance),
    }


@pytest.mark.parametrize(
    "kind",
    ["Posterior", "Normal", "Independent", "latent_dist", "dict", "pythae", "object", "tuple"],
)
def test_every_usual_posterior_is_understood(kind):
    model = MLPVAE().eval()
    x = torch.rand(3, 1, 6, 6)
    decoder = wrap(model, encode=lambda x: posterior_kinds(model, x)[kind])
    expected = posterior_kinds(model, x)["Posterior"]
    torch.testing.assert_close(decoder.encode(x).mean, expected.mean.detach())
    torch.testing.assert_close(decoder.encode(x).std, expected.std.detach())


@pytest.mark.parametrize(
    "result",
    [
        lambda x: SimpleNamespace(sample=x),
        lambda x: {"reconstruction": x},
        lambda x: (x, None),
        lambda x: Bernoulli(x),
    ],
)
def test_every_usual_sample_is_understood(result):
    model = MLPVAE().eval()
    decoder = wrap(model, decode=lambda z: result(model.decode(z)))
    z = torch.randn(2, 5)
    torch.testing.assert_close(decoder.decode(z), model.decode(z))


def test_results_that_say_nothing_are_refused():
    model = MLPVAE()
    with pytest.raises(AdapterError, match="a str, which is neither"):
        wrap(model, encode=lambda x: "seven")
    with pytest.raises(AdapterError, match="dict with weights"):
        wrap(model, decode=lambda z: {"weights": 3})


class Holder:
    """Not a module, and holds one."""

    def __init__(self, model):
        self.model = model

    def generate(self, z):
        return self.model.decode(z)


def decode_with(z, model):
    return model.decode(z)


@pytest.mark.parametrize(
    "way",
    ["closure", "pair of methods", "method", "partial", "partial of a method", "holder", "object"],
)
def test_callables_are_viewed_and_their_networks_frozen(way):
    model = MLPVAE().train()
    ways = {
        "closure": lambda z: model.decode(z),
        "pair of methods": (model.encode, model.decode),
        "method": model.decode,
        "partial": functools.partial(decode_with, model=model),
        "partial of a method": functools.partial(model.decode),
        "holder": Holder(model).generate,
        "object": functools.partial(Holder(model).generate),
    }
    decoder = wrap(ways[way], latent_shape=(5,))
    assert decoder.can_encode == (way == "pair of methods")
    check_decoder(decoder)
    assert model.training and all(p.requires_grad for p in model.parameters())
    z = torch.randn(3, 5)
    torch.testing.assert_close(decoder.decode(z), model.eval().decode(z).detach())
    first = decoder.fingerprint()
    with torch.no_grad():
        model.pixels.bias[0] += 1
    assert decoder.fingerprint() != first, "the weights are part of the fingerprint"
    loss = decoder.decode(z.requires_grad_()).sum()
    loss.backward()
    assert all(p.grad is None for p in model.parameters())


def test_the_methods_of_one_module_are_the_module():
    model = MLPVAE()
    assert wrap((model.encode, model.decode)).fingerprint() == wrap(model).fingerprint()


def test_a_pair_of_modules():
    model = Convolutional()
    decoder = wrap((model.encoder, model.decoder))
    assert decoder.can_encode and decoder.sample_shape == (3, 64, 64)


def test_a_decoder_alone():
    decoder = wrap(Convolutional().decoder)
    assert not decoder.can_encode and decoder.latent_shape == (4, 1, 1)
    assert wrap(nn.Linear(2, 3)).latent_shape == (2,)


def test_a_callable_without_weights_is_said_to_have_a_weak_fingerprint(caplog):
    with caplog.at_level(logging.WARNING):
        decoder = wrap(lambda z: z * 2, latent_shape=(3,))
    assert "fingerprint" in caplog.text
    assert torch.equal(decoder.decode(torch.ones(1, 3)), torch.full((1, 3), 2.0))


def test_weights_out_of_sight_are_refused():
    model = MLPVAE().eval()
    hidden = [model]
    with pytest.raises(AdapterError, match="cannot see"):
        wrap(lambda z: hidden[0].decode(z), latent_shape=(5,))
    model.requires_grad_(False).train()
    with pytest.raises(AdapterError, match="training mode"):
        wrap(lambda z: hidden[0].decode(z), latent_shape=(5,))
    for module in model.modules():  # batch statistics alone, without the dropout
        module.train(isinstance(module, nn.BatchNorm1d))
    with pytest.raises(AdapterError, match="training mode"):
        wrap(lambda z: hidden[0].decode(z), latent_shape=(5,))
    assert wrap(lambda z: hidden[0].eval().decode(z), latent_shape=(5,)).sample_shape == (1, 6, 6)


def test_a_decoder_through_which_no_gradient_flows_is_known(caplog):
    with caplog.at_level(logging.WARNING):
        decoder = wrap(lambda z: (z > 0).long(), latent_shape=(3,))
    assert not decoder.differentiable and "no gradient" in caplog.text
    assert decoder.decode(torch.randn(2, 3)).dtype == torch.int64


def test_a_failure_lists_what_was_tried_and_what_to_do():
    class Stubborn(MLPVAE):
        def decode(self, z):
            raise RuntimeError("needs a label")

    with pytest.raises(AdapterError) as caught:
        wrap(Stubborn())
    for words in ("latent (5,)", "sample (36,)", "needs a label", "latent_shape=", "decode="):
        assert words in str(caught.value)
    with pytest.raises(AdapterError, match="latent_shape"):
        wrap(lambda z: z)
    with pytest.raises(AdapterError, match="has no method 'paint'"):
        wrap(MLPVAE(), decode="paint")
    with pytest.raises(AdapterError, match="Say what decodes"):
        wrap(nn.ModuleDict({"encoder": nn.Linear(2, 2)}))
    with pytest.raises(AdapterError, match="was given"):
        wrap(MLPVAE(), latent_shape=(7,))


def test_what_is_given_overrides_what_is_found(caplog):
    prior = Gaussian((5,), std=2.0)
    with caplog.at_level(logging.WARNING):
        decoder = wrap(MLPVAE(), prior=prior, value_range=(0.0, 2.0), latent_shape=(5,))
    assert decoder.prior is prior and decoder.value_range == (0.0, 2.0)
    assert "override" not in caplog.text and "Gaussian" in caplog.text
    with pytest.raises(AdapterError, match="samples of its prior"):
        wrap(MLPVAE(), prior=Gaussian((4,)))


def test_names_of_methods():
    class Other(MLPVAE):
        def to_latent(self, x):
            return self.encode(x)[0]

        def paint(self, z):
            return self.decode(z)

    decoder = wrap(Other(), encode="to_latent", decode="paint")
    assert decoder.encode(torch.rand(1, 1, 6, 6)).std is None
    check_decoder(decoder)

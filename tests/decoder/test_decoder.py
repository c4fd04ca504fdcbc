"""The frozen decoder: unchanged weights, refused input, gradients, chunks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from latentctl.decoder import Decoder, Gaussian, Posterior
from latentctl.decoder.frozen import frozen_view
from latentctl.errors import AdapterError, InputError, LawError, ShapeError
from latentctl.evaluation.laws import check_critic, check_decoder


class Noisy(nn.Module):
    """Layers that depend on the training mode, and an encoder."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))

    def decode(self, z):
        return torch.sigmoid(self.decoder(z)).view(-1, 3, 2, 2)

    def encode(self, x):
        return Posterior(self.encoder(x.flatten(1)), torch.ones(len(x), 4))


def build(model, **options):
    kwargs = {"latent_shape": (4,), "sample_shape": (3, 2, 2), **options}
    return Decoder(model, lambda m, z: m.decode(z), lambda m, x: m.encode(x), **kwargs)


def test_the_users_model_is_unchanged_and_the_view_is_frozen():
    model = Noisy().train()
    before = copy.deepcopy(model.state_dict())
    decoder = build(model)
    check_decoder(decoder)
    decoder.train().decode(torch.randn(8, 4))
    decoder.encode(torch.rand(8, 3, 2, 2))
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in decoder.modules())
    assert decoder.model.decoder[0].weight.data_ptr() == model.decoder[0].weight.data_ptr()


def test_a_parent_in_training_mode_does_not_change_the_decoders_mode():
    decoder = build(Noisy())
    parent = nn.ModuleList([decoder, nn.Dropout()]).train()
    assert parent[1].training
    assert not any(module.training for module in decoder.modules())


def test_gradients_reach_the_latent_and_no_weight():
    model = Noisy()
    decoder = build(model)
    z = torch.randn(2, 4, requires_grad=True)
    decoder.decode(z).sum().backward()
    assert z.grad is not None and bool((z.grad != 0).any())
    assert all(p.grad is None for p in [*model.parameters(), *decoder.parameters()])


def test_the_fingerprint_depends_on_every_bit_of_weights_and_statistics():
    model = Noisy()
    decoder = build(model)
    first = decoder.fingerprint()
    assert build(Noisy()).fingerprint() == first
    with torch.no_grad():
        model.decoder[0].bias[0] = torch.nextafter(model.decoder[0].bias[0], torch.tensor(9.0))
    assert decoder.fingerprint() != first
    other = Noisy()
    other.decoder[1].num_batches_tracked += 1
    assert build(other).fingerprint() != first


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_have_a_fingerprint_and_give_float32(dtype):
    decoder = build(Noisy().to(dtype))
    assert len(decoder.fingerprint()) == 64
    assert decoder.decode(torch.randn(2, 4)).dtype == torch.float32
    assert decoder.encode(torch.rand(2, 3, 2, 2)).mean.dtype == torch.float32


def test_wrong_input_is_refused_with_what_was_found_and_what_to_do():
    decoder = build(Noisy())
    x = torch.rand(3, 3, 2, 2)
    with pytest.raises(ShapeError, match=r"latents \(B, 4\).*\(2, 5\)"):
        decoder.decode(torch.randn(2, 5))
    with pytest.raises(ShapeError, match="Resize"):
        decoder.encode(torch.rand(2, 3, 4, 4))
    with pytest.raises(InputError, match=r"\[0, 1\].*\[.*254\]"):
        decoder.encode((x * 0 + 254).contiguous())
    with pytest.raises(InputError, match="255"):
        decoder.encode((x * 255).long())
    with pytest.raises(InputError, match=r"rows \[1\]"):
        decoder.encode(x.index_fill(0, torch.tensor([1]), float("nan")))
    with pytest.raises(InputError, match=r"rows \[2\]"):
        build(Noisy(), value_range=None).encode(x.index_fill(0, torch.tensor(2), float("inf")))
    assert decoder.encode(x * 1.04).mean.shape == (3, 4), "resampling may overshoot a little"


def test_chunks_of_batch_size_give_the_same_samples_and_one_posterior():
    decoder = build(Noisy())
    sizes = []
    plain_decode, plain_encode = decoder.decode_fn, decoder.encode_fn
    decoder.decode_fn = lambda m, z: (sizes.append(len(z)), plain_decode(m, z))[1]
    decoder.encode_fn = lambda m, x: (sizes.append(len(x)), plain_encode(m, x))[1]
    z = torch.randn(7, 4, requires_grad=True)
    x = decoder.decode(z, batch_size=3)
    assert sizes == [3, 3, 1]
    assert torch.equal(x, torch.cat([decoder.decode(part) for part in z.split(3)]))
    x.sum().backward()
    assert bool((z.grad.flatten(1) != 0).any(1).all())
    posterior = decoder.encode(x.detach(), batch_size=4)
    assert sizes[-2:] == [4, 3]
    assert posterior.mean.shape == posterior.std.shape == (7, 4)
    assert torch.allclose(posterior.mean, decoder.encode(x.detach()).mean, atol=1e-6)
    assert decoder.decode(z[:0], batch_size=3).shape == (0, 3, 2, 2)
    with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
        decoder.decode(z, batch_size=0)


def test_a_decoder_through_a_flow_keeps_both():
    from latentctl import LatentFlow

    decoder = build(Noisy())
    through = decoder.through(LatentFlow((4,), width=8))
    inner, flow = through.composed_of
    assert inner is decoder and decoder.composed_of is None
    assert isinstance(flow, LatentFlow) and flow is through.model["flow"]
    assert inner.through(flow).fingerprint() == through.fingerprint()
    names = [name for name, _ in through.named_modules(remove_duplicate=False)]
    assert not any("composed_of" in name for name in names), "or its tensors would count twice"
    again = copy.deepcopy(through)
    assert again.composed_of[1] is again.model["flow"]


def test_a_gaussian_is_saved_and_loaded_bit_for_bit(tmp_path):
    prior = Gaussian((2, 1, 1), mean=torch.tensor([[[0.1]], [[0.2]]]), std=0.3)
    again = Gaussian.load(prior.save(tmp_path / "prior"))
    assert torch.equal(again.sample(5, seed=1), prior.sample(5, seed=1))
    assert again.latent_shape == (2, 1, 1)


def test_the_error_of_a_decoder_without_encoder_says_how_to_give_one():
    decoder = Decoder(
        nn.Linear(2, 3), lambda m, z: m(z), latent_shape=(2,), sample_shape=(3,), value_range=None
    )
    assert not decoder.can_encode
    with pytest.raises(AdapterError, match="encode="):
        decoder.encode(torch.zeros(1, 3))


def test_posterior_samples_are_the_mean_where_there_is_no_std():
    mean, eps = torch.randn(3, 2), torch.randn(3, 2)
    assert torch.equal(Posterior(mean).sample(eps), mean)
    assert torch.equal(Posterior(mean, torch.full_like(mean, 2.0)).sample(eps), mean + 2 * eps)


def test_the_view_of_a_weight_normed_model_shares_and_decodes():
    torch.manual_seed(0)
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.utils.weight_norm(nn.Linear(4, 12))
    z = torch.randn(2, 4)
    assert torch.equal(frozen_view(model)(z), model(z))


def test_what_cannot_be_copied_is_refused():
    class Locked(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("locked")

    with pytest.raises(AdapterError, match=r"Locked cannot be viewed.*locked"):
        frozen_view(Locked())
    with pytest.raises(AdapterError, match="LazyLinear cannot be viewed"):
        frozen_view(nn.LazyLinear(3))


class Counting(nn.Module):
    """Violates a law: decoding changes a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.net = nn.Linear(4, 12)

    def decode(self, z):
        self.calls += 1
        return self.net(z).view(-1, 3, 2, 2)


class WrongGradient(Noisy):
    def decode(self, z):
        x = super().decode(z)
        return x.detach() + 0.5 * (x - x.detach())


class Random(Noisy):
    def decode(self, z):
        return super().decode(z) + torch.rand(())


class Reshaped(Noisy):
    def decode(self, z):
        return super().decode(z).flatten(1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Counting, "fingerprint changed"),
        (WrongGradient, "finite differences"),
        (Random, "two results"),
        (Reshaped, r"decoded 1 latents into \(1, 12\)"),
    ],
)
def test_the_laws_find_decoders_that_violate_them(model, words):
    decoder = Decoder(
        model(),
        lambda m, z: m.decode(z),
        latent_shape=(4,),
        sample_shape=(3, 2, 2),
        value_range=None,
    )
    with pytest.raises(LawError, match=words):
        check_decoder(decoder)


def test_the_laws_of_critics_hold_and_find_violations():
    from latentctl.critics import Critic

    class Sum(Critic):
        def forward(self, z):
            return z.sum(1, keepdim=True)

    class Flat(Critic):
        def forward(self, z):
            return z.detach().sum(1, keepdim=True)

    class Wide(Critic):
        def forward(self, z):
            return z

    z = torch.randn(5, 3)
    check_critic(Sum(), z)
    check_critic(~(Sum() & Sum() * 3.0) | Sum(), 5 * z)
    with pytest.raises(LawError, match="no gradient"):
        check_critic(Flat(), z)
    with pytest.raises(LawError, match="log-odds"):
        check_critic(Wide(), z)

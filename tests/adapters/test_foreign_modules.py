"""Modules as other people write them: each becomes a lawful decoder, or a sentence says what to do.

`TAKEN` go through `wrap` as they are or with the arguments that their owner knows; `REFUSED` fail,
and the words of the message are what the owner has to read.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import latentctl
from latentctl.errors import AdapterError
from latentctl.evaluation.laws import check_decoder


class ExampleVAE(nn.Module):
    """The VAE of pytorch/examples: forward gives (reconstruction, mu, logvar)."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 40), nn.Linear(40, 20), nn.Linear(40, 20)
        self.fc3, self.fc4 = nn.Linear(20, 40), nn.Linear(40, 784)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 784))
        return self.decode(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)), mu, logvar


class DCGAN(nn.Module):
    """Generator of a DCGAN: noise (nz, 1, 1), batch normalisation left in training mode."""

    def __init__(self, nz=16, ngf=8, nc=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 2, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        return self.main(input)


class Style(nn.Module):
    """A mapping and a synthesis network with noise at each layer, fixed or drawn."""

    def __init__(self):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(12, 12), nn.LeakyReLU(0.2), nn.Linear(12, 12))
        self.constant = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.register_buffer("noise_const", torch.randn(4, 4))
        self.affine = nn.Linear(12, 8)
        self.rgb = nn.Conv2d(8, 3, 1)

    def synthesis(self, w, noise_mode="random"):
        x = self.constant * self.affine(w)[:, :, None, None]
        drawn = torch.randn(len(w), 1, 4, 4) if noise_mode == "random" else self.noise_const
        return self.rgb(F.interpolate(x + 0.1 * drawn, scale_factor=2))

    def forward(self, z, c=None, truncation_psi=1.0, noise_mode="random"):
        return self.synthesis(truncation_psi * self.mapping(z), noise_mode)


class VQVAE(nn.Module):
    """encode gives (quantised, loss, indices)."""

    def __init__(self):
        super().__init__()
        self._encoder = nn.Conv2d(3, 4, 4, 4)
        self._codebook = nn.Embedding(16, 4)
        self._decoder = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 4), nn.Sigmoid())

    def quantise(self, e):
        flat = e.permute(0, 2, 3, 1).reshape(-1, 4)
        indices = torch.cdist(flat, self._codebook.weight).argmin(1)
        q = self._codebook(indices).view(len(e), *e.shape[2:], 4).permute(0, 3, 1, 2)
        return e + (q - e).detach(), (q - e).square().mean(), indices

    def encode(self, x):
        return self.quantise(self._encoder(x))

    def decode(self, z):
        return self._decoder(z)


class Kullback(nn.Module):
    """As the autoencoders of diffusers answer."""

    def __init__(self):
        super().__init__()
        self.encoder, self.quant_conv = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 1)
        self.decoder = nn.ConvTranspose2d(4, 3, 8, 8)

    def encode(self, x, return_dict=True):
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        dist = SimpleNamespace(mean=mean, std=torch.exp(0.5 * logvar), mode=lambda: mean)
        return SimpleNamespace(latent_dist=dist) if return_dict else (dist,)

    def decode(self, z, return_dict=True):
        return SimpleNamespace(sample=self.decoder(z)) if return_dict else (self.decoder(z),)


class Lightning(nn.Module):
    """Has hyperparameters, and a trainer that is not there."""

    def __init__(self, **hparams):
        super().__init__()
        self.hparams = OrderedDict(latent_dim=6, **hparams)
        self.encoder = nn.Sequential(nn.Linear(28 * 28, 32), nn.ReLU(), nn.Linear(32, 6))
        self.decoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 28 * 28))

    @property
    def trainer(self):
        raise RuntimeError("Lightning is not attached to a `Trainer`.")

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        x = batch[0].view(len(batch[0]), -1)
        return F.mse_loss(self.decoder(self.encoder(x)), x)


class EncDec(nn.Module):
    """Short names, and a forward that goes in and out again."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
        self.dec = nn.Sequential(nn.Linear(8, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, x):
        return self.dec(self.enc(x))


class InPlace(EncDec):
    """Scales its input and rectifies its latent where they are."""

    def encode(self, x):
        return self.enc(x.mul_(2).sub_(1))

    def decode(self, z):
        return self.dec(F.relu(z, inplace=True))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.mid = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.up = nn.ConvTranspose2d(16, 3, 4, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        return self.up(torch.cat([skip, self.mid(skip)], 1))


class SkipUNet(UNet):
    """The same, with its halves as methods."""

    def encode(self, x):
        skip = F.relu(self.down(x))
        return self.mid(skip), skip

    def decode(self, z, skip):
        return self.up(torch.cat([skip, z], 1))


class ClassConditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 64), nn.Tanh())

    def forward(self, z, labels):
        labels = labels.expand(len(z)) if labels.ndim == 0 else labels
        return self.net(torch.cat([z, self.embedding(labels)], 1)).view(-1, 1, 8, 8)


class SequenceVAE(nn.Module):
    """Tokens in, logits (B, T, V) out."""

    def __init__(self):
        super().__init__()
        self.emb, self.enc = nn.Embedding(20, 16), nn.GRU(16, 32, batch_first=True)
        self.mu, self.logvar, self.up = nn.Linear(32, 6), nn.Linear(32, 6), nn.Linear(6, 32)
        self.dec, self.out = nn.GRU(32, 32, batch_first=True), nn.Linear(32, 20)

    def encode(self, tokens):
        _, h = self.enc(self.emb(tokens))
        return self.mu(h[0]), self.logvar(h[0])

    def decode(self, z):
        out, _ = self.dec(self.up(z)[:, None].expand(-1, 12, -1))
        return self.out(out)


class Audio(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 8, 9, 4, 4), nn.ELU(), nn.Conv1d(8, 4, 9, 4, 4))
        self.decoder = nn.Sequential(
            nn.ConvTranspose1d(4, 8, 8, 4, 2),
            nn.ELU(),
            nn.ConvTranspose1d(8, 1, 8, 4, 2),
            nn.Tanh(),
        )


class Voxels(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv3d(1, 2, 4, 4), nn.SiLU())
        self.decoder = nn.Sequential(nn.ConvTranspose3d(2, 1, 4, 4), nn.Sigmoid())


@dataclass
class Output:
    x_recon: torch.Tensor
    aux: torch.Tensor


class Pair(NamedTuple):
    z_mu: torch.Tensor
    z_logvar: torch.Tensor


class Structured(EncDec):
    """Answers in a dataclass and in a named tuple."""

    def encode(self, x):
        h = self.enc(x)
        return Pair(h, -1 - h.square())

    def decode(self, z):
        return Output(self.dec(z), z)


class Unnamed(EncDec):
    def decode(self, z):
        return SimpleNamespace(picture=self.dec(z))


class Sampling(EncDec):
    """Draws from its posterior, and tells nobody its mean."""

    def encode(self, x):
        h = self.enc(x)
        return h + torch.randn_like(h)


class Triple(EncDec):
    def encode(self, x):
        h = self.enc(x)
        return h, h, -h.square()


class AlwaysDropping(EncDec):
    def decode(self, z):
        return F.dropout(self.dec(z), 0.2)


class BatchStatistics(EncDec):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def decode(self, z):
        return self.norm(self.dec(z))


class InAList(nn.Module):
    """Layers in a plain list, which no module knows of."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 16), nn.Linear(16, 64)]

    def forward(self, z):
        for layer in self.layers:
            z = layer(z)
        return z


class TwoNetworks(nn.Module):
    """A whole GAN; the discriminator is nobody's business."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.generator = nn.Sequential(norm(nn.Linear(5, 16)), nn.ReLU(), norm(nn.Linear(16, 12)))
        self.discriminator = nn.Linear(12, 1)


def build(kind, **options):
    torch.manual_seed(0)
    return kind(**options)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is deprecated
        return torch.jit.script(build(EncDec).train())


def with_label():
    return functools.partial(build(ClassConditional), labels=torch.tensor(3))


def conditional_function():
    model = build(ClassConditional)
    return lambda z: model(z, torch.full((len(z),), 3))


def tokens():
    model = build(SequenceVAE)
    return latentctl.wrap(model, encode=lambda x: model.encode(x.argmax(-1)))


def without_quantising():
    model = build(VQVAE)
    return latentctl.wrap((model._encoder, lambda e: model.decode(e)))


def wrapped(make, **options):
    return lambda: latentctl.wrap(make(), **options)


def of(kind):
    return functools.partial(build, kind)


UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)
TAKEN = {  # how, latent shape, sample shape, range of values, whether it encodes
    "example vae": (wrapped(of(ExampleVAE)), (20,), (784,), UNIT, True),
    "dcgan": (wrapped(of(DCGAN)), (16, 1, 1), (3, 16, 16), SIGNED, False),
    "style with its noise held": (
        wrapped(lambda: functools.partial(build(Style), noise_mode="const"), latent_shape=(12,)),
        (12,),
        (3, 8, 8),
        None,
        False,
    ),
    "diffusers": (
        wrapped(of(Kullback), latent_shape=(4, 4, 4)),
        (4, 4, 4),
        (3, 32, 32),
        None,
        True,
    ),
    "lightning": (wrapped(of(Lightning)), (6,), (784,), None, True),
    "enc and dec": (wrapped(of(EncDec)), (8,), (1, 8, 8), UNIT, True),
    "two modules": (
        lambda: latentctl.wrap((build(EncDec).enc, build(EncDec).dec)),
        *((8,), (1, 8, 8), UNIT, True),
    ),
    "in place": (wrapped(of(InPlace)), (8,), (1, 8, 8), UNIT, True),
    "label by partial": (wrapped(with_label, latent_shape=(8,)), (8,), (1, 8, 8), SIGNED, False),
    "label by function": (
        wrapped(conditional_function, latent_shape=(8,)),
        *((8,), (1, 8, 8), SIGNED, False),
    ),
    "tokens": (tokens, (6,), (12, 20), None, True),
    "audio": (wrapped(of(Audio)), (4, 64), (1, 1024), SIGNED, True),
    "audio generator": (wrapped(lambda: build(Audio).decoder), (4, 1), (1, 16), SIGNED, False),
    "voxels": (wrapped(of(Voxels)), (2, 8, 8, 8), (1, 32, 32, 32), UNIT, True),
    "dataclass": (wrapped(of(Structured)), (8,), (1, 8, 8), UNIT, True),
    "vq-vae before its codebook": (without_quantising, (4, 16, 16), (3, 64, 64), UNIT, True),
    "gan": (wrapped(of(TwoNetworks)), (5,), (12,), None, False),
    "torchscript": (wrapped(scripted, latent_shape=(8,)), (8,), (1, 8, 8), UNIT, True),
    "compiled": (
        wrapped(lambda: torch.compile(build(ExampleVAE), backend="eager")),
        *((20,), (784,), UNIT, True),
    ),
    "compiled method": (
        wrapped(lambda: torch.compile(build(ExampleVAE).decode, backend="eager")),
        *((20,), (784,), UNIT, False),
    ),
    "data parallel": (
        wrapped(lambda: nn.DataParallel(build(ExampleVAE))),
        (20,),
        (784,),
        UNIT,
        True,
    ),
    "bfloat16": (wrapped(lambda: build(ExampleVAE).bfloat16()), (20,), (784,), UNIT, True),
    "float16": (wrapped(lambda: build(ExampleVAE).half()), (20,), (784,), UNIT, True),
    "float64": (wrapped(lambda: build(Audio).double()), (4, 64), (1, 1024), SIGNED, True),
}
REFUSED = {  # how, and words of the message
    "whole autoencoder": (
        wrapped(lambda: nn.Sequential(nn.Linear(9, 3), nn.ReLU(), nn.Linear(3, 9))),
        ("whole autoencoder", "latentctl.wrap((encoder, decoder))", 'decode="forward"'),
    ),
    "u-net": (wrapped(of(UNet)), ("skip connections", "cannot be steered", "encode=")),
    "u-net in halves": (
        wrapped(of(SkipUNet)),
        ("missing a required argument: 'skip'", "skip connections", "cannot be steered"),
    ),
    "no label": (wrapped(of(ClassConditional)), ("more than the latent", "decode=lambda z:")),
    "one label": (
        wrapped(
            lambda: functools.partial(build(ClassConditional), labels=torch.tensor([3])),
            latent_shape=(8,),
        ),
        ("one latent is decoded, and 4 are not", "torch.full((len(z),), label)"),
    ),
    "style with drawn noise": (
        wrapped(of(Style), latent_shape=(12,)),
        ("draws random numbers", "noise held fixed"),
    ),
    "vq-vae": (wrapped(of(VQVAE)), ("a tuple of 3", "encode=lambda x: dict(zip(")),
    "triple": (wrapped(of(Triple)), ("a tuple of 3", "('z', 'mean', 'logvar')")),
    "tokens and logits": (wrapped(of(SequenceVAE)), ("whole numbers (tokens)", ".argmax(-1)")),
    "unnamed field": (wrapped(of(Unnamed)), ("with picture", "decode=lambda z: model.decode(z).")),
    "sampling encoder": (wrapped(of(Sampling)), ("twice to different latents", "returns the mean")),
    "functional dropout": (wrapped(of(AlwaysDropping)), ("training=self.training",)),
    "batch statistics": (wrapped(of(BatchStatistics)), ("without running statistics",)),
    "layers in a list": (wrapped(of(InAList), latent_shape=(8,)), ("nn.ModuleList",)),
    "lazy": (wrapped(lambda: nn.LazyLinear(4)), ("Run it once on a batch",)),
    "meta": (wrapped(lambda: nn.Linear(2, 4, device="meta")), ("'meta'", "Load them first")),
    "torchscript": (wrapped(scripted), ("layers do not show it", "Pass latent_shape=")),
}


@pytest.mark.parametrize("name", TAKEN)
def test_it_becomes_a_lawful_decoder(name):
    make, latent_shape, sample_shape, value_range, encodes = TAKEN[name]
    decoder = make()
    assert decoder.latent_shape == latent_shape and decoder.sample_shape == sample_shape
    assert decoder.value_range == value_range and decoder.can_encode == encodes
    check_decoder(decoder)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_sentence_that_says_what_to_do(name):
    make, words = REFUSED[name]
    with pytest.raises(AdapterError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_what_is_asked_for_by_the_sentence_works():
    model = build(Triple)
    decoder = latentctl.wrap(
        model, encode=lambda x: dict(zip(("z", "mean", "logvar"), model.encode(x), strict=True))
    )
    assert decoder.encode(torch.rand(2, 1, 8, 8)).std is not None
    check_decoder(decoder)


def test_nothing_that_is_given_is_changed_in_place():
    decoder = latentctl.wrap(build(InPlace))
    z, x = torch.full((2, 8), -1.0), torch.full((2, 1, 8, 8), 0.5)
    decoder.decode(z)
    decoder.encode(x)
    assert bool((z == -1).all()) and bool((x == 0.5).all())


def test_what_stands_around_a_model_does_not_change_its_fingerprint():
    plain = latentctl.wrap(build(ExampleVAE)).fingerprint()
    for around in (
        nn.DataParallel(build(ExampleVAE)),
        torch.compile(build(ExampleVAE), backend="eager"),
    ):
        assert latentctl.wrap(around).fingerprint() == plain


@pytest.mark.parametrize("label", [torch.tensor(4), 4])
def test_arguments_held_fixed_are_part_of_the_fingerprint(label):
    model = build(ClassConditional)
    decode = functools.partial(lambda z, y: model(z, torch.as_tensor(y)), y=label)
    one = latentctl.wrap(decode, latent_shape=(8,))
    other = functools.partial(decode, y=3 if isinstance(label, int) else torch.tensor(3))
    assert latentctl.wrap(decode, latent_shape=(8,)).fingerprint() == one.fingerprint()
    assert latentctl.wrap(other, latent_shape=(8,)).fingerprint() != one.fingerprint()
    z = torch.randn(2, 8)
    torch.testing.assert_close(one.decode(z), model(z, torch.tensor(4)).detach())


def test_the_line_in_the_log_says_what_was_found(caplog):
    with caplog.at_level(logging.INFO, logger="latentctl_adapters"):
        latentctl.wrap(build(DCGAN).bfloat16())
    (line,) = [record.getMessage() for record in caplog.records]
    for words in ("DCGAN: latent (16, 1, 1)", "[-1, 1]", "no encoder", "bfloat16 on cpu"):
        assert words in line


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["example vae", "dcgan", "tokens"])
def test_on_a_gpu(name):
    kinds = {"example vae": ExampleVAE, "dcgan": DCGAN, "tokens": SequenceVAE}
    model = build(kinds[name]).cuda()
    options = {}
    if name == "tokens":  # cudnn gives recurrent layers no gradient in evaluation mode
        options["encode"] = lambda x: model.encode(x.argmax(-1))
    decoder = latentctl.wrap(model, **options)
    assert decoder.device.type == "cuda"
    check_decoder(decoder)

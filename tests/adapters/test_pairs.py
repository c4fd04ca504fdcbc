"""Two tensors of an encoder, whole numbers, and latents of one to four axes: told or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentctl import wrap
from latentctl.errors import AdapterError
from latentctl.random import seeded


class Pair(nn.Module):
    """An autoencoder of vectors whose encoder returns two tensors."""

    def __init__(self):
        super().__init__()
        with seeded(0):
            self.a, self.b, self.back = nn.Linear(12, 4), nn.Linear(12, 4), nn.Linear(4, 12)

    def encode(self, x):
        return self.a(x), self.b(x)

    def decode(self, z):
        return self.back(z)


class HalfInForward(Pair):
    def forward(self, x):
        m, s = self.encode(x)
        return {"out": self.decode(m + torch.randn_like(m) * (s / 2).exp()), "m": m}


class WholeInForward(Pair):
    def forward(self, x):
        m, s = self.encode(x)
        return self.decode(m + torch.randn_like(m) * s.exp()), m, s


class NamedVariance(Pair):
    def encode(self, x):
        mu, logvar = self.a(x), self.b(x)
        return mu, logvar


class NamedLayer(Pair):
    def __init__(self):
        super().__init__()
        self.fc_logvar = self.b


class NamedStd(Pair):
    def encode(self, x):
        mu, log_std = self.a(x), self.b(x)
        return mu, log_std


class BothNames(Pair):
    def encode(self, x):
        log_std = self.b(x)
        logvar = 2 * log_std
        return self.a(x), logvar


class DrawAndMean(Pair):
    def encode(self, x):
        mean = self.a(x)
        return mean + 0.1 * torch.randn_like(mean), mean


class DrawWithoutNoise(Pair):
    """Of logvar in training mode alone."""

    def encode(self, x):
        mean = self.a(x)
        return mean, mean


class TwoLevels(Pair):
    def decode(self, z):
        return self.back(z.tanh())


class MeanAndStd(Pair):
    def encode(self, x):
        return self.a(x), self.b(x).exp()


@pytest.mark.parametrize(
    "kind, factor",
    [
        (HalfInForward, 0.5),
        (WholeInForward, 1),
        (NamedVariance, 0.5),
        (NamedStd, 1),
        (NamedLayer, 0.5),
    ],
)
def test_the_second_tensor_is_told_by_forward_or_by_its_name(kind, factor):
    model = kind().eval()
    x = torch.rand(5, 12)
    posterior = wrap(model, latent_shape=(4,)).encode(x)
    assert torch.equal(posterior.mean, model.a(x))
    torch.testing.assert_close(posterior.std, (factor * model.b(x)).exp())


@pytest.mark.parametrize(
    "kind", [Pair, BothNames, DrawAndMean, DrawWithoutNoise, TwoLevels, MeanAndStd]
)
def test_two_tensors_that_nothing_tells_apart_are_refused(kind):
    model = kind().eval()
    words = r"not known to be a log-variance.*'mean', 'logvar'.*log_std.*encode\(x\)\[1\]"
    with pytest.raises(AdapterError, match=f"(?s){words}|encodes the same sample twice"):
        wrap(model, latent_shape=(4,))
    x = torch.rand(3, 12)
    said = wrap(model, encode=lambda x: model.encode(x)[1], latent_shape=(4,))
    assert said.encode(x).std is None
    for name, factor in (("logvar", 0.5), ("log_std", 1.0)):
        told = wrap(model, encode=lambda x, key=name: {"mean": model.a(x), key: model.b(x)})
        torch.testing.assert_close(told.encode(x).std, (factor * model.b(x)).exp())


class Codes(nn.Module):
    """Vector quantisation whose latents are the numbers of codes."""

    def __init__(self):
        super().__init__()
        self.down, self.book, self.up = nn.Linear(12, 8), nn.Embedding(16, 4), nn.Linear(8, 12)

    def encode(self, x):
        vectors = self.down(x).view(len(x), 2, 4)
        return torch.cdist(vectors, self.book.weight[None]).argmin(-1)

    def decode(self, codes):
        return self.up(self.book(codes).flatten(1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up = nn.Embedding(16, 4), nn.Linear(4, 16)

    def encode(self, x):
        return self.embed(x).mean(1)

    def decode(self, z):
        return self.up(z)


def test_whole_numbers_get_the_advice_of_their_side():
    with pytest.raises(AdapterError, match="codes of a codebook") as error:
        wrap(Codes().eval())
    assert "argmax(-1)" not in str(error.value)
    with pytest.raises(AdapterError, match=r"It encodes whole numbers \(tokens\)") as error:
        wrap(Tokens().eval())
    assert "codebook" not in str(error.value)


def test_the_error_leads_with_the_attempt_that_came_furthest():
    class Wide(nn.Module):
        """Of all sizes, 48 pixels alone pass the encoder; the decoder gives another size."""

        def __init__(self):
            super().__init__()
            self.down, self.line = nn.Conv2d(3, 2, 4, 4), nn.Linear(2 * 12 * 12, 5)
            self.up = nn.Linear(5, 3 * 40 * 40)

        def encode(self, x):
            return self.line(self.down(x).flatten(1))

        def decode(self, z):
            return self.up(z).view(-1, 3, 40, 40)

    with pytest.raises(AdapterError) as error:
        wrap(Wide().eval(), encode="encode", decode="decode")
    first, *rest = str(error.value).split("Tried:")
    assert "It came furthest with" in first and "(3, 40, 40)" in first
    assert len(rest) == 1


class Cells(nn.Module):
    """Convolutional autoencoders over one and three axes of cells."""

    def __init__(self, axes):
        super().__init__()
        down = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        up = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[axes]
        self.encoder, self.decoder = down(2, 3, 4, 4), up(3, 2, 4, 4)


class Attention(nn.Module):
    """Tokens (T, D) as latents."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.Sequential(nn.Linear(6, 8), layer)
        self.decoder = nn.Linear(8, 6)


@pytest.mark.parametrize(
    "model, latent, sample",
    [
        (lambda: Cells(1), (3, 4), (2, 16)),
        (lambda: Cells(3), (3, 2, 2, 2), (2, 8, 8, 8)),
        (Attention, (5, 8), (5, 6)),
    ],
    ids=["sequence", "volume", "tokens"],
)
def test_latents_with_several_axes_are_wrapped(model, latent, sample):
    decoder = wrap(model().eval(), latent_shape=latent)
    assert (decoder.latent_shape, decoder.sample_shape) == (latent, sample)
    x = torch.rand(3, *sample)
    assert decoder.decode(decoder.encode(x).mean).shape == x.shape

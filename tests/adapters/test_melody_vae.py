"""The melody VAE: shapes, likelihood, decoding, learning, and what it saves."""

from __future__ import annotations

import math

import pytest
import torch
from latentctl_adapters.melody_lstm import START, SYMBOLS
from latentctl_adapters.melody_rewards import HOLD, REST
from latentctl_adapters.melody_vae import MelodyVAE
from torch import nn
from torch.distributions import Normal, kl_divergence

from latentctl.decoder.registry import load, wrap
from latentctl.errors import AdapterError, CheckpointError, InputError, ShapeError
from latentctl.evaluation.laws import check_decoder
from latentctl.random import generator, noise, seeded

SMALL = {"latent_size": 8, "embedding": 6, "encoder_size": 8, "decoder_size": 12}
NETWORKS = {
    "flat": {},
    "two layers": {"decoder_layers": 2, "encoder_layers": 2},
    "hierarchical": {"bars": 4, "conductor_size": 10},
    "as in the paper": {
        "bars": 4,
        "conductor_size": 10,
        "decoder_layers": 2,
        "by_position": False,
    },
    "flat, as in the paper": {"by_position": False},
}
each = pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)


def small(options=None, scale=4.0):
    """An untrained network whose melodies differ: larger weights, and notes as likely as holds."""
    with seeded(0, "melody test"):
        model = MelodyVAE(**{**SMALL, **(options or {})})
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(scale)
    return model.eval()


def tunes(count=16, bars=2):
    """Melodies with a note every two or four steps, whose pitches rise or fall."""
    draws = torch.rand(count, 3, generator=generator(0, purpose="tunes"))
    x = torch.full((count, 16 * bars), HOLD)
    for row, (pitch, slope, gap) in zip(x, draws.tolist(), strict=True):
        every = 2 if gap < 0.5 else 4
        for k, t in enumerate(range(0, len(row), every)):
            row[t] = int(60 + 6 * pitch + (k if slope < 0.5 else -k))
    return x


@each
def test_the_laws_of_decoders_hold(options):
    model = small(options)
    decoder = wrap(model)
    check_decoder(decoder)
    assert decoder.latent_shape == (8,) and decoder.sample_shape == (model.steps,)
    assert decoder.can_encode and not decoder.differentiable
    x = decoder.decode(decoder.prior.sample(40, seed=0))
    assert x.dtype == torch.int64 and x.min() >= 0 and x.max() < SYMBOLS
    assert len(x.unique(dim=0)) > 10, "the latent decides"
    assert decoder.decode(torch.zeros(0, 8)).shape == (0, model.steps)


def by_cells(decoder, z):
    """The same decoder, as `nn.LSTMCell` has it, one segment after the other."""
    lstm, cells = decoder.lstm, []
    for k in range(lstm.num_layers):
        size = lstm.input_size if k == 0 else lstm.hidden_size
        cells.append(nn.LSTMCell(size, lstm.hidden_size))
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cells[k], name).data = getattr(lstm, f"{name}_l{k}").data
    rows = []
    for code in decoder.codes(z):
        start = torch.tanh(decoder.start(code)).view(2, len(cells), -1)
        states = [(start[0, k], start[1, k]) for k in range(len(cells))]
        inputs = decoder.code(code).view(-1, decoder.embedding.embedding_dim)
        token, row = torch.tensor(START), []
        for t in range(decoder.length):
            seen = inputs[t if decoder.by_position else 0]
            x = torch.cat([decoder.embedding(token), seen])
            for k, cell in enumerate(cells):
                states[k] = cell(x, states[k])
                x = states[k][0]
            token = decoder.head(torch.cat([x, seen]) if decoder.by_position else x).argmax()
            row.append(token)
        rows.append(torch.stack(row))
    return torch.stack(rows).view(len(z), -1)


@each
@torch.no_grad()
def test_decoding_is_the_loop_of_cells_and_the_argmax_of_the_likelihood(options):
    model, z = small(options), noise(0, 6, (8,), seed=1)
    x = model.decode(z)
    assert torch.equal(x, by_cells(model.decoder, z))
    assert torch.equal(x, model.logits(x, z).argmax(2)), "told what it wrote, it writes it again"
    assert not torch.equal(x, model.decode(z.flip(0)))


@each
@torch.no_grad()
def test_the_likelihood_is_that_of_the_tokens_one_by_one(options):
    model, z = small(options, scale=1.0), noise(0, 3, (8,), seed=1)
    x = tunes(3, model.config["bars"])
    expected = model.logits(x, z).log_softmax(2).gather(2, x.unsqueeze(2)).sum((1, 2))
    torch.testing.assert_close(model.log_prob(x, z), expected)
    last = x.clone()
    last[:, -1] = REST
    assert torch.equal(model.logits(last, z), model.logits(x, z)), "no token sees itself"
    later = x.clone()
    later[:, 3] = 90
    changed = (model.logits(later, z) != model.logits(x, z)).any(2).any(0)
    assert not changed[:4].any() and changed[4]
    # a segment starts anew, so that all can be written at once
    assert not changed[model.decoder.length :].any()


def test_more_rows_than_are_decoded_at_a_time(monkeypatch):
    model, z = small({"bars": 4, "conductor_size": 10}), noise(0, 9, (8,), seed=0)
    whole = model.decode(z), model.sample(z, seed=3)
    monkeypatch.setattr("latentctl_adapters.melody_lstm.ROWS", 10)  # cuts melodies into pieces
    assert torch.equal(whole[0], model.decode(z)) and torch.equal(whole[1], model.sample(z, seed=3))


@each
def test_samples_are_seeded_one_by_one(options):
    model, z = small(options, scale=2.0), noise(0, 20, (8,), seed=0)
    x = model.sample(z, seed=5)
    assert torch.equal(x, model.sample(z, seed=5))
    assert torch.equal(x[7:12], model.sample(z[7:12], seed=5, start=7))
    assert not torch.equal(x, model.sample(z, seed=6))
    assert not torch.equal(x[7:12], model.sample(z[7:12], seed=5)), "other places, other draws"
    assert torch.equal(model.sample(z, temperature=1e-8, seed=5), model.decode(z))


@torch.no_grad()
def test_samples_follow_the_model():
    model = small(scale=1.0)
    z = noise(0, 1, (8,), seed=0).expand(6_000, 8)
    for temperature in (1.0, 0.3):
        first = model.sample(z, temperature=temperature, seed=1)[:, 0]
        logits = model.logits(torch.zeros(1, 32, dtype=torch.long), z[:1])[0, 0]
        expected = (logits / temperature).softmax(0)
        found = torch.bincount(first, minlength=SYMBOLS) / len(z)
        assert (found - expected).abs().max() < 5 * math.sqrt(expected.max() / len(z))


def test_temperatures_that_are_none_are_refused():
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="temperature"):
            small().sample(torch.zeros(1, 8), temperature=wrong)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 31, dtype=torch.long), r"\(B, 32\).*2 bars.*\(2, 31\)"),
        (torch.zeros(2, 256, dtype=torch.long), r"\(B, 32\)"),
        (torch.full((2, 32), 130), "found 130 to 130"),
        (torch.full((2, 32), -1), "found -1"),
        (torch.zeros(2, 32), "integer tokens, not torch.float32"),
        (torch.zeros(2, 32, dtype=torch.bool), "integer tokens"),
    ],
)
def test_what_is_no_melody_is_refused(x, words):
    model = small()
    with pytest.raises(InputError, match=words):
        model.encode(x)
    with pytest.raises(InputError, match=words):
        model.log_prob(x, torch.zeros(2, 8))
    with pytest.raises(InputError, match=r"\(B, 32\)" if x.shape[1] != 32 else words):
        wrap(model).encode(x)
    if x.shape[1] != 32:
        with pytest.raises(ShapeError):
            wrap(model).encode(x)


def test_integers_of_every_size_are_melodies():
    model, x = small(), tunes()
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(model.encode(x.to(dtype)).mean, model.encode(x).mean)


def test_sizes_that_cannot_be_are_refused():
    for wrong in ({"bars": 0}, {"latent_size": 0}, {"decoder_layers": 0}, {"conductor_size": -1}):
        with pytest.raises(InputError, match="at least 1"):
            small(wrong)


def test_the_paper_size():
    with torch.device("meta"):
        model = MelodyVAE.paper()
    assert (model.steps, model.config["latent_size"]) == (256, 512)
    assert model.encoder.lstm.hidden_size == 2048 and model.encoder.lstm.bidirectional
    for lstm in (model.decoder.conductor, model.decoder.lstm):
        assert (lstm.hidden_size, lstm.num_layers) == (1024, 2)
    assert (model.decoder.segments, model.decoder.length) == (16, 16)


@each
def test_the_loss_is_the_bound_in_nats(options):
    model = small(options, scale=1.0)
    x, eps = tunes(5, model.config["bars"]), noise(0, 5, (8,), seed=0)
    loss, parts = model.loss(x, eps, beta=0.5)
    q = model.encode(x)
    kl = kl_divergence(q, Normal(torch.zeros(8), 1.0)).sum(1)
    expected = -model.log_prob(x, q.mean + q.stddev * eps).mean()
    torch.testing.assert_close(loss, expected + 0.5 * kl.mean())
    torch.testing.assert_close(parts["kl"], kl.mean().detach())
    assert not any(part.requires_grad for part in parts.values())
    free = kl.mean().item() / math.log(2) / 2
    some = model.loss(x, eps, free_bits=free)[0]
    torch.testing.assert_close(some, expected + (kl - free * math.log(2)).clamp(min=0).mean())
    torch.testing.assert_close(model.loss(x, eps, free_bits=1e4)[0], expected)


@torch.no_grad()
def test_dropped_tokens_are_not_told():
    model, x, z = small(), tunes(4), noise(0, 4, (8,), seed=0)
    keep = torch.ones(4, 32, dtype=torch.bool)
    keep[:, 5] = False
    other = x.clone()
    other[:, 5] = 80
    assert not torch.equal(model.logits(x, z), model.logits(other, z))
    assert torch.equal(model.logits(x, z, keep), model.logits(other, z, keep))
    assert torch.equal(model.logits(x, z, torch.ones_like(keep)), model.logits(x, z))


@pytest.mark.parametrize("options", [{}, {"bars": 4, "conductor_size": 16}])
def test_it_learns(options):
    with seeded(0):
        model = MelodyVAE(**{**SMALL, "decoder_size": 32, "encoder_size": 24, **options})
    x = tunes(32, model.config["bars"])
    before = (model(x) == x).float().mean()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(110):
        loss, _ = model.loss(x, noise(0, 32, (8,), seed=0, step=step), beta=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = (model(x) == x).float().mean()
    guess = (x == HOLD).float().mean()
    assert after > 0.85 and after > guess + 0.1 and before < guess + 0.1


@each
def test_what_is_saved_comes_back_bit_for_bit(options, tmp_path):
    model = small(options)
    model.save_pretrained(tmp_path)
    again = MelodyVAE.from_pretrained(tmp_path)
    state = model.state_dict()
    assert again.config == model.config and not again.training
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    decoder = load("melody-vae", pretrained_model_name_or_path=tmp_path)
    assert decoder.fingerprint() == wrap(model).fingerprint() and decoder.name == "MelodyVAE"
    z = decoder.prior.sample(3, seed=0)
    assert torch.equal(decoder.decode(z), model.decode(z))


def test_another_network_is_refused(tmp_path):
    small().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds MelodyVAE, not a ConvAE"):
        load("conv-vae", pretrained_model_name_or_path=tmp_path)


def test_options_reach_the_decoder():
    from latentctl.decoder import Gaussian

    model, prior = small(), Gaussian((8,), std=2.0)
    assert wrap(model, prior=prior).prior is prior
    sampled = wrap(model, decode=lambda z: model.sample(z, seed=1))
    z = sampled.prior.sample(4, seed=0)
    assert torch.equal(sampled.decode(z), model.sample(z, seed=1))
    assert not torch.equal(sampled.decode(z), wrap(model).decode(z))
    with pytest.raises(AdapterError, match="not latent_shape"):
        wrap(model, latent_shape=(9,))


def test_a_flow_can_be_its_prior():
    from latentctl import LatentFlow

    decoder = wrap(small())
    with seeded(0):
        through = decoder.through(LatentFlow((8,), width=8))
    assert not through.differentiable
    x = through.decode(through.prior.sample(3, seed=0))
    assert x.shape == (3, 32) and x.dtype == torch.int64
    assert through.encode(x).mean.shape == (3, 8)

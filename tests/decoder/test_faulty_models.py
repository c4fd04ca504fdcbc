"""Models that give NaN, lose rows or axes, or negative spreads: nothing is taken in silence."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import NAMES, STD, ToyVAE, toy_decoder
from torch import nn

from latentctl import AttributeCritic, Latents, condition, wrap
from latentctl.controllers import Ascent
from latentctl.controllers.cgml import complete
from latentctl.decoder import Decoder, Posterior, encode_dataset, invert
from latentctl.errors import AdapterError, InputError, LatentctlError, LawError, NonFiniteError
from latentctl.evaluation.laws import check_decoder
from latentctl.random import seeded

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))


def spoilt(value):
    """Puts a value that is not finite into one place."""

    def fault(x, rng):
        x = x.clone()
        flat = x.view(len(x), -1)
        flat[rng.integers(len(x)), rng.integers(flat.shape[1])] = value
        return x

    return fault


FAULTS = {
    "NaN": spoilt(torch.nan),
    "infinity": spoilt(torch.inf),
    "minus infinity": spoilt(-torch.inf),
    "half overflow": lambda x, rng: (x * 1e6).half(),
    "last row lost": lambda x, rng: x[:-1],
    "one row alone": lambda x, rng: x[:1] if len(x) > 1 else x[:0],
    "a row too many": lambda x, rng: torch.cat([x, x[:1]]),
    "no batch axis": lambda x, rng: x[0],
    "axes swapped": lambda x, rng: x.movedim(0, -1),
    "one more axis": lambda x, rng: x[..., None],
    "mean of the batch": lambda x, rng: x.mean(),
}


class Faulty(nn.Module):
    """A ToyVAE with a fault in one of its outputs."""

    def __init__(self, place, fault, seed):
        super().__init__()
        self.toy, self.place, self.fault, self.seed = ToyVAE(), place, fault, seed

    def spoil(self, place, x):
        rng = np.random.default_rng(self.seed)
        return FAULTS[self.fault](x, rng) if place == self.place else x

    def decode(self, z):
        return self.spoil("samples", self.toy.decode(z))

    def encode(self, x):
        found = self.toy.encode(x)
        return Posterior(self.spoil("mean", found.mean), self.spoil("std", found.std.clone()))


def users(decoder, x):
    """What a user calls, with what was encoded or decoded in each."""
    critic = AttributeCritic((8,), NAMES, width=8, depth=1)
    faces = condition(decoder, critic, Ascent(critic, steps=1))
    z = torch.zeros(len(x), 8)
    yield {"samples"}, lambda: decoder.decode(z)
    yield {"samples"}, lambda: decoder.decode(z, batch_size=2)
    yield {"samples"}, lambda: faces.sample(len(x), Smiling=True)
    yield {"mean", "std"}, lambda: decoder.encode(x)
    yield {"mean", "std"}, lambda: decoder.encode(x, batch_size=2)
    yield {"mean", "std", "samples"}, lambda: faces.edit(x, Smiling=True)
    yield {"mean", "std"}, lambda: faces.score(x)
    yield {"mean", "std", "samples"}, lambda: check_decoder(decoder)


def test_no_faulty_output_is_taken():
    rng, tried = np.random.default_rng(SEED), Counter()
    for place in ("samples", "mean", "std"):
        for fault in FAULTS:
            for count in rng.choice(np.arange(1, 8), 2, replace=False):  # not 8, a latent's size
                decoder = toy_decoder(Faulty(place, fault, int(rng.integers(1000))).eval())
                for places, call in users(decoder, torch.rand(int(count), 3, 4, 4)):
                    if place in places:
                        with pytest.raises(LatentctlError):
                            call()
                        tried[place] += 1
    print(f"{tried.total()} faulty outputs, 0 taken in silence, 0 raw errors: {dict(tried)}")
    assert tried.total() == 330


@pytest.mark.parametrize("squeeze", ["decode", "encode"])
def test_a_batch_of_one_that_loses_its_axis_is_found_by_the_trial(squeeze):
    class Squeezing(ToyVAE):
        def decode(self, z):
            x = super().decode(z)
            return x.squeeze(0) if squeeze == "decode" else x

        def encode(self, x):
            mean = super().encode(x).mean
            return Posterior(mean.squeeze(0) if squeeze == "encode" else mean)

    with pytest.raises(AdapterError, match="squeeze"):
        wrap(Squeezing().eval(), latent_shape=(8,))
    with pytest.raises(LawError, match="squeeze"):
        check_decoder(toy_decoder(Squeezing()))


def test_a_decoder_that_drops_rows_of_some_batches_is_found():
    class Even(ToyVAE):
        def decode(self, z):
            return super().decode(z[: len(z) // 2 * 2])

    with pytest.raises(AdapterError):
        wrap(Even().eval(), latent_shape=(8,))
    with pytest.raises(LawError, match="decoded 1 latents into"):
        check_decoder(toy_decoder(Even()))


def test_the_rows_of_half_precision_overflow_are_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1e4, dtype=torch.float16))

    decoder = Decoder(
        Half(),
        lambda m, z: z * m.scale,
        lambda m, x: Posterior(x * m.scale),
        latent_shape=(2,),
        sample_shape=(2,),
        value_range=None,
    )
    values = torch.tensor([[1.0, 1.0], [1.0, 100.0]])
    for call in (decoder.decode, decoder.encode):
        with pytest.raises(
            NonFiniteError, match=r"1 of 2 rows, the first \[1\].*bfloat16"
        ) as error:
            call(values)
        assert error.value.rows == (1,)
    assert decoder.encode(values[:1]).mean.shape == (1, 2)


def test_large_numbers_are_finite():
    decoder = Decoder(
        nn.Identity(), lambda m, z: z, latent_shape=(4,), sample_shape=(4,), value_range=None
    )
    big = torch.full((2, 4), 3e38)
    assert torch.equal(decoder.decode(big), big)
    assert decoder.decode(big[:0]).shape == (0, 4)


def test_negative_spreads_are_not_cached(tmp_path):
    class LogStd(ToyVAE):
        def encode(self, x):
            mean = super().encode(x).mean
            return Posterior(mean, STD.log().expand_as(mean))

    with pytest.raises(AdapterError, match=r"below 0.*log"):
        encode_dataset(toy_decoder(LogStd()), torch.rand(5, 3, 4, 4), tmp_path, progress=False)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(InputError, match="must not be negative"):
        Latents(torch.zeros(2, 8), -torch.ones(2, 8))


def test_samples_without_an_encoding_are_skipped_alone(tmp_path):
    class Sometimes(ToyVAE):
        def encode(self, x):
            found = super().encode(x)
            mean = found.mean.masked_fill((x[:, 0, 0, 0] > 0.9)[:, None], torch.nan)
            return Posterior(mean, found.std)

    with seeded(SEED):
        x = 0.8 * torch.rand(20, 3, 4, 4)
    x[[2, 3, 7, 12, 13, 14, 15]] = 0.95
    options = {"batch_size": 4, "on_bad_sample": "skip", "progress": False}
    latents = encode_dataset(toy_decoder(Sometimes()), x, tmp_path, **options)
    assert latents.index.tolist() == [0, 1, 4, 5, 6, 8, 9, 10, 11, 16, 17, 18, 19]
    with pytest.raises(InputError, match=r"Sample 2 .*not finite"):
        encode_dataset(toy_decoder(Sometimes()), x, tmp_path / "other", progress=False)


@pytest.mark.parametrize("sigma", [0.0, -1.0, torch.nan, torch.inf, "small"])
def test_a_sigma_that_is_not_positive_is_refused(decoder, sigma):
    x = torch.rand(1, 3, 4, 4)
    mask = torch.arange(4) < 2
    with pytest.raises(InputError, match="sigma must be a number above 0"):
        complete(decoder, x, mask, sigma=sigma)
    with pytest.raises(InputError, match="sigma must be a number above 0"):
        invert(decoder, x, sigma=sigma)


def test_what_is_not_finite_is_not_satisfied(decoder):
    """A decoder may hide it, as one that rounds or clamps does."""
    hiding = Decoder(
        ToyVAE(),
        lambda m, z: m.decode(z.nan_to_num()),
        latent_shape=(8,),
        sample_shape=(3, 4, 4),
    )

    class Broken(Ascent):
        def move(self, z, request):
            moved = super().move(z, request)
            moved.z[0, 3] = torch.nan
            return moved

    critic = AttributeCritic((8,), NAMES, width=8, depth=1)
    critic.forward = lambda z: torch.full((len(z), 3), 9.0)
    out = condition(hiding, critic, Broken(critic, steps=1)).sample(3, Smiling=True)
    assert out.satisfied.tolist() == [False, True, True]

"""A real pretrained autoencoder that nobody here trained, as a foreign module."""

from __future__ import annotations

import os

import pytest
import torch

import benchmarks.edits.taef2_model as taef2
from latentctl.evaluation.laws import check_decoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(
        "LATENTCTL_DATA" not in os.environ,
        reason="LATENTCTL_DATA is not set: real faces and the pretrained weights are needed",
    ),
]


@pytest.fixture(scope="module")
def decoder():
    return taef2.wrap_taef2()


def test_it_is_wrapped_as_the_foreign_module_it_is(decoder):
    assert decoder.latent_shape == (32, 8, 8) and decoder.sample_shape == (3, 64, 64)
    assert decoder.value_range == (0.0, 1.0) and decoder.differentiable
    assert decoder.encode(taef2.faces(2)).std is None
    check_decoder(decoder)


def test_real_faces_come_back(decoder):
    x = taef2.faces(30)
    found = taef2.psnr(taef2.reconstruct(decoder, x), x)
    assert abs(found - 28.1) < 0.8, f"{found:.2f} dB"


@torch.no_grad()
def test_enlarged_faces_come_back_better():
    model, x = taef2.load_taef2().eval(), taef2.faces(6, 128)
    z = model.encode(x)
    assert z.shape == (6, 32, 16, 16)
    found = taef2.psnr(model.decode(z), x)
    assert abs(found - 35.2) < 0.8, f"{found:.2f} dB"


def test_another_latent_gives_another_face(decoder):
    x = taef2.faces(4)
    swapped = decoder.decode(decoder.encode(x).mean.flip(0))
    assert taef2.psnr(swapped, x) < 15

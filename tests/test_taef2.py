"""A real pretrained autoencoder that nobody here trained, as a foreign module."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from latentctl.testing import check_decoder

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import taef2

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "LATENTCTL_DATA" not in os.environ,
        reason="LATENTCTL_DATA is not set: real faces and the pretrained weights are needed",
    ),
]


def test_it_is_wrapped_as_the_foreign_module_it_is():
    decoder = taef2.wrap_taef2()
    assert decoder.latent_shape == (32, 8, 8) and decoder.sample_shape == (3, 64, 64)
    assert decoder.value_range == (0.0, 1.0) and decoder.differentiable
    assert decoder.encode(taef2.faces(2)).std is None
    check_decoder(decoder)


@pytest.mark.parametrize(("side", "count", "expected"), [(64, 30, 28.1), (128, 6, 35.2)])
def test_real_faces_come_back(side, count, expected):
    decoder, x = taef2.wrap_taef2(side), taef2.faces(count, side)
    assert decoder.latent_shape == (32, side // 8, side // 8)
    found = taef2.psnr(decoder, x)
    assert abs(found - expected) < 0.8, f"{found:.2f} dB"


def test_another_latent_gives_another_face():
    decoder, x = taef2.wrap_taef2(), taef2.faces(4)
    swapped = decoder.decode(decoder.encode(x).mean.flip(0))
    error = (swapped - x).square().mean()
    assert -10 * torch.log10(error) < 15

"""Pictures: the grid, and its PNG file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from latentctl import Ascent, AttributeCritic, condition
from latentctl.decoder import Decoder
from latentctl.display.picture import grid, png
from latentctl.errors import InputError
from latentctl.random import noise


def read(data):
    with Image.open(io.BytesIO(data)) as file:
        assert (file.format, file.mode) == ("PNG", "RGB")
        return torch.from_numpy(np.array(file))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 3)])
def test_a_png_gives_back_every_byte(shape):
    picture = (noise(0, 1, (*shape, 3), seed=0, uniform=True)[0] * 255).byte()
    assert torch.equal(read(png(picture)), picture)


def test_a_png_of_a_view():
    picture = (noise(0, 1, (3, 6, 4), seed=0, uniform=True)[0] * 255).byte().permute(1, 2, 0)
    assert torch.equal(read(png(picture)), picture)


def test_every_sample_is_where_it_belongs():
    x = torch.arange(5).view(5, 1, 1, 1) / 5 * torch.ones(5, 3, 2, 3)
    picture = grid(x, columns=2, margin=1)
    assert picture.shape == (3 * 3 + 1, 2 * 4 + 1, 3) and picture.dtype == torch.uint8
    for i in range(5):
        top, left = 1 + i // 2 * 3, 1 + i % 2 * 4
        tile = picture[top : top + 2, left : left + 3]
        assert (tile == round(i / 5 * 255)).all()
    assert (picture[0] == 255).all() and (picture[:, 0] == 255).all() and (picture[3] == 255).all()
    assert (picture[7:9, 5:] == 255).all(), "the place that is left over is white"


def test_channels_keep_their_order_and_grey_becomes_rgb():
    red = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1)
    assert grid(red, margin=0)[0, 0].tolist() == [255, 0, 128]
    assert grid(torch.full((1, 1, 1, 1), 0.2), margin=0)[0, 0].tolist() == [51, 51, 51]


def test_values_are_scaled_from_their_range_and_clipped():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 9.0]).view(1, 1, 1, 5)
    assert grid(x, value_range=(-1, 1), margin=0)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert grid(x, margin=0)[0, :, 0].tolist() == [0, 0, 0, 255, 255]


@pytest.mark.parametrize("value_range", [None, (-torch.inf, torch.inf)])
def test_without_a_range_the_samples_own_extremes_are_used(value_range):
    x = torch.tensor([-4.0, 0.0, 6.0]).view(1, 1, 1, 3)
    assert grid(x, value_range=value_range, margin=0)[0, :, 0].tolist() == [0, 102, 255]
    flat = grid(torch.full((1, 1, 2, 2), 7.0), value_range=value_range, margin=0)
    assert (flat == 0).all()


def test_the_grid_is_as_square_as_it_gets():
    assert grid(torch.zeros(16, 3, 4, 4), margin=0).shape == (16, 16, 3)
    assert grid(torch.zeros(1, 3, 4, 4), margin=0).shape == (4, 4, 3)
    assert grid(torch.zeros(3, 3, 4, 4), columns=9, margin=0).shape == (4, 36, 3)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 4, 4), (3, 4, 4), (0, 3, 4, 4)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(InputError, match=r"needs images \(B, 1, h, w\) or \(B, 3, h, w\)"):
        grid(torch.zeros(shape))


def test_a_latent_that_needs_a_gradient_can_be_looked_at():
    assert grid(torch.zeros(1, 3, 2, 2, requires_grad=True)).shape == (6, 6, 3)


def test_an_outcome_saves_its_pictures(decoder, tmp_path):
    critic = AttributeCritic((8,), ["Smiling"], width=8)
    out = condition(decoder, critic, Ascent(critic, steps=3)).sample(6, Smiling=True)
    path = out.save(tmp_path / "new" / "samples.png", columns=3)
    assert path == tmp_path / "new" / "samples.png"
    assert torch.equal(read(path.read_bytes()), grid(out.x, columns=3))


def test_samples_that_are_no_images_have_no_picture(tmp_path):
    decoder = Decoder(
        torch.nn.Linear(4, 80),
        lambda m, z: m(z).view(-1, 5, 4, 4),
        latent_shape=(4,),
        sample_shape=(5, 4, 4),
        value_range=None,
    )
    out = condition(decoder, AttributeCritic((4,), ["Loud"], width=8)).sample(2)
    with pytest.raises(InputError, match="cannot be shown"):
        out.save(tmp_path / "new" / "samples.png")
    assert not (tmp_path / "new").exists()

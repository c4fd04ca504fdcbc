"""A probability that is asked for is what the evaluator sees."""

import pytest
import torch
from conftest import ToyVAE
from torch import nn

from latentctl import Latents, PixelCritic, condition
from latentctl.conditional import verify


class Seen(nn.Module):
    """Log-odds that the critic knows only in part, with a scale of its own."""

    def forward(self, x):
        z = ToyVAE().encode(x).mean
        return torch.stack([2 * z[:, 0] + z[:, 4] / 2, z[:, 1] - 0.5, z[:, 0] + z[:, 2]], 1)


@pytest.fixture
def faces(decoder, critic):
    return condition(decoder, critic, evaluator=PixelCritic(decoder, Seen(), names=critic.names))


def test_smiling_07_means_that_the_evaluator_says_07(faces, held_out):
    latents = Latents(held_out.mean[:60])
    before = faces.evaluator.score(latents.mean).sigmoid()[:, 0]
    errors, seen = [], []
    for wanted in (0.1, 0.3, 0.5, 0.7, 0.9):
        out = faces.edit(latents, Smiling=wanted)
        error = (out.probability[:, 0] - wanted).abs()
        assert torch.equal(out.satisfied, error <= 0.05 + 1e-6)
        errors.append(error), seen.append(out.probability[:, 0])
        still = (before - wanted).abs() <= 0.05
        assert torch.equal(out.z[still], out.start[still])
    assert torch.cat(errors).median() < 0.02
    reached = torch.stack(errors).amax(0) <= 0.05
    assert reached.float().mean() > 0.3  # the extremes are beyond many moves
    assert (torch.stack(seen)[:, reached].diff(dim=0) > 0).all(), "more is more in every sample"


def test_other_requests_are_left_to_the_controller(faces, decoder, critic, held_out):
    latents = Latents(held_out.mean[:8])
    plain = condition(decoder, critic, threshold=0.95)
    for request in ({"Smiling": True}, {"Smiling": 0.6, "Male": True}):
        moved = faces.edit(latents, **request)
        same = moved.evaluations > 0
        expected = plain.edit(latents, **request)
        same &= expected.evaluations > 0
        torch.testing.assert_close(moved.z[same], expected.z[same])
    half = faces.edit(latents, Smiling=0.8, strength=0.5)
    whole = faces.edit(latents, Smiling=0.8)
    torch.testing.assert_close(half.z, (whole.z + whole.start) / 2, rtol=0, atol=1e-4)


def test_a_dose_is_made_again_from_its_receipt(faces, decoder, held_out, tmp_path):
    out = faces.edit(decoder.decode(held_out.mean[:4]), Smiling=0.7)
    assert verify(out.save(tmp_path / "dose.png"), faces).intact

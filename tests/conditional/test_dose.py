"""A probability that is asked for is what the evaluator sees."""

import pytest
import torch
from conftest import ToyVAE
from torch import nn

from latentctl import Latents, PixelCritic, condition
from latentctl.conditional import verify
from latentctl.conditional.dose import dosed


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


@pytest.mark.parametrize("steep", [1.0, 30.0])
def test_a_dose_takes_few_evaluations_of_the_evaluator(decoder, steep):
    """Also where the log-odds rise from -3 to 3 on a small part of the way."""
    seen = []

    def network(x):
        share = ToyVAE().encode(x).mean[:, :1]
        seen.append(len(x))
        return 3 * torch.tanh(steep * (share - 0.3)) / torch.tanh(torch.tensor(steep))

    evaluator = PixelCritic(decoder, network, names=["Smiling"])
    z, moved = torch.zeros(7, 8), torch.zeros(7, 8)
    moved[:, 0] = 1
    target = torch.linspace(0.3, 0.9, 7)[:, None]
    before = evaluator.score(z).sigmoid()
    seen.clear()
    found = dosed(z, moved, target, before, evaluator, 1.0, 0.95)
    assert (evaluator.score(found).sigmoid() - target).abs().max() <= 0.01 + 1e-4
    assert sum(seen[:-1]) <= 8 * len(z)  # the last one is that of this test


def test_a_move_that_does_not_reach_the_dose_goes_no_further(decoder):
    evaluator = PixelCritic(decoder, lambda x: ToyVAE().encode(x).mean[:, :1], names=["Smiling"])
    z = torch.zeros(2, 8)
    moved = z.clone()
    moved[:, 0] = torch.tensor([0.5, -0.5])  # too short, and the wrong way
    before = evaluator.score(z).sigmoid()
    target = torch.full((2, 1), 0.9)
    found = dosed(z, moved, target, before, evaluator, 1.0, 0.95)
    assert torch.equal(found, torch.stack([moved[0], z[1]]))


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

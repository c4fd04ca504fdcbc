"""The threshold of an evaluator, and who judged a result."""

import json

import pytest
import torch
from conftest import ToyVAE
from torch import nn

from latentctl import FlowMatching, Latents, PixelCritic, condition
from latentctl.conditional.threshold import choose_threshold, least_threshold
from latentctl.errors import InputError
from latentctl.random import generator, noise


def test_what_is_accepted_is_right_at_the_rate():
    """Verdicts that are drawn from calibrated probabilities, of several spreads."""
    draw = generator(0)
    for power in (0.3, 1.0, 3.0):
        probability = torch.rand(200_000, generator=draw) ** power
        right = torch.rand(200_000, generator=draw) < probability
        for rate in (0.8, 0.9, 0.95):
            threshold = least_threshold(probability, rate)
            accepted = probability >= threshold
            assert right[accepted].float().mean() > rate - 0.01
            assert threshold == 0.5 or right[accepted].float().mean() < rate + 0.01
    assert least_threshold(torch.full((500,), 0.7), 0.9) is None
    assert least_threshold(torch.ones(5), 0.9) is None
    assert least_threshold(torch.ones(500), 0.9) == 0.5
    assert least_threshold(torch.tensor([0.01, 0.99]).repeat(50), 0.9) == 0.5


class Seen(nn.Module):
    """The true log-odds of what the toy decodes, with some noise of the attributes."""

    def forward(self, x):
        z = ToyVAE().encode(x).mean
        return 3 * torch.stack([z[:, 0], z[:, 1], z[:, 0] + z[:, 2]], 1) + z[:, 4:7]


@pytest.fixture
def evaluator(decoder, critic):
    return PixelCritic(decoder, Seen(), names=critic.names)


def test_a_threshold_is_chosen_on_edits_and_used(decoder, critic, evaluator, held_out, tmp_path):
    faces = condition(decoder, critic, evaluator=evaluator)
    assert faces.threshold == 0.8
    evaluator.threshold = choose_threshold(faces, Latents(held_out.mean[:100]), rate=0.9)
    assert 0.5 <= evaluator.threshold <= 0.95
    chosen = condition(decoder, critic, evaluator=evaluator)
    assert chosen.threshold == evaluator.threshold
    assert condition(decoder, critic, evaluator=evaluator, threshold=0.7).threshold == 0.7
    again = type(faces).from_pretrained(
        chosen.save_pretrained(tmp_path / "pack"), decoder, evaluator=evaluator
    )
    assert again.threshold == evaluator.threshold
    with pytest.raises(InputError, match="is for an evaluator"):
        choose_threshold(condition(decoder, critic), held_out)
    with pytest.raises(InputError, match="rate is a share"):
        choose_threshold(faces, held_out, rate=1.0)


def test_a_result_says_who_judged_it(decoder, critic, evaluator, tmp_path):
    photos = decoder.decode(noise(0, 3, (8,), seed=0))
    plain, judged = condition(decoder, critic), condition(decoder, critic, evaluator=evaluator)
    claim = plain.edit(photos, Smiling=True)
    assert "claimed by the critic that was climbed" in repr(claim)
    assert "claimed by the critic that was climbed" in claim._repr_html_()
    assert claim.receipts()[0]["judged_by"] == "the critic that was climbed"
    saved = json.loads(claim.save(tmp_path / "a.png").with_suffix(".png.json").read_text())
    assert saved["samples"][0]["judged_by"] == "the critic that was climbed"
    out = judged.edit(photos, Smiling=True)
    assert "judged by the evaluator" in repr(out) and out[0].judged_by == "the evaluator"
    assert "claimed" not in out._repr_html_()
    flow = FlowMatching((8,), critic.names, width=8, steps=1)
    sample = condition(decoder, critic, flow).sample(2, Smiling=True)
    assert "claimed by the critic, no evaluator" in repr(sample)

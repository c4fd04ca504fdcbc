"""The response of attributes to the strength of an edit."""

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from torch import nn

from latentctl import Conditional, Latents, PixelCritic, condition
from latentctl.errors import InputError
from latentctl.evaluation import dose_response


class Seen(nn.Module):
    def forward(self, x):
        z = ToyVAE().encode(x).mean
        return 3 * torch.stack([z[:, 0], z[:, 1], z[:, 0] + z[:, 2]], 1)


def test_responses_rise_and_the_strength_that_breaks_pictures_is_found(critic, held_out, tmp_path):
    class Clipped(ToyVAE):
        """Pictures of limited contrast: what is further out comes back nearer."""

        def decode(self, z):
            return super().decode(3 * torch.tanh(z / 3))

    decoder = toy_decoder(Clipped())
    evaluator = PixelCritic(decoder, Seen(), names=critic.names)
    faces = condition(decoder, critic, evaluator=evaluator)
    latents = Latents(held_out.mean[:60])
    found = dose_response(faces, latents, strengths=(0, 0.5, 1, 8))
    assert [one.name for one in found] == list(critic.names)
    for one in found:
        assert one.response[0] < 0.5 < one.response[2] and one.others[0] == 0
        assert list(one.response[:3]) == sorted(one.response[:3])
        assert 0.5 < one.reach <= 1 and one.selectivity > 1.5
        assert one.breaks_at == 8
    faces.doses = found
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert [one.name for one in again.doses] == list(critic.names)
    assert again.doses[0].response == pytest.approx(found[0].response)
    assert again.doses[0].breaks_at == 8 and again.doses[0].strengths == (0, 0.5, 1, 8)
    assert again.fingerprint() == faces.fingerprint(), "measurements change no picture"
    assert "reach at strength 1" in repr(again)
    card = again.model_card("me/faces").text
    assert "selectivity" in card and "at 0.5" in card and "strengths\n0, 0.5, 1, 8" in card
    left = Latents(held_out.mean, labels=held_out.labels[:, :1], names=["Left"])
    again.add("Left", left, max_train_steps=3)
    assert again.doses == (), "they were measured without the new attribute"
    assert "█" in card and "Not measured" not in card
    plain = dose_response(condition(toy_decoder(ToyVAE()), critic), latents, strengths=(0, 1))
    assert all(one.breaks_at is None for one in plain)
    with pytest.raises(InputError, match="from 0 on"):
        dose_response(faces, latents, strengths=(0.5, 1))

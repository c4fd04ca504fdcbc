"""Networks on images as critics of latents, through a frozen decoder."""

from __future__ import annotations

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from torch import nn

from latentctl import Decoder, PixelCritic, condition
from latentctl.controllers import Ascent
from latentctl.critics.log_odds import cross_entropy
from latentctl.errors import InputError, ShapeError, UnknownNameError
from latentctl.evaluation.laws import check_critic
from latentctl.random import generator, seeded

NAMES = ["Bright", "Left"]


class Net(nn.Module):
    """Log-odds of small images, with layers that differ in training mode."""

    def __init__(self, seed=0, names=NAMES):
        super().__init__()
        with seeded(seed, "net"):
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)
            )
            self.head = nn.Linear(16, 2)
        self.names = names

    def forward(self, x):
        return self.head(self.body(x))


def latents(count=6, seed=0):
    return torch.randn(count, 8, generator=generator(seed, purpose="z"))


@pytest.fixture
def critics(decoder):
    return PixelCritic(decoder, Net())


def test_log_odds_are_those_of_the_network_on_the_decoded_sample(decoder, critics):
    z, net = latents(), Net().eval()
    x = decoder.decode(z)
    assert critics.names == tuple(NAMES) and critics.latent_shape == (8,)
    torch.testing.assert_close(critics(z), net(x))
    torch.testing.assert_close(critics.of_samples(x), critics(z))
    torch.testing.assert_close(critics.score(z), critics(z))
    torch.testing.assert_close(critics["Left"](z), critics(z)[:, 1:2])
    assert not torch.allclose(critics(z), net(decoder.decode(latents(seed=1))))


def test_the_laws_of_critics_hold(critics):
    z = latents()
    for name in NAMES:
        check_critic(critics[name], z)
    check_critic(critics.match(torch.tensor([[1.0, torch.nan]])), z)
    with pytest.raises(UnknownNameError, match="Bright"):
        critics["Brihgt"]


def test_several_networks_are_averaged_in_log_odds(decoder):
    z, parts = latents(), [PixelCritic(decoder, Net(seed)) for seed in range(3)]
    mean = sum(part(z) for part in parts) / 3
    together = PixelCritic(decoder, *(Net(seed) for seed in range(3)))
    torch.testing.assert_close(together(z), mean)
    assert not torch.allclose(together(z), parts[0](z))


def test_the_gradient_reaches_the_latent_and_no_weight(model, critics):
    z = latents().requires_grad_()
    critics(z).sum().backward()
    assert bool((z.grad.abs().amax(1) > 0).all())
    assert all(p.grad is None for p in [*model.parameters(), *critics.parameters()])
    assert not any(p.requires_grad for p in critics.parameters())


def test_the_callers_network_is_not_changed(decoder):
    net = Net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    critics = PixelCritic(decoder, net)
    critics.train()  # does nothing
    z = latents()
    assert torch.equal(critics(z), critics(z))  # no dropout
    assert not any(m.training for m in critics.modules())
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        net.head.bias += 1  # a view: later changes of the network count
    torch.testing.assert_close(critics(z), Net().eval()(decoder.decode(z)) + 1)


def test_networks_get_samples_in_the_unit_range():
    model = ToyVAE()
    unit = toy_decoder(model)
    signed = Decoder(
        model,
        lambda m, z: 2 * m.decode(z) - 1,
        latent_shape=(8,),
        sample_shape=(3, 4, 4),
        value_range=(-1.0, 1.0),
    )
    z = latents()
    assert signed.decode(z).min() < 0
    torch.testing.assert_close(PixelCritic(signed, Net())(z), PixelCritic(unit, Net())(z))


def test_probabilities_become_log_odds_and_stay_finite(decoder):
    z = latents()
    net = Net().eval()
    scores = PixelCritic(decoder, lambda x: net(x).sigmoid(), names=NAMES, probabilities=True)
    torch.testing.assert_close(scores(z), PixelCritic(decoder, net)(z), rtol=1e-4, atol=1e-4)
    certain = PixelCritic(
        decoder,
        lambda x: (x.mean((1, 2, 3)) > 0)[:, None].float(),
        names=["On"],
        probabilities=True,
    )
    assert bool(torch.isfinite(certain(z)).all()) and bool((certain.probability(z) > 0.99).all())


def bright(x):
    """The log-odds from which the labels below are drawn."""
    return 30 * (x[:, 0].mean((1, 2)) - 0.5)[:, None]


def drawn_labels(x, seed):
    draw = torch.rand(len(x), 1, generator=generator(seed, purpose="labels"))
    return (draw < bright(x).sigmoid()).float()


@pytest.mark.parametrize(("scale", "bias"), [(0.25, 0.5), (3.0, -1.0)])
def test_calibration_finds_a_known_scale_and_bias(decoder, scale, bias):
    critics = PixelCritic(decoder, lambda x: (bright(x) - bias) / scale, names=["Bright"])
    x, held_out = decoder.decode(latents(4000, seed=1)), decoder.decode(latents(2000, seed=2))
    y = drawn_labels(held_out, 2)
    before = cross_entropy(critics.of_samples(held_out), y).mean()
    assert critics.calibrate(x, drawn_labels(x, 1)) is critics
    after = cross_entropy(critics.of_samples(held_out), y).mean()
    assert after < before - 0.02
    torch.testing.assert_close(critics.scale, torch.tensor([scale]), rtol=0.15, atol=0)
    torch.testing.assert_close(critics.bias, torch.tensor([bias]), rtol=0, atol=0.15)
    again = critics.scale.clone()
    critics.calibrate(x, drawn_labels(x, 1))  # the fit starts at scale 1 and bias 0 again
    torch.testing.assert_close(critics.scale, again)


def test_calibration_ignores_unknown_labels_and_is_finite_for_separable_classes(decoder):
    x = decoder.decode(latents(400))
    y = (bright(x) > 0).float()
    net = lambda x: torch.cat([bright(x), bright(x)], 1)  # noqa: E731
    labels = torch.cat([y, torch.full_like(y, torch.nan)], 1)
    critics = PixelCritic(decoder, net, names=NAMES).calibrate(x, labels)
    assert critics.scale[1] == 1 and critics.bias[1] == 0
    assert 1 < critics.scale[0] < 1e4 and bool(torch.isfinite(critics.bias).all())
    with pytest.raises(ShapeError, match=r"need labels \(400, 2\), these are \(400, 1\)"):
        critics.calibrate(x, y)


def test_wrong_networks_are_refused(decoder):
    with pytest.raises(InputError, match="needs a network"):
        PixelCritic(decoder)
    with pytest.raises(InputError, match="have no names"):
        PixelCritic(decoder, nn.Identity())
    with pytest.raises(UnknownNameError, match=r"no output of the Net named 'Dark'.* Bright, Left"):
        PixelCritic(decoder, Net(), names=["Dark"])
    with pytest.raises(UnknownNameError, match="named 'Bright'"):
        PixelCritic(decoder, Net(), Net(names=["Left", "Dark"]))
    flat = PixelCritic(decoder, lambda x: x.mean((1, 2, 3)), names=["Bright"])
    with pytest.raises(ShapeError, match=r"should return \(6, 1\) for Bright, it returned \(6,\)"):
        flat(latents())


def test_ascent_on_it_and_evaluation_by_another(decoder):
    critics = PixelCritic(decoder, bright, names=["Bright"])
    ascent = Ascent(critics, steps=60, learning_rate=0.2)
    out = condition(decoder, critics, ascent, threshold=0.95).sample(12, Bright=True)
    assert bright(decoder.decode(out.start)).min() < 0
    assert bool(out.satisfied.all()) and bright(out.x).min() > 0
    strict = PixelCritic(decoder, lambda x: bright(x) - 100, names=["Bright"])
    evaluated = condition(decoder, critics, ascent, evaluator=strict, threshold=0.95)
    other = evaluated.sample(12, Bright=True)
    assert torch.equal(other.x, out.x) and not bool(other.satisfied.any())


def test_columns_are_selected_by_name(decoder):
    net, other = Net(), Net(seed=1, names=["Left", "Bright"])
    z, whole = latents(), PixelCritic(decoder, net)
    turned = PixelCritic(decoder, net, names=["Left", "Bright"])
    assert turned.names == ("Left", "Bright")
    assert torch.equal(turned(z), whole(z).flip(1))
    assert torch.equal(PixelCritic(decoder, net, names=["Left"])(z), whole(z)[:, 1:])
    assert torch.equal(PixelCritic(decoder, net, names="Left")(z), whole(z)[:, 1:])
    pair = PixelCritic(decoder, net, other)
    torch.testing.assert_close(pair(z), (whole(z) + PixelCritic(decoder, other)(z).flip(1)) / 2)
    labels = torch.rand(6, 1, generator=generator(3)).round()
    x = decoder.decode(z)
    assert PixelCritic(decoder, net, names=["Left"]).calibrate(x, labels).scale.shape == (1,)

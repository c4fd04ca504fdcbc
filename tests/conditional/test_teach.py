"""`teach`: from labelled images to a critic and an evaluator."""

import pytest
import torch
from torch import nn

import latentctl
from latentctl.errors import InputError, UnknownNameError
from latentctl.random import generator

NAMES = ("bright", "left")
FEW = {
    "samples": 200,
    "samples_per_round": 50,
    "max_train_steps": 100,
    "lr_warmup_steps": 5,
    "width": 32,
}


class Network(nn.Module):
    """Logistic regression on pixels."""

    def __init__(self, images, labels):
        super().__init__()
        self.linear = nn.Linear(images[0].numel(), labels.shape[1])
        x = 20 * (images.flatten(1).float() / 255 - 0.5)
        optimizer = torch.optim.Adam(self.parameters(), 0.1)
        for _ in range(300):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(self.linear(x), labels).backward()
            optimizer.step()

    def forward(self, x):
        return self.linear(20 * (x.flatten(1) - 0.5))


@pytest.fixture(scope="module")
def setting():
    """Pictures of 4 x 4 pixels by a linear decoder, with two labels."""
    z = torch.randn(300, 4, generator=generator(0))
    model = nn.ModuleDict({"encoder": nn.Linear(48, 4), "decoder": nn.Linear(4, 48)})
    with torch.no_grad():
        weight = torch.randn(48, 4, generator=generator(1)) / 40
        model["decoder"].weight.copy_(weight), model["decoder"].bias.fill_(0.5)
        inverse = torch.linalg.pinv(weight)
        model["encoder"].weight.copy_(inverse), model["encoder"].bias.copy_(-0.5 * inverse.sum(1))
    decoder = latentctl.wrap(
        (
            lambda x: model["encoder"](x.flatten(1)),
            lambda z: model["decoder"](z).view(-1, 3, 4, 4),
        ),
        latent_shape=(4,),
        value_range=(0, 1),
    )
    x = decoder.decode(z)
    labels = torch.stack([z[:, 0] > 0, z[:, 1] > 0], 1).float()
    rows = [
        {"image": image, **dict(zip(NAMES, row, strict=True))}
        for image, row in zip(x, labels.tolist(), strict=True)
    ]
    return decoder, rows, z, labels


def fit(images, labels, names, **options):
    calls.append({"names": names, **options})
    return Network(images, labels)


calls = []


def test_a_critic_and_an_evaluator_that_agree_with_the_labels(setting):
    decoder, rows, z, labels = setting
    calls.clear()
    critic, evaluator = latentctl.teach(
        decoder, rows, NAMES, teachers=2, network=fit, progress=False, **FEW
    )
    assert critic.names == evaluator.names == NAMES
    assert len({call["seed"] for call in calls}) == 3, "two teachers and the evaluator"
    for scores, least in ((critic.score(z), 0.85), (evaluator.score(z), 0.97)):
        assert ((scores > 0) == (labels > 0.5)).float().mean() > least
    faces = latentctl.condition(decoder, critic, evaluator=evaluator)
    out = faces.edit(decoder.decode(z[:20]), bright=True)
    assert out.satisfied.float().mean() > 0.8


def test_the_evaluator_is_calibrated_on_images_that_no_network_saw(setting):
    decoder, rows, _, _ = setting
    seen = []

    def remember(images, labels, names, **options):
        seen.append(len(images))
        return Network(images, labels)

    latentctl.teach(
        decoder, rows, NAMES, teachers=1, held_out=0.2, network=remember, progress=False, **FEW
    )
    assert seen == [240, 240]
    mine = latentctl.PixelCritic(decoder, lambda x: x.flatten(1)[:, :2], names=NAMES)
    given = latentctl.teach(
        decoder, rows, teachers=1, network=remember, evaluator=mine, progress=False,
        latents=latentctl.Latents(setting[2], labels=setting[3], names=NAMES), **FEW,
    )  # fmt: skip
    assert given.evaluator is mine and len(seen) == 3


def test_without_teachers_the_critic_learns_from_labels_alone(setting):
    decoder, rows, _, labels = setting
    seen = []
    critic, evaluator = latentctl.teach(
        decoder,
        rows,
        NAMES,
        teachers=0,
        network=lambda *a, **o: seen.append(1) or fit(*a, **o),
        progress=False,
        width=32,
        max_train_steps=100,
    )
    assert len(seen) == 1  # the evaluator's network
    z = decoder.encode(torch.stack([row["image"] for row in rows])).mean
    assert ((critic(z) > 0).float() == labels).float().mean() > 0.8
    assert evaluator.names == critic.names == NAMES


@pytest.fixture(scope="module")
def generator_alone(setting):
    """The same decoder without its encoder."""
    decoder = setting[0]
    return latentctl.wrap(decoder.decode, latent_shape=(4,), value_range=(0, 1))


def accuracy(critic, z, labels):
    return float(((critic.score(z) > 0) == (labels > 0.5)).float().mean())


def test_without_an_encoder_the_networks_label_samples_of_the_prior(setting, generator_alone):
    _, rows, z, labels = setting
    critic, evaluator = latentctl.teach(
        generator_alone, rows, NAMES, network=fit, max_train_samples=300, progress=False, **FEW
    )
    assert isinstance(critic, latentctl.AttributeCritic)
    assert accuracy(critic, z, labels) > 0.85 and accuracy(evaluator, z, labels) > 0.97
    faces = latentctl.condition(generator_alone, critic, evaluator=evaluator)
    assert faces.sample(20, bright=True).satisfied.float().mean() > 0.7


def test_where_latents_are_noise_the_networks_are_the_critic(setting, generator_alone, monkeypatch):
    _, rows, z, labels = setting
    monkeypatch.setattr(generator_alone, "latents_are_noise", True)
    critic, evaluator = latentctl.teach(
        generator_alone, rows, NAMES, network=fit, max_train_samples=200, progress=False
    )
    assert isinstance(critic, latentctl.PixelCritic) and len(critic.networks) == 2
    assert accuracy(critic, z, labels) > 0.97 and evaluator.threshold is not None
    for wrong in ({"samples": 200}, {"teachers": 0}, {"latents": latentctl.Latents(z)}):
        with pytest.raises(InputError, match="noise"):
            latentctl.teach(generator_alone, rows, NAMES, network=fit, progress=False, **wrong)


def test_a_scorer_without_gradient_and_data_teaches_and_judges(setting, generator_alone):
    _, rows, z, labels = setting
    network = Network((255 * torch.stack([row["image"] for row in rows])).byte(), labels)

    def rule(x):
        return (network(x) > 0).float()

    scorer = latentctl.PixelCritic(generator_alone, rule, names=NAMES, probabilities=True)
    critic, evaluator = latentctl.teach(
        generator_alone, scorer=scorer, network=fit, max_train_samples=300, progress=False, **FEW
    )
    assert evaluator is scorer and critic.names == NAMES
    assert accuracy(critic, z, labels) > 0.85
    out = latentctl.condition(generator_alone, critic, evaluator=evaluator).sample(20, left=False)
    assert out.satisfied.float().mean() > 0.8
    for wrong in ({"data": rows}, {"attributes": ["bright"]}):
        with pytest.raises(InputError, match=r"both were given|those of the scorer"):
            latentctl.teach(generator_alone, scorer=scorer, progress=False, **wrong)
    with pytest.raises(InputError, match="neither"):
        latentctl.teach(generator_alone)
    other = latentctl.wrap(nn.Linear(4, 48), decode="forward")
    with pytest.raises(InputError, match="another decoder"):
        other_scorer = latentctl.PixelCritic(other, rule, names=NAMES)
        latentctl.teach(generator_alone, scorer=other_scorer, progress=False)


def test_what_cannot_be_taught_is_refused(setting):
    decoder, rows, _, _ = setting
    with pytest.raises(InputError, match="square images"):
        latentctl.teach(latentctl.wrap(nn.Linear(4, 12), decode="forward"), rows, NAMES)
    with pytest.raises(InputError, match="attributes"):
        latentctl.teach(decoder, rows, network=fit)
    with pytest.raises(UnknownNameError, match="Did you mean 'bright'"):
        latentctl.teach(decoder, rows, ["brigth"], network=fit, progress=False)
    with pytest.raises(InputError, match="0 to 3"):
        latentctl.teach(decoder, rows, NAMES, teachers=4)
    with pytest.raises(InputError, match="samples would not be used"):
        latentctl.teach(decoder, rows, NAMES, teachers=0, network=fit, samples=200)
    with pytest.raises(InputError, match="stream"):
        latentctl.teach(decoder, iter(rows), NAMES, network=fit)

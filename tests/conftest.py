"""A toy world whose truth is known: an invertible decoder, and attributes that are half-spaces.

`z` has eight dimensions. Smiling is `z0 > 0`, Male is `z1 > 0`, and Hat is `z0 + z2 > 0`, which
leaks into Smiling. Data live where `z3` is near 1.5, the prior is N(0, I), so realism is `z3`
alone. The first four dimensions are used (posterior std 0.1), the others hardly (0.8).
"""

from __future__ import annotations

import os

import pytest
import torch
from latentctl_adapters.melody_rewards import c_major
from latentctl_adapters.melody_vae import MelodyVAE, wrap
from torch import nn

from latentctl import condition
from latentctl.controllers import Actor, Ascent, FlowMatching, Updater
from latentctl.critics import AttributeCritic, Critic, RealismCritic
from latentctl.decoder import Decoder, Gaussian, Posterior
from latentctl.latents import Latents
from latentctl.random import generator, noise, seeded
from latentctl.studio.source import Source
from latentctl.training import Player, fit

NAMES = ("Smiling", "Male", "Hat")
STD = torch.tensor([0.1] * 4 + [0.8] * 4)
QUICK = {"batch_size": 64, "width": 32, "depth": 2}
FAST = {"learning_rate": 3e-3, "critic_turns": 1, "ema": 0.95}  # an actor in a second or two


class ToyVAE(nn.Module):
    """An orthogonal map to small pictures, with layers that move in training mode."""

    def __init__(self, seed=0):
        super().__init__()
        draw = torch.randn(48, 8, generator=generator(seed, purpose="toy"))
        self.weight = nn.Parameter(2 * torch.linalg.qr(draw)[0])
        self.norm, self.dropout = nn.BatchNorm1d(48), nn.Dropout(0.5)

    def decode(self, z):
        return self.dropout(self.norm(z @ self.weight.T)).sigmoid().view(-1, 3, 4, 4)

    def encode(self, x):
        mean = torch.logit(x.flatten(1), 1e-6) @ self.weight / 4
        return Posterior(mean, STD.to(mean).expand_as(mean))


class Linear(Critic):
    """Log-odds `z @ w + b`, `(B, 1)`."""

    def __init__(self, w, b=0.0):
        super().__init__()
        self.register_buffer("w", torch.as_tensor(w).float())
        self.b = b

    def forward(self, z):
        return (z.flatten(1) @ self.w + self.b)[:, None]


def toy_decoder(model):
    return Decoder(
        model,
        lambda m, z: m.decode(z),
        lambda m, x: m.encode(x),
        latent_shape=(8,),
        sample_shape=(3, 4, 4),
        name="toy",
    )


def truth(z):
    """The attributes that latents really have, `(B, 3)`."""
    return torch.stack([z[:, 0] > 0, z[:, 1] > 0, z[:, 0] + z[:, 2] > 0], dim=1).float()


class Grids(nn.Module):
    """Pixel shuffle of a grid to an image of one channel, and its inverse."""

    def __init__(self):
        super().__init__()
        self.shuffle, self.back = nn.PixelShuffle(2), nn.PixelUnshuffle(2)

    def decode(self, z):
        return self.shuffle(z).sigmoid()

    def encode(self, x):
        return Posterior(self.back(torch.logit(x, 1e-6)))


def grid_decoder():
    return Decoder(
        Grids(),
        lambda m, z: m.decode(z),
        lambda m, x: m.encode(x),
        latent_shape=(4, 8, 8),
        sample_shape=(1, 16, 16),
    )


def toy_latents(count, seed):
    mean = noise(0, count, (8,), seed=seed, purpose="toy data")
    mean[:, 3] = 1.5 + 0.3 * mean[:, 3]
    mean[:, 4:] *= 0.6
    return Latents(mean, STD.expand_as(mean).clone(), truth(mean), NAMES)


def fit_realism(latents, names=(), steps=150, **sizes):
    """An unconditional realism critic against the prior."""
    with seeded(0):
        realism = RealismCritic(latents.latent_shape, names, **sizes)
    realism.net.trunk.standardise(*latents.moments())
    prior, shape = Gaussian(latents.latent_shape), latents.latent_shape

    def loss(batch, step):
        fake = prior.sample(step.count, seed=1, start=step.index * step.count)
        real, alpha = batch.sample(step.normal(*shape)), step.uniform(*shape)
        return realism.loss(real, fake, alpha, penalty=0.1)

    player = Player("realism", realism, loss, torch.optim.Adam(realism.parameters(), 3e-3))
    fit(player, latents, max_train_steps=steps, batch_size=64, progress=False)
    return realism.eval()


# files that train the networks below; each worker of pytest-xdist would train them again
TOGETHER = ("tests/conditional/", "tests/controllers/", "tests/critics/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker runs all tests of a file, so that its fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return str(TOGETHER) if nodeid.startswith(TOGETHER) else nodeid.split("::")[0]

    config.option.loadscopereorder = False  # by the number of tests, which says little of time
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    os.environ["LATENTCTL_PROGRESS"] = "0"


@pytest.fixture
def model():
    """The user's model, in training mode as they left it."""
    return ToyVAE().train()


@pytest.fixture
def decoder(model):
    return toy_decoder(model)


@pytest.fixture(scope="session")
def latents():
    return toy_latents(3000, seed=0)


@pytest.fixture(scope="session")
def held_out():
    return toy_latents(500, seed=1)


@pytest.fixture(scope="session")
def critic(latents):
    return AttributeCritic.fit(
        latents, max_train_steps=800, learning_rate=3e-3, dropout=0.3, **QUICK
    )


@pytest.fixture(scope="session")
def realism(latents):
    return fit_realism(latents, width=32, depth=2)


@pytest.fixture(scope="session")
def actor(latents, critic):
    return Actor.fit(
        latents,
        attributes=critic,
        attribute_weight=3.0,
        distance_weight=0.03,
        max_train_steps=1000,
        **FAST,
        **QUICK,
    )


@pytest.fixture(scope="session")
def learned(latents, critic, actor):
    """The controllers that are networks, trained."""
    flow = FlowMatching.fit(
        latents,
        width=64,
        depth=2,
        steps=4,
        max_train_steps=600,
        batch_size=128,
        learning_rate=1e-2,
    )
    teacher = Ascent(critic, steps=40)
    updater = Updater.fit(
        latents,
        teacher,
        attributes=critic,
        requests=4000,
        threshold=0.99,
        max_train_steps=1000,
        width=64,
        depth=2,
        learning_rate=3e-3,
    )
    return {Actor: actor, FlowMatching: flow, Updater: updater}


@pytest.fixture(scope="session")
def spatial_latents():
    """Grids `(4, 8, 8)`; Bright is the mean of the first channel, Left that of one half of it."""
    z = noise(0, 400, (4, 8, 8), seed=0, purpose="grids")
    z = z + 0.4 * noise(0, 400, (4, 1, 1), seed=0, purpose="tone")
    z[:, 0, :, :4] += noise(0, 400, (1, 1), seed=0, purpose="side")
    labels = torch.stack([z[:, 0].mean((1, 2)) > 0, z[:, 0, :, :4].mean((1, 2)) > 0], 1)
    return Latents(z, torch.full_like(z, 0.1), labels.float(), ["Bright", "Left"])


@pytest.fixture(scope="session")
def served_faces():
    """A quickly fitted `Conditional` that can be saved as a pack, for the studio."""
    z = noise(0, 1000, (8,), seed=0, purpose="studio")
    critic = AttributeCritic.fit(
        Latents(z, torch.full_like(z, 0.1), truth(z), NAMES),
        max_train_steps=80,
        learning_rate=2e-2,
        batch_size=64,
        width=16,
        depth=1,
    )
    return condition(toy_decoder(ToyVAE()), critic)


@pytest.fixture(scope="session")
def source(served_faces):
    """What a studio of the toy world serves; the lines need `pictures` and a pack in `pack`."""
    code = "import latentctl\nfrom conftest import ToyVAE, toy_decoder\n\n"
    code += 'faces = latentctl.Conditional.from_pretrained("pack", toy_decoder(ToyVAE()))'
    z = noise(0, 30, (8,), seed=1, purpose="studio pictures")
    pictures = served_faces.decoder.decode(z)
    return Source(served_faces, code, pictures, lambda n: f"picture = pictures[{n}:{n + 1}]")


@pytest.fixture(scope="session")
def melodies():
    """What a studio of an untrained melody VAE serves."""
    with seeded(0):
        model = MelodyVAE(bars=2, latent_size=8, embedding=4, encoder_size=8, decoder_size=8)
        for weight in model.requires_grad_(False).parameters():
            weight.normal_(std=0.7)
        critic = AttributeCritic((8,), ["c_major"], width=8, depth=1)
    faces = condition(wrap(model), critic)
    return Source(faces, "import latentctl", rules={"c_major": c_major})


@pytest.fixture(scope="session")
def grids():
    """What a studio of a decoder of grids serves."""
    with seeded(0):
        critic = AttributeCritic((4, 8, 8), ["Bright", "Left"], width=8, depth=1)
    return Source(condition(grid_decoder(), critic), "import latentctl")

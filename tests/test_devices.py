"""Every fit, sample and edit on a second device: nothing mixes devices."""

from __future__ import annotations

import pytest
import torch
from conftest import NAMES, ToyVAE, toy_decoder, toy_latents
from emulated_device import emulated_device
from latentctl_adapters.flow_decoder import PixelFlow
from latentctl_adapters.melody_vae import MelodyVAE
from torch.utils.data import TensorDataset

import latentctl
from latentctl import (
    Actor,
    Ascent,
    AttributeCritic,
    Conditional,
    ExampleCritic,
    FlowMatching,
    Gaussian,
    KnowledgeBase,
    LatentFlow,
    Latents,
    OneToMany,
    PixelCritic,
    Updater,
    condition,
    distill,
    encoding_rewards,
    explore,
)
from latentctl.conditional import calibrate, verify
from latentctl.controllers import FlowEdit, Rejection, SphericalAscent, Transport, amortise
from latentctl.evaluation import (
    density_coverage,
    frechet_distance,
    multilabel_scores,
    precision_recall,
)
from latentctl.evaluation.doses import dose_response
from latentctl.evaluation.laws import check_decoder
from latentctl.evaluation.probe import linear_probe
from latentctl.latents.moments import aggregate
from latentctl.priors import GaussianMixture
from latentctl.random import generator, seeded
from latentctl.rewards import edit_by_rule
from latentctl.rewards.edit import REFRESH

FEW = {"max_train_steps": 3, "batch_size": 32}
SMALL = {"width": 16}


@pytest.fixture
def device():
    with emulated_device(float64=False):  # as the strictest device, MPS
        yield "cuda"


@pytest.fixture(scope="module")
def latents():
    return toy_latents(200, 0)


@pytest.fixture
def decoder(device):
    return toy_decoder(ToyVAE()).to(device)


@pytest.fixture
def critic(device, latents):
    return AttributeCritic.fit(latents, **FEW, **SMALL)


@pytest.fixture
def photos():
    return torch.rand(3, 3, 4, 4)


def short_ascents(decoder, critic, controller=None, **options):
    """A conditional whose ascents have few steps: every operation on the device is slow."""
    options = {"editor": Ascent.for_edits(critic, steps=3), **options}
    return condition(decoder, critic, controller or Ascent(critic, steps=3), **options)


def test_a_decoder_takes_and_gives_tensors_of_its_device(decoder):
    x = decoder.decode(torch.zeros(3, 8))
    assert x.is_cuda and decoder.encode(x).mean.is_cuda and decoder.encode(x.cpu()).mean.is_cuda


def test_samples_and_edits(decoder, critic, photos, tmp_path):
    faces = short_ascents(decoder, critic)
    out = faces.sample(4, Smiling=True)
    assert out.x.is_cuda and out.probability.is_cuda
    out.save(tmp_path / "samples.png")
    repr(out), out._repr_html_(), out.receipts()
    assert out[0].x.is_cuda and len(out[out.satisfied]) == int(out.satisfied.sum())
    for x in (photos, out.x):
        faces.edit(x, Male=True)
        faces.edit(x, where=critic["Hat"] | ~critic["Male"])
        faces.score(x)
    mask = torch.zeros(3, 4, 4)
    mask[:, :2] = 1
    faces.complete(photos, mask, count=2, steps=3).save(tmp_path / "completed.png")
    faces.add("Tall", latents_of("Tall"), **FEW, **SMALL)
    faces.edit(photos, Tall=True)
    again = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    assert again.sample(2, Smiling=True).x.is_cuda


def test_a_conditional_moves_as_a_whole(device, latents, photos):
    decoder = toy_decoder(ToyVAE()).through(LatentFlow((8,), width=8))
    critic = AttributeCritic((8,), NAMES, width=8)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    pixels = PixelCritic(decoder, network, names=NAMES)
    actor, prior = Actor((8,), NAMES, width=8), Gaussian.fit(latents)
    more = {"refine_with": pixels, "evaluator": pixels, "prior": prior}
    faces = condition(decoder, critic, actor, editor=Ascent.for_edits(critic, steps=3), **more)
    assert faces.to(device) is faces
    for part in (decoder, critic, actor, pixels, prior):
        assert all(t.is_cuda for t in part.state_dict().values())
    assert faces.sample(3, Smiling=True).x.is_cuda and faces.edit(photos, Male=True).x.is_cuda


def latents_of(name):
    return Latents(toy_latents(200, 0).mean, None, toy_latents(200, 0).labels[:, :1], [name])


KINDS = ["langevin", "realism", "transport", "flow", "actor", "updater", "spherical", "rejection"]


@pytest.mark.parametrize("kind", KINDS)
def test_controllers(kind, decoder, critic, latents, photos):
    if kind == "flow":
        controller = FlowMatching.fit(latents, **FEW, **SMALL, depth=1, steps=2)
    elif kind == "updater":
        options = {"attributes": critic, "requests": 40, "depth": 1}
        controller = Updater.fit(latents, Ascent(critic, steps=4), **options, **FEW, **SMALL)
    elif kind in ("actor", "realism"):
        teacher = FlowMatching.fit(latents, **FEW, **SMALL, depth=1, steps=2)
        options = {"demonstration_steps": 4, "critic_warmup_steps": 2, "distance_weight": 0.1}
        options |= {"attributes": critic, "attribute_weight": 1.0, "depth": 1}
        controller = Actor.fit(latents, teacher=teacher, **options, **FEW, **SMALL)
        if kind == "realism":
            controller = Ascent(critic, controller.realism, steps=3)
    else:
        made = {"langevin": Ascent(critic, noise=0.1, steps=5), "transport": Transport(critic)}
        made["spherical"] = SphericalAscent(critic, steps=2)
        made["rejection"] = Rejection(critic, candidates=2, otherwise=Ascent(critic, steps=2))
        controller = made[kind]
    editor = FlowEdit(critic, controller, steps=2) if kind == "flow" else controller
    faces = condition(decoder, critic, controller, editor=editor)
    assert faces.sample(3, Smiling=True).x.is_cuda and faces.edit(photos, Male=True).x.is_cuda


def test_an_amortised_editor(decoder, critic, latents, photos):
    editor = amortise(Ascent.for_edits(critic), latents, **FEW, **SMALL, depth=1)
    short_ascents(decoder, critic, editor=editor).edit(photos, Male=True)


def test_networks_on_samples(decoder, latents, photos):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).to(decoder.device)
    pixels = PixelCritic(decoder, network, names=NAMES)
    for x in (decoder.decode(latents.mean[:40]), torch.rand(40, 3, 4, 4)):
        pixels.calibrate(x, latents.labels[:40])
    few = {"samples": 60, "samples_per_round": 30, "rounds": 1}
    student = distill(pixels, latents, **few, **FEW, **SMALL)
    faces = short_ascents(decoder, student, evaluator=pixels, refine_with=pixels)
    assert faces.edit(photos, Male=True).x.is_cuda and faces.sample(3, Hat=True).x.is_cuda


@pytest.mark.parametrize("kind", ["matching", "coupling", "spline"])
def test_flows(kind, decoder, critic, latents):
    flow = LatentFlow.fit(latents, kind, **FEW, **SMALL)
    assert flow.sample(3).is_cuda and flow.to_base(latents.mean[:4].to("cuda")).is_cuda
    if kind != "matching":  # its density is a forward-mode transform, which the emulation lacks
        assert flow.log_prob(latents.mean[:4].to("cuda")).is_cuda
    through = decoder.through(flow)
    short_ascents(through, critic).sample(2, Smiling=True)


def test_knowledge(decoder, latents, photos):
    base = KnowledgeBase(decoder.prior, (8,))
    quick = {"max_train_steps": 4, "critic_steps": 5, "critic_width": 16, **SMALL}
    for name in ("Smiling", "Male"):
        base.add(name, latents, **quick)
    assert base.sample(3, present=["Smiling"], absent=["Male"]).is_cuda
    short_ascents(decoder, base).edit(photos, Male=True)


def test_priors(decoder, critic, latents):
    for prior in (Gaussian.fit(latents), GaussianMixture.fit(latents, 3)):
        assert short_ascents(decoder, critic, prior=prior).sample(3, Smiling=True).x.is_cuda


def test_examples(decoder, critic, latents, photos):
    z = decoder.encode(torch.rand(20, 3, 4, 4)).mean
    tall = ExampleCritic.fit("Tall", z[:10], z[10:], latents=latents, known=critic.to("cuda"))
    short_ascents(decoder, tall).edit(photos, Tall=True)


def test_rules(decoder, latents, monkeypatch):
    monkeypatch.setitem(REFRESH, "max_train_steps", 3)
    rules = {"high": lambda x: (x > 0.5).float().mean((1, 2, 3))}
    quick = {"rounds": 1, "prior_samples": 60, "moves": 30, "width": 8, "first_steps": 5}
    for encodings in (None, latents):
        found = explore(decoder, rules, encodings=encodings, train_steps=8, **quick)
        short_ascents(decoder, found.critic, found.actor).sample(3, high=True)
    encoding_rewards(decoder, found.rewards, latents, 50)
    edit_by_rule(decoder, found.critic, found.rewards, decoder.decode(torch.zeros(3, 8)), steps=2)
    far = {"far": lambda x: (x.flatten(1).std(1) / 10).clamp(0, 1)}
    made = latentctl.sample_by_rule(decoder, far, 4, evaluations=10)
    assert made.z.device.type == made.x.device.type == "cpu"


def test_encoding(decoder, tmp_path):
    for number, x in enumerate((torch.rand(30, 3, 4, 4), torch.rand(30, 3, 4, 4).to("cuda"))):
        assert len(latentctl.encode_dataset(decoder, x, tmp_path / str(number))) == 30


def test_latents_on_the_device(decoder, critic, latents):
    z = latents.to("cuda")
    options = {"attributes": critic, "requests": 20, "depth": 1}
    Updater.fit(z, Ascent(critic, steps=2), **options, **FEW, **SMALL)
    distill(critic, z, samples=20, samples_per_round=20, rounds=1, **FEW, **SMALL)
    encoding_rewards(decoder, {"high": lambda x: x.mean((1, 2, 3))}, z, 20)
    linear_probe(z)


def judges(decoder):
    with seeded(0):
        made = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)) for _ in "ab"]
    return [PixelCritic(decoder, network.to("cuda"), names=NAMES) for network in made]


def test_receipts_and_what_is_measured(decoder, critic, latents, photos, tmp_path):
    evaluator, judge = judges(decoder)
    faces = short_ascents(decoder, critic, evaluator=evaluator)
    assert len(dose_response(faces, latents[:10])) == 3
    faces.guarantee = calibrate(faces, latents[:10], judge)
    out = faces.edit(photos, Smiling=True)
    assert out.receipts() and out.undecided.is_cuda
    faces.edit(photos, Smiling=0.6, strength=0.5).save(tmp_path / "edited.png")
    faces.guarantee = None
    packed = Conditional.from_pretrained(faces.save_pretrained(tmp_path / "pack"), decoder)
    packed.sample(2, Smiling=True).save(tmp_path / "samples.png")
    assert verify(tmp_path / "samples.png", packed).intact


def test_teach(decoder, latents, photos):
    images = torch.rand(60, 3, 4, 4, generator=generator(0))
    rows = [
        {"image": x, **dict(zip(NAMES, y.tolist(), strict=True))}
        for x, y in zip(images, latents.labels, strict=False)
    ]

    def network(images, labels, names, **options):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1))

    few = {"samples": 20, "samples_per_round": 20, "rounds": 1, "max_train_steps": 2, "width": 8}
    critic, evaluator = latentctl.teach(
        decoder, rows, ["Male"], teachers=1, network=network, progress=False, **few
    )
    short_ascents(decoder, critic, evaluator=evaluator).edit(photos, Male=True)


def test_one_to_many(device):
    class Generator(torch.nn.Linear):
        def forward(self, h, z):
            return super().forward(torch.cat([h, z], 1))

    few = {"width": 8, "depth": 1}
    model = OneToMany(torch.nn.Linear(1, 8), Generator(10, 2), 8, (2,), **few)
    model.fit(TensorDataset(torch.rand(40, 1), torch.rand(40, 2)), **FEW)
    for x in (torch.rand(3, 1), torch.rand(3, 1).to("cuda")):
        assert model.predict(x, count=2).is_cuda == x.is_cuda


def test_inversion(device):
    generator = latentctl.Decoder(
        ToyVAE(), lambda m, z: m.decode(z), latent_shape=(8,), sample_shape=(3, 4, 4)
    )
    with_inversion = latentctl.with_inversion(generator.to(device), steps=5)
    assert with_inversion.encode(torch.rand(2, 3, 4, 4)).mean.is_cuda


def test_grids(device):
    means = torch.randn(60, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    up = (means.mean((1, 2, 3)) > 0).float()[:, None]
    critic = AttributeCritic.fit(Latents(means, None, up, ["Up"]), **FEW, width=8)
    pair = torch.nn.Conv2d(3, 4, 2, stride=2), torch.nn.ConvTranspose2d(4, 3, 2, stride=2)
    decoder = latentctl.wrap(pair, latent_shape=(4, 8, 8), value_range=(-9, 9)).to(device)
    mask = torch.zeros(16, 16)
    mask[:8] = 1
    x = decoder.decode(torch.zeros(2, 4, 8, 8))
    assert condition(decoder, critic).edit(x, Up=True, mask=mask).x.is_cuda


def partly_in_double_precision(place):
    """Numbers of moments, metrics, flows over pixels and melodies, computed on one device."""
    means, stds = toy_latents(60, 0).mean.to(place), torch.full((60, 8), 0.1).to(place)
    yield from aggregate([(means, stds), (means, stds)])
    real, fake = means[:30], means[30:]
    yield frechet_distance(real, fake)
    yield from vars(precision_recall(real, fake, k=3)).values()
    yield from vars(density_coverage(real, fake, k=3)).values()
    labels = torch.rand(60, 3, generator=generator(0)).round()
    yield multilabel_scores(means[:, :3].sigmoid(), labels.to(place), names=NAMES).accuracy
    flow = PixelFlow.fit(torch.rand(40, 1, 8, 8, generator=generator(1)), width=8, blocks=1, **FEW)
    flow = flow.to(place)
    x = torch.randint(256, (4, 1, 8, 8), generator=generator(2)).to(place) / 255
    yield flow.bits_per_dimension(x, torch.full_like(x, 0.5))
    yield flow.decode(flow.encode(x))
    with seeded(3):
        model = MelodyVAE(latent_size=8, embedding=6, encoder_size=8, decoder_size=12).eval()
    model = model.to(place)
    z = torch.randn(3, 8, generator=generator(4)).to(place)
    yield model.sample(z, seed=5)
    check_decoder(toy_decoder(ToyVAE()).to(place))


@pytest.mark.parametrize("float64", [True, False])
def test_double_precision_is_computed_where_there_is_some(float64):
    expected = list(partly_in_double_precision("cpu"))
    with emulated_device(float64=float64):
        found = list(partly_in_double_precision("cuda"))
        assert all(v.is_cuda for v in found if isinstance(v, torch.Tensor))
        found = [v.cpu() if isinstance(v, torch.Tensor) else v for v in found]
    torch.testing.assert_close(found, expected)

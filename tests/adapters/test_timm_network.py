from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ToyVAE, toy_decoder

pytest.importorskip("timm")
pytest.importorskip("PIL")
import timm
from latentctl_adapters.pixels.timm_network import Labelled, TimmNetwork, label
from PIL import Image

from latentctl import PixelCritic, encode_dataset
from latentctl.errors import AdapterError, InputError, ShapeError
from latentctl.evaluation.laws import check_critic
from latentctl.random import generator, seeded


def tiny(model_name="test_resnet", **options):
    with seeded(0, "timm"):
        return timm.create_model(model_name, pretrained=False, **{"num_classes": 5, **options})


def photos(count=4, side=24, seed=0):
    return torch.rand(count, 3, side, side, generator=generator(seed, purpose="photos"))


@pytest.fixture(scope="module")
def pets():
    return TimmNetwork(tiny(), {"Dog": [0, 1], "Cat": 2}).eval()


@pytest.mark.parametrize("model_name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_any_architecture_at_its_own_size(model_name):
    critic = TimmNetwork(tiny(model_name).eval(), list("abcde"), outputs="sigmoid")
    config = timm.data.resolve_data_config(model=critic.net)
    assert critic.resolution == config["input_size"][1:]
    x = photos()
    said = critic(x)
    assert said.shape == (4, 5) and critic.names == tuple("abcde")
    with torch.no_grad():
        torch.testing.assert_close(said, critic.net(critic.prepare(x)))
        features = critic.features(x)
        torch.testing.assert_close(critic.net.get_classifier()(features), said)


def test_the_normalisation_is_that_of_the_config(pets):
    grey = pets.prepare(torch.full((1, 3, 160, 160), 0.5))
    config = timm.data.resolve_data_config(model=pets.net)
    expected = (0.5 - torch.tensor(config["mean"])) / torch.tensor(config["std"])
    torch.testing.assert_close(grey[0, :, 80, 80], expected)
    torch.testing.assert_close(grey, pets.prepare(torch.full((1, 1, 24, 30), 0.5)))  # any size


def test_groups_of_a_softmax_are_exact_log_odds(pets):
    x = photos()
    with torch.no_grad():
        share = pets.net(pets.prepare(x)).softmax(1)
        said = pets.probability(x)
    torch.testing.assert_close(said[:, 0], share[:, 0] + share[:, 1])
    torch.testing.assert_close(said[:, 1], share[:, 2])


def test_groups_of_sigmoids_are_any_of_them():
    critic = TimmNetwork(tiny().eval(), {"Any": [0, 3], "Third": 2}, outputs="sigmoid")
    x = photos()
    with torch.no_grad():
        p = critic.net(critic.prepare(x)).sigmoid()
        said = critic.probability(x)
    torch.testing.assert_close(said[:, 0], 1 - (1 - p[:, 0]) * (1 - p[:, 3]))
    torch.testing.assert_close(said[:, 1], p[:, 2])


def test_networks_of_one_channel_and_another_size():
    critic = TimmNetwork(tiny(in_chans=1, num_classes=2), ["a", "b"], resolution=64).eval()
    assert critic(photos()[:, :1]).shape == (4, 2)
    with pytest.raises(ShapeError, match=r"\(B, 1, H, W\)"):
        critic(photos())


def test_by_name_with_options():
    critic = TimmNetwork("test_resnet", ["a", "b"], pretrained=False, num_classes=2)
    assert not critic.net.training and critic(photos()).shape == (4, 2)
    with pytest.raises(AdapterError, match=r"timm cannot create 'no_such_net'.*list_models"):
        TimmNetwork("no_such_net", ["a"])
    with pytest.raises(InputError, match=r"num_classes: options are for"):
        TimmNetwork(tiny(), list("abcde"), num_classes=5)


def test_a_network_of_somebody_else_stays_as_it_is():
    net = tiny().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    critic = TimmNetwork(net, {"Dog": 0})
    PixelCritic(toy_decoder(ToyVAE()), critic)(torch.zeros(2, 8))
    label(critic, photos())
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_critic_of_latents_through_the_decoder(pets):
    critics = PixelCritic(toy_decoder(ToyVAE()), pets)
    z = torch.randn(3, 8, generator=generator(0))
    assert critics.names == ("Dog", "Cat")
    check_critic(critics["Dog"], z)
    torch.testing.assert_close(critics(z), pets(toy_decoder(ToyVAE()).decode(z)))
    here = z.clone().requires_grad_()
    critics(here)[:, 0].sum().backward()
    assert bool((here.grad.abs().amax(1) > 0).all())
    assert all(p.grad is None for p in pets.parameters())


@pytest.mark.parametrize(
    ("names", "outputs", "message"),
    [
        (["a", "b"], "softmax", "has 5 outputs"),
        ("abcde", "softmax", "has 5 outputs"),
        ({}, "softmax", "There is no name"),
        ({"a": 5}, "softmax", "has 0 to 4"),
        ({"a": []}, "softmax", "has 0 to 4"),
        ({"a": range(5)}, "softmax", "always true"),
        ({"a": 1}, "ranking", '"softmax" or "sigmoid"'),
    ],
)
def test_names_that_do_not_fit(names, outputs, message):
    with pytest.raises(InputError, match=message):
        TimmNetwork(tiny(), names, outputs=outputs)


def test_networks_that_are_no_classifier_or_take_another_size():
    with pytest.raises(AdapterError, match="num_classes"):
        TimmNetwork(tiny(num_classes=0, global_pool=""), ["a"])
    with pytest.raises(AdapterError, match=r"\(3, 50, 50\).*resolution="):
        TimmNetwork(tiny("test_vit"), list("abcde"), resolution=50)


def test_labels_of_a_tensor_do_not_depend_on_batches_or_form(pets):
    x = (photos(10) * 255).byte()
    labels = label(pets, x)
    assert labels.shape == (10, 2) and bool(((labels > 0) & (labels < 1)).all())
    with torch.no_grad():
        torch.testing.assert_close(labels, pets.probability(x.float() / 255))
    torch.testing.assert_close(label(pets, x, batch_size=3), labels)
    torch.testing.assert_close(label(pets, x.float() / 127.5 - 1, value_range=(-1, 1)), labels)
    pictures = [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in x]
    for rows in (
        [{"image": p, "file": "a"} for p in pictures],
        [(np.asarray(p), 7) for p in pictures],
        pictures,
    ):
        torch.testing.assert_close(label(pets, rows).labels, labels)


def test_images_of_several_sizes_keep_their_order(pets):
    rows = [photos(1, side, seed=side)[0] for side in (20, 32, 32, 20, 24)]
    labels = label(pets, rows).labels
    with torch.no_grad():
        one_by_one = torch.cat([pets.probability(row[None]) for row in rows])
    torch.testing.assert_close(labels, one_by_one)


def test_a_labelled_data_set_is_encoded_with_its_labels(pets, tmp_path):
    x = torch.rand(12, 3, 4, 4, generator=generator(1))
    data = label(pets, [{"image": row, "Dog": 0.0, "Hat": 1.0} for row in x])
    assert isinstance(data, Labelled) and len(data) == 12
    decoder = toy_decoder(ToyVAE())
    names = ["Hat", "Cat", "Dog"]
    latents = encode_dataset(decoder, data, tmp_path, attributes=names, progress=False)
    torch.testing.assert_close(latents.labels[:, [2, 1]], label(pets, x))  # not the old Dog
    assert bool((latents.labels[:, 0] == 1).all())


def brightness(x):
    """A scorer, as zero-shot ones are: images to scores in [0, 1]."""
    return x.mean((1, 2, 3))


def test_a_scorer_labels_and_criticises():
    x = torch.stack([torch.full((3, 8, 8), level) for level in (0.1, 0.45, 0.55, 0.9)])
    scores = label(brightness, x, ["Bright"], probabilities=True)
    torch.testing.assert_close(scores[:, 0], torch.tensor([0.1, 0.45, 0.55, 0.9]))
    surely = label(brightness, x, ["Bright"], probabilities=True, confidence=0.8)[:, 0]
    assert surely[[0, 3]].tolist() == [0, 1] and bool(surely[[1, 2]].isnan().all())
    decoder = toy_decoder(ToyVAE())
    critics = PixelCritic(
        decoder, lambda x: brightness(x)[:, None], names=["Bright"], probabilities=True
    )
    z = torch.randn(3, 8, generator=generator(2))
    check_critic(critics["Bright"], z)
    torch.testing.assert_close(critics.probability(z)[:, 0], brightness(decoder.decode(z)))


class Broken:
    """A data set in all but its second image."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            raise OSError("truncated file.")
        return torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (photos(), {"names": ["a"]}, r"should return \(4, 1\)"),
        (photos(), {"confidence": 0.2}, "confidence is a probability"),
        (photos(), {"probabilities": True}, r"scores in \[0, 1\]"),
        (2 * photos(), {}, "Image 0 cannot be labelled: its values"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.long), {}, "give bytes"),
        ([{"picture": photos()[0]}], {}, "no column named 'image'"),
        ([photos()[0, 0]], {}, r"shape \(24, 24\)"),
        ([], {}, "empty"),
        (iter([photos()[0]]), {}, "map-style"),
        (Broken(), {}, "Image 1 cannot be labelled: truncated file"),
    ],
)
def test_what_cannot_be_labelled(pets, data, options, message):
    with pytest.raises(InputError, match=message):
        label(lambda x: pets(x) * 100 + 50, data, **{"names": ["Dog", "Cat"], **options})


def test_scores_need_names_and_must_be_finite():
    with pytest.raises(InputError, match="have no names"):
        label(brightness, photos(), probabilities=True)
    with pytest.raises(InputError, match="not finite"):
        label(lambda x: brightness(x)[:, None] * torch.nan, photos(), ["Bright"])


class FakeClip(torch.nn.Module):
    """The signature of transformers' CLIP, without its weights."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def forward(self, input_ids, attention_mask, pixel_values):
        assert pixel_values.shape[1:] == (3, 224, 224) and input_ids.shape == attention_mask.shape
        fit = self.scale * pixel_values.mean((1, 2, 3))[:, None] * input_ids.float().mean(1)
        return SimpleNamespace(logits_per_image=fit)


class FakeTokenizer:
    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def __call__(self, texts, padding, return_tensors):
        ids = torch.tensor([[len(text), ord(text[-3])] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_the_code_of_the_page_runs_with_the_weights_of_clip_replaced(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "bring-your-own-network.md"
    blocks = re.findall(r"^```python[ \w]*\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert len(blocks) >= 5
    fake = ModuleType("transformers")
    fake.CLIPModel, fake.AutoTokenizer = FakeClip, FakeTokenizer
    monkeypatch.setitem(sys.modules, "transformers", fake)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)
    x = photos()
    scores = names["scorer"](x)
    assert bool(((scores > 0) & (scores < 1)).all())
    assert not torch.allclose(scores[0], scores[1])
    z = torch.randn(2, 8, generator=generator(0))
    check_critic(names["words"]["Smiling"], z)

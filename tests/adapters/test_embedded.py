"""What ships with the package: the generator of drawn faces, its pack, judge and evaluator."""

from pathlib import Path

import pytest
import torch
from latentctl_adapters import embedded
from latentctl_adapters.embedded.counterfactuals import turned
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, ProceduralFaces

import latentctl
from latentctl.errors import AdapterError, UnknownNameError

pytest.importorskip("timm")
MEGABYTES = 1e6


@pytest.fixture(scope="module")
def people():
    images, labels = ProceduralFaces.split("test", 60, seed=3).tensors()
    return images.float() / 255, labels


@pytest.fixture(scope="module")
def pack():
    return embedded.pack()


def test_the_generator_is_sharp_on_unseen_faces(people):
    decoder = latentctl.load("drawn-faces")
    x = people[0]
    y = decoder.decode(decoder.encode(x).mean)
    assert -10 * (y - x).square().mean().log10() > 29
    judge = embedded.judge()
    original, again = (judge.probability(images) > 0.5 for images in (x, y))
    assert (original == (people[1] > 0.5)).float().mean() > 0.93
    assert (original == again).float().mean() > 0.93


def test_the_pack_samples_and_edits(pack, people):
    assert pack.names == ATTRIBUTES and pack.evaluator is not None
    judge = embedded.judge()
    smiling = ATTRIBUTES.index("Smiling")
    asked, refused = (
        (judge.probability(pack.sample(40, Smiling=value, seed=0).x)[:, smiling] > 0.5).float()
        for value in (True, False)
    )
    assert asked.mean() > refused.mean() + 0.2
    serious = people[0][people[1][:, smiling] == 0][:20]
    out = pack.edit(serious, Smiling=True)
    assert (judge.probability(out.x)[:, smiling] > 0.5).float().mean() > 0.8
    assert out.leakage.nanmean() < 0.1


def test_the_pack_says_what_its_edits_do(pack, people):
    assert [one.name for one in pack.doses] == list(ATTRIBUTES)
    response = {one.name: dict(zip(one.strengths, one.response, strict=True)) for one in pack.doses}
    assert all(at[0] < at[0.5] < at[1] for at in response.values())
    out = pack.edit(people[0][:4], Smiling=True)
    assert out.guarantee == pack.guarantee and "exchangeable" in repr(out)
    assert (out.satisfied | out.undecided | out.unreachable).all() and out.clean is not None
    card = pack.model_card("me/faces").text
    assert "## Guarantee" in card and "| Smiling | ▁" in card


def test_the_weights_are_small():
    sizes = {
        part.name: sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        for part in embedded.WEIGHTS.iterdir()
    }
    assert sizes["generator"] < 10 * MEGABYTES
    assert sum(sizes.values()) < 24 * MEGABYTES
    assert Path(embedded.WEIGHTS / "README.md").exists()


def test_a_judge_of_some_attributes_has_their_outputs():
    judge = embedded.judge()
    x = torch.rand(3, 3, 64, 64)
    some = judge.select(["Smiling", "Bald"])
    columns = [ATTRIBUTES.index(name) for name in some.names]
    assert torch.allclose(some(x), judge(x)[:, columns], atol=1e-6)
    with pytest.raises(UnknownNameError, match="Did you mean 'Smiling'"):
        judge.select(["Smilng"])


def test_it_takes_no_options_and_wraps_nothing():
    with pytest.raises(AdapterError, match="no options"):
        latentctl.load("drawn-faces", size=128)
    assert not embedded.accepts(torch.nn.Linear(2, 2))


def test_a_turned_attribute_takes_away_what_it_excludes():
    attributes = torch.zeros(15)
    attributes[[ATTRIBUTES.index(name) for name in ("Black_Hair", "Bangs", "Smiling")]] = 1
    bald = turned(attributes, "Bald", True)
    named = {name for name, value in zip(ATTRIBUTES, bald, strict=True) if value}
    assert named == {"Bald", "Smiling"}
    assert torch.equal(turned(turned(attributes, "Smiling", False), "Smiling", True), attributes)
    with pytest.raises(UnknownNameError):
        turned(attributes, "Hat", True)

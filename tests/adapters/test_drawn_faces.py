from __future__ import annotations

import doctest

import latentctl_adapters.embedded.drawn_faces as drawn_faces
import pytest
import torch
from latentctl_adapters.embedded.drawn_faces import (
    ATTRIBUTES,
    FACTORS,
    ProceduralFaces,
    render,
    sample_factors,
)
from torch import Tensor
from torch.utils.data import DataLoader

from latentctl.errors import InputError, ShapeError, UnknownNameError

COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
PEOPLE = 12


def column(name: str) -> int:
    return ATTRIBUTES.index(name)


def people(**attributes: float) -> tuple[Tensor, Tensor]:
    """Young brown-haired women, looking straight ahead, with the attributes given."""
    identity = sample_factors(0, PEOPLE, seed=5).identity
    for name in ("yaw", "roll", "shift_x", "shift_y"):
        identity[:, FACTORS.index(name)] = 0.5
    values = torch.zeros(PEOPLE, len(ATTRIBUTES))
    for name, value in {"Young": 1.0, "No_Beard": 1.0, "Brown_Hair": 1.0, **attributes}.items():
        values[:, column(name)] = value
    return identity, values


def change(base: dict[str, float], toggled: dict[str, float]) -> Tensor:
    """The largest change of each pixel `(PEOPLE, 64, 64)`."""
    before, after = render(*people(**base)), render(*people(**{**base, **toggled}))
    return (before - after).abs().amax(1)


def auc(score: Tensor, label: Tensor) -> float:
    order = score.argsort().argsort().float()
    positive = label > 0.5
    n, m = int(positive.sum()), int((~positive).sum())
    return float((order[positive].sum() - n * (n - 1) / 2) / (n * m))


def ridge(x: Tensor, y: Tensor, held_out: Tensor) -> Tensor:
    mean, shift = x.mean(0), y.mean(0)
    x = x - mean
    gram = x.T @ x + 3 * torch.eye(x.shape[1])
    return (held_out - mean) @ torch.linalg.solve(gram, x.T @ (y - shift))


def test_a_face_depends_on_its_index_alone():
    faces = ProceduralFaces(100, seed=3, start=7)
    whole, again = faces.images(0, 100), ProceduralFaces(100, seed=3, start=7).images(0, 100)
    assert torch.equal(whole, again)
    assert torch.equal(whole[41:44], faces.images(41, 3))
    assert torch.equal(whole[41], ProceduralFaces(1, seed=3, start=48).images(0, 1)[0])
    assert torch.equal(whole[41], faces[41]["image"])
    assert torch.equal(whole, faces.tensors()[0])
    assert not torch.equal(whole, ProceduralFaces(100, seed=4, start=7).images(0, 100))
    flat = whole.flatten(1).unique(dim=0)
    assert len(flat) == 100, "two people look exactly alike"


def test_drawing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    ProceduralFaces(3).tensors()
    assert torch.equal(state, torch.get_rng_state())


def test_a_row_is_shaped_like_a_row_of_celeba():
    faces = ProceduralFaces(5)
    row, truth = faces[-1], faces.factors(4, 1)
    assert list(row) == ["image", *ATTRIBUTES]
    assert row["image"].shape == (3, 64, 64) and row["image"].dtype == torch.uint8
    assert [row[name] for name in ATTRIBUTES] == truth.attributes[0].bool().tolist()
    assert all(type(row[name]) is bool for name in ATTRIBUTES)
    drawn = render(truth.identity, truth.attributes)[0]
    assert torch.equal(row["image"], (255 * drawn).round().byte())
    assert len(list(faces)) == 5
    with pytest.raises(IndexError, match="face 5"):
        faces[5]
    with pytest.raises(IndexError):
        faces[-6]


def test_a_data_loader_batches_the_chosen_attributes():
    names = ["Smiling", "Male"]
    faces = ProceduralFaces(10, attributes=names)
    batches = list(DataLoader(faces, batch_size=4))
    pictures, labels = faces.tensors()
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), pictures)
    for k, name in enumerate(names):
        assert torch.equal(torch.cat([batch[name] for batch in batches]), labels[:, k].bool())
    assert torch.equal(labels[:, 1], faces.factors(0, 10).attributes[:, column("Male")])


def test_splits_share_no_face():
    parts = [
        ProceduralFaces.split(name, 60, size=16).images(0, 60).flatten(1)
        for name in ("train", "validation", "test")
    ]
    assert len(torch.cat(parts).unique(dim=0)) == 180
    assert torch.equal(parts[0], ProceduralFaces(60, size=16).images(0, 60).flatten(1))
    with pytest.raises(UnknownNameError, match="validation"):
        ProceduralFaces.split("valdation", 3)


@pytest.fixture(scope="module")
def crowd() -> dict[str, Tensor]:
    attributes = sample_factors(0, 40_000, seed=1).attributes.bool()
    return dict(zip(ATTRIBUTES, attributes.T, strict=True))


def test_prevalences_are_those_of_the_table(crowd: dict[str, Tensor]):
    lines = (drawn_faces.__doc__ or "").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "| ." in line
    ]
    male, young = crowd["Male"], crowd["Young"]
    groups = [torch.ones_like(male), ~male & young, ~male & ~young, male & young, male & ~young]
    assert {row[0].split()[0] for row in rows} == set(ATTRIBUTES)
    for row in rows:
        for group, cell in zip(groups, row[1:], strict=True):
            found, expected = crowd[row[0].split()[0]][group].float().mean(), float(cell)
            error = 4 * (expected * (1 - expected) / int(group.sum())) ** 0.5
            assert abs(found - expected) <= 0.006 + error, (row[0], found, expected)


def test_attributes_that_exclude_each_other_do(crowd: dict[str, Tensor]):
    colours = torch.stack([crowd[name] for name in COLOURS]).sum(0)
    assert colours.max() == 1
    assert colours[crowd["Bald"]].max() == 0
    assert crowd["Male"][crowd["Bald"]].all() and crowd["No_Beard"][~crowd["Male"]].all()
    for name in ("Bald", "Bangs"):
        assert not (crowd[name] & crowd["Wearing_Hat"]).any()
    assert not (crowd["Mustache"] & crowd["No_Beard"]).any()
    hat = crowd["Wearing_Hat"]
    assert 0 < colours[hat].float().mean() < 0.6 * colours[~hat].float().mean()
    assert crowd["Young"][crowd["Bald"]].float().mean() < 0.4 < crowd["Young"].float().mean()


# rows, then half the columns, in pixels: outside of them the picture must stay as it was
REGIONS = [
    ("Eyeglasses", {}, {"Eyeglasses": 1}, (22, 39), 22),
    ("Smiling", {}, {"Smiling": 1}, (23, 58), 19),
    ("Wearing_Lipstick", {}, {"Wearing_Lipstick": 1}, (41, 54), 10),
    ("Mustache", {}, {"Mustache": 1}, (38, 52), 12),
    ("No_Beard", {}, {"No_Beard": 0}, (28, 62), 21),
    ("Wearing_Hat", {}, {"Wearing_Hat": 1}, (0, 27), 32),
    ("Bangs", {}, {"Bangs": 1}, (8, 34), 23),
    ("Bald", {"Male": 1}, {"Bald": 1}, (0, 38), 26),
]


@pytest.mark.parametrize(
    ("base", "toggled", "rows", "half"), [r[1:] for r in REGIONS], ids=[r[0] for r in REGIONS]
)
def test_an_attribute_changes_its_own_region_only(base, toggled, rows, half):
    difference = change(base, toggled)
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[rows[0] : rows[1], 32 - half : 32 + half] = False
    assert difference[:, outside].max() < 1 / 255
    assert (difference[:, ~outside].amax(1) > 0.1).all(), "someone's change cannot be seen"


def test_glasses_reach_beyond_a_smaller_region():
    difference = change({}, {"Eyeglasses": 1})
    assert difference[:, 41:54].max() < 1 / 255 < difference[:, :41].max()
    assert difference[:, 22:39, :26].max() > 0.1


@pytest.mark.parametrize("name", ["Black_Hair", "Blond_Hair", "Gray_Hair"])
def test_hair_colour_leaves_skin_mouth_and_background_alone(name: str):
    difference = change({}, {"Brown_Hair": 0.0, name: 1.0})
    assert (difference[:, 6:16, 28:36].amax((1, 2)) > 0.05).all()
    for still in (difference[:, 42:52, 27:37], difference[:, :8, :5], difference[:, 33:44, 29:35]):
        assert still.max() < 1 / 255


@pytest.mark.parametrize("name", ["Male", "Young", "Pale_Skin"])
def test_attributes_of_the_whole_face_leave_the_background_alone(name: str):
    base = {"Young": 0.0} if name == "Young" else {}
    before, after = render(*people(**base)), render(*people(**{**base, name: 1.0}))
    difference = (before - after).abs().amax(1)
    assert (difference[:, 16:54, 18:46].amax((1, 2)) > 0.08).all()
    assert difference[:, :5, :5].max() < 1 / 255


def test_two_people_differ_more_than_one_person_with_other_attributes():
    plain = render(*people())
    between = (plain[1:] - plain[:-1]).square().mean()
    for name in ("Smiling", "Eyeglasses", "Wearing_Lipstick", "Mustache"):
        assert (render(*people(**{name: 1.0})) - plain).square().mean() < 0.2 * between


def test_a_value_in_between_is_drawn_half_way():
    off, half, on = (render(*people(Eyeglasses=value)) for value in (0.0, 0.5, 1.0))
    assert (half - off).square().mean() < 0.5 * (on - off).square().mean()
    assert (half - on).square().mean() < 0.5 * (on - off).square().mean()


def test_every_identity_factor_can_be_seen():
    factors = sample_factors(0, 6, seed=2)
    attributes = factors.attributes.clone()
    for k, name in enumerate(("Eyeglasses", "Wearing_Hat", "Bangs")):
        attributes[:, column(name)] = 0.0
        attributes[k, column(name)] = 1.0
    attributes[3:, column("Male")] = 1.0
    attributes[4:, column("No_Beard")] = 0.0
    for k, name in enumerate(FACTORS):
        low, high = factors.identity.clone(), factors.identity.clone()
        low[:, k], high[:, k] = 0.0, 0.9
        difference = (render(low, attributes) - render(high, attributes)).abs().amax()
        assert difference > 0.02, name


@pytest.mark.parametrize("size", [8, 33, 128])
def test_other_sizes_show_the_same_faces(size: int):
    factors = sample_factors(0, 8, seed=0)
    small = render(factors.identity, factors.attributes, 64)
    large = render(factors.identity, factors.attributes, size)
    assert large.shape == (8, 3, size, size)
    coarse = [torch.nn.functional.adaptive_avg_pool2d(x, 8) for x in (small, large)]
    assert (coarse[0] - coarse[1]).abs().mean() < 0.03
    assert (coarse[0] - coarse[1].roll(1, 0)).abs().mean() > 0.1
    assert ProceduralFaces(2, size=size).images(0, 2).shape == (2, 3, size, size)


def test_pictures_are_finite_and_use_the_range_whatever_the_factors():
    corners = torch.randint(0, 2, (200, len(FACTORS)), generator=torch.Generator().manual_seed(0))
    attributes = torch.randint(0, 2, (200, 15), generator=torch.Generator().manual_seed(1))
    pictures = render(corners.float(), attributes.float(), size=24)
    assert torch.isfinite(pictures).all()
    assert 0 <= pictures.min() < 0.1 and 0.9 < pictures.max() <= 1
    assert render(torch.empty(0, 46), torch.empty(0, 15)).shape == (0, 3, 64, 64)


def features(pictures: Tensor) -> Tensor:
    """The pixels, and products of the hair's mean colour: brown lies between black and blond."""
    x = pictures.float() / 255
    hair = x[:, :, 4:9, 13:19].mean((2, 3))
    products = (hair[:, :, None] * hair[:, None]).flatten(1)
    return torch.cat([x.flatten(1), 6 * products], 1)


def test_labels_can_be_read_off_the_pixels_and_shuffled_ones_cannot():
    pixels, labels = ProceduralFaces.split("train", 1800, size=32).tensors()
    unseen, truth = ProceduralFaces.split("test", 900, size=32).tensors()
    order = torch.randperm(1800, generator=torch.Generator().manual_seed(0))
    targets = torch.cat([labels, labels[order]], 1)
    score = ridge(features(pixels), targets, features(unseen))
    k = len(ATTRIBUTES)
    found = {n: auc(score[:, i], truth[:, i]) for i, n in enumerate(ATTRIBUTES)}
    chance = {n: auc(score[:, k + i], truth[:, i]) for i, n in enumerate(ATTRIBUTES)}
    assert min(found.values()) > 0.85, found
    assert sum(found.values()) / k > 0.95, found
    common = [n for n in ATTRIBUTES if 0.1 < truth[:, column(n)].mean() < 0.9]
    assert all(abs(chance[n] - 0.5) < 0.12 for n in common), chance


def test_bad_arguments_say_what_is_wrong():
    identity, attributes = people()
    with pytest.raises(ShapeError, match=r"identity must be \(12, 46\), found \(12, 45\)"):
        render(identity[:, 1:], attributes)
    with pytest.raises(ShapeError, match=r"attributes must be \(12, 15\), found \(3, 15\)"):
        render(identity, attributes[:3])
    for bad in (float("nan"), 1.5, -0.1):
        wrong = identity.clone()
        wrong[3, 4] = bad
        with pytest.raises(InputError, match=r"identity must lie in \[0, 1\]"):
            render(wrong, attributes)
    with pytest.raises(InputError, match="8 or more"):
        render(identity, attributes, size=4)
    with pytest.raises(InputError, match="0 or more"):
        sample_factors(-1, 3, seed=0)
    with pytest.raises(InputError, match="0 or more"):
        ProceduralFaces(-1)
    with pytest.raises(InputError, match="8 or more"):
        ProceduralFaces(1, size=0)
    with pytest.raises(UnknownNameError, match="Smiling"):
        ProceduralFaces(1, attributes=["Smilng"])
    with pytest.raises(InputError, match="data set of 4"):
        ProceduralFaces(4).images(2, 3)


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(drawn_faces, optionflags=doctest.ELLIPSIS)
    assert result.attempted >= 3 and result.failed == 0

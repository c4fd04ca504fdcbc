"""What people have is taken by edit, encode, score and complete; what is wrong gets a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import NAMES, ToyVAE, toy_decoder
from PIL import Image

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
    Updater,
    condition,
    distill,
)
from latentctl.controllers import amortise
from latentctl.critics.expression import parse
from latentctl.errors import FingerprintError, LatentctlError, ShapeError, UnknownNameError
from latentctl.priors import GaussianMixture

GREY = Image.new("RGB", (4, 4), (40, 90, 200))
BYTES = np.asarray(GREY).copy()
UNIT = torch.from_numpy(BYTES).permute(2, 0, 1)[None].repeat(2, 1, 1, 1) / 255


@pytest.fixture(scope="module")
def faces():
    critic = AttributeCritic((8,), NAMES, width=8)
    ascent = Ascent(critic, steps=3)
    return condition(toy_decoder(ToyVAE()), critic, ascent, editor=ascent)


def haves(folder):
    """Two pictures in all the forms that people have them in."""
    path = folder / "a.png"
    GREY.save(path)
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"image": [str(path), str(path)]})
    column = rows.cast_column("image", datasets.Image())["image"]
    both, stacked = torch.from_numpy(BYTES), np.stack([BYTES, BYTES])
    return {
        "tensor": UNIT,
        "PIL": [GREY, GREY],
        "paths": [path, str(path)],
        "opened": [Image.open(path), Image.open(path)],
        "bytes": (UNIT * 255).round().byte(),
        "HWC": torch.stack([both, both]),
        "array": UNIT.numpy(),
        "HWC array": stacked,
        "array of floats": UNIT.permute(0, 2, 3, 1).numpy(),
        "list of arrays": [BYTES, BYTES.transpose(2, 0, 1)],
        "list of tensors": list(UNIT),
        "lists": UNIT.tolist(),
        "tuple": (GREY, str(path)),
        "object array": np.array([str(path), str(path)]),
        "column": column,
        "mappings": [{"bytes": path.read_bytes(), "path": None}] * 2,
    }


def test_every_method_takes_what_people_have(faces, tmp_path):
    mask, kinds = torch.arange(4) < 2, haves(tmp_path)
    expected = faces.edit(UNIT, Smiling=True)
    for kind, x in kinds.items():
        assert torch.equal(faces.edit(x, Smiling=True).x, expected.x), kind
        assert torch.equal(faces.decoder.encode(x).mean, expected.start), kind
        assert torch.equal(faces.score(x), faces.score(UNIT)), kind
        completed = faces.complete(x, mask, count=1, steps=2).x
        assert torch.equal(completed, faces.complete(UNIT, mask, count=1, steps=2).x), kind
    assert len(kinds) == 16


def test_one_picture_is_a_batch_of_one(faces, tmp_path):
    path = tmp_path / "a.png"
    GREY.save(path)
    for one in (GREY, path, str(path), BYTES, UNIT[0], UNIT[0].numpy(), Image.open(path)):
        assert torch.equal(faces.score(one), faces.score(UNIT[:1]))


def test_latents_are_edited_without_encoding(faces):
    latents = Latents(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    faces.decoder.encode_fn, encode = None, faces.decoder.encode_fn
    try:
        out = faces.edit(latents, Male=True)
        assert torch.equal(out.start, latents.mean) and faces.score(latents).shape == (3, 3)
    finally:
        faces.decoder.encode_fn = encode
    with pytest.raises(ShapeError, match=r"latents \(8,\), these are \(5,\)"):
        faces.edit(Latents(torch.zeros(2, 5)), Male=True)


def test_latents_of_another_decoder_are_refused(faces, tmp_path):
    other = toy_decoder(ToyVAE(seed=1))
    latents = latentctl.encode_dataset(other, UNIT, tmp_path / "cache", progress=False)
    with pytest.raises(FingerprintError, match="another decoder"):
        faces.edit(latents, Male=True)


def test_where_is_an_expression_as_text(faces):
    text = "Smiling | ~Male"
    for call in (lambda w: faces.sample(3, where=w), lambda w: faces.edit(UNIT, where=w)):
        assert torch.equal(call(text).x, call(parse(text, faces.critic)).x)
    with pytest.raises(UnknownNameError, match=r"Smilng.*Did you mean 'Smiling'"):
        faces.edit(UNIT, where="Smilng")


def test_masks_and_targets_of_every_form(faces):
    mask = torch.tensor([[1, 1, 0, 0]] * 4).bool()
    picture = Image.fromarray((mask.numpy() * 255).astype(np.uint8))
    expected = faces.complete(UNIT, mask, count=1, steps=2).x
    for form in (mask.tolist(), mask.numpy(), mask.float(), picture, picture.convert("1")):
        assert torch.equal(faces.complete(UNIT, form, count=1, steps=2).x, expected)
    y = [[1, None, 0], [None, 0.5, True]]
    tensor = torch.tensor([[1, torch.nan, 0], [torch.nan, 0.5, 1]])
    for form in (y, tensor.numpy(), tuple(map(tuple, y))):
        assert torch.equal(faces.edit(UNIT, y=form).x, faces.edit(UNIT, y=tensor).x)


WRONG = [
    *(5, 2.5, "no.png", b"x", [None], ["no.png"], [5], {}, {"image": 1}, [{"image": 1}], set()),
    *(object(), iter([1]), np.zeros((2, 3, 8, 8)), np.array(["a"]), torch.zeros(()), "", [""]),
    *(torch.zeros(3), [[1, 2], [3]], ".", len, range(3), GREY.resize((9, 9)), torch.zeros(2, 7)),
    *([GREY, GREY.resize((5, 5))], torch.zeros(2, 3, 4, 4, dtype=torch.complex64), None),
]
FAULTS = {
    "edit": (WRONG, lambda f, v: f.edit(v, Male=True)),
    "encode": (WRONG, lambda f, v: f.decoder.encode(v)),
    "score": (WRONG, lambda f, v: f.score(v)),
    "complete": ([*WRONG, []], lambda f, v: f.complete(v, torch.arange(4) < 2)),
    "mask": (WRONG, lambda f, v: f.complete(UNIT, v)),
    "where": ([v for v in WRONG if v is not None], lambda f, v: f.edit(UNIT, where=v)),
    "y": (WRONG[:-2], lambda f, v: f.edit(UNIT, y=v)),
    "value": (
        [5, 2.5, "no.png", b"x", ["no"], {"image": 1}, [[1]], [1, 2, 3], len],
        lambda f, v: f.edit(UNIT, Male=v),
    ),
    "strength": (WRONG[2:], lambda f, v: f.edit(UNIT, Male=True, strength=v)),
    "hold": ([5, object(), [5], [None], "Mael"], lambda f, v: f.edit(UNIT, Male=True, hold=v)),
    "count": (WRONG[1:], lambda f, v: f.sample(v, Male=True)),
    "decode": (WRONG, lambda f, v: f.decoder.decode(v)),
    "critic": (WRONG, lambda f, v: f.critic.score(v)),
    "latents": (WRONG, lambda f, v: f.add("Hat", v)),
    "fit": (WRONG, lambda f, v: AttributeCritic.fit(v)),
    "prior": (WRONG, lambda f, v: Gaussian.fit(v)),
    "mixture": (WRONG, lambda f, v: GaussianMixture.fit(v)),
    "flow": (WRONG, lambda f, v: LatentFlow.fit(v)),
    "matching": (WRONG, lambda f, v: FlowMatching.fit(v)),
    "actor": (WRONG, lambda f, v: Actor.fit(v)),
    "updater": (WRONG, lambda f, v: Updater.fit(v, f.controller)),
    "knowledge": (WRONG, lambda f, v: KnowledgeBase(f.prior, (8,)).add("Male", v)),
    "distill": (WRONG, lambda f, v: distill(f.critic, v)),
    "amortise": (WRONG, lambda f, v: amortise(f.controller, v)),
    "examples": (WRONG, lambda f, v: ExampleCritic.fit("Hat", v, v)),
    "condition": (WRONG, lambda f, v: condition(v, f.critic)),
    "critic=": (WRONG, lambda f, v: condition(f.decoder, v)),
    "controller=": (WRONG[:-1], lambda f, v: condition(f.decoder, f.critic, v)),
    "evaluator=": (WRONG[:-1], lambda f, v: condition(f.decoder, f.critic, evaluator=v)),
    "prior=": (WRONG[:-1], lambda f, v: condition(f.decoder, f.critic, prior=v)),
    "threshold=": (WRONG[:-1], lambda f, v: condition(f.decoder, f.critic, threshold=v)),
    "dataset": (WRONG, lambda f, v: latentctl.encode_dataset(v, UNIT, "nowhere")),
}


def test_whatever_is_wrong_gets_a_sentence(faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried, raw = 0, []
    for name, (values, call) in FAULTS.items():
        for value in values:
            tried += 1
            try:
                call(faces, value)
                raw.append(f"{name} takes {value!r}")
            except LatentctlError as error:
                assert len(str(error).split()) > 5, error
            except Exception as error:
                raw.append(f"{name} of {value!r}: {type(error).__name__}: {error}")
    print(f"{tried} wrong arguments, {len(raw)} taken or with a raw error")
    assert not raw and tried == sum(len(values) for values, _ in FAULTS.values()) > 500


def test_an_empty_knowledge_base_is_true(faces):
    base = KnowledgeBase(faces.decoder.prior, (8,))
    assert base and len(base) == 0 and isinstance(condition(faces.decoder, base), Conditional)

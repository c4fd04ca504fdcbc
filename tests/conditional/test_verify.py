"""Saved pictures carry a receipt from which they are made again, and changes are told apart."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import random

import numpy as np
import pytest
import torch
from conftest import NAMES, Linear, ToyVAE, toy_decoder
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentctl import Ascent, AttributeCritic, Latents, condition, wrap
from latentctl.conditional import verify
from latentctl.conditional.receipt import KEY, fields_of, packed, unpacked
from latentctl.critics import PixelCritic
from latentctl.display import pixel_hash
from latentctl.errors import InputError
from latentctl.random import noise, seeded
from latentctl.storage.files import sealed


def conditional(decoder=None, critic_seed=0, **parts):
    with seeded(critic_seed):
        critic = AttributeCritic((8,), NAMES, width=8)
    return condition(decoder or toy_decoder(ToyVAE()), critic, **parts)


@pytest.fixture(scope="module")
def faces():
    return conditional()


@pytest.fixture(scope="module")
def photos():
    return noise(0, 5, (3, 4, 4), seed=1, uniform=True)


@pytest.fixture
def file(faces, photos, tmp_path):
    return faces.edit(photos, Smiling=True, Male=0.3, hold=["Hat"]).save(tmp_path / "a.png")


def beside(file):
    return file.with_name(f"{file.name}.json")


def rewrite(file, change, *, reseal=True, both=True):
    """Changes the receipt in the picture and beside it, as who knows the format would."""
    receipt = json.loads(beside(file).read_text())
    change(receipt)
    text = sealed(receipt) if reseal else json.dumps(receipt).encode()
    with Image.open(file) as image:
        info = PngInfo()
        fields = {**fields_of(receipt), KEY: text.decode()}
        for name, value in fields.items():
            info.add_itxt(name, value)
        image.save(file, pnginfo=info)
    if both:
        beside(file).write_bytes(text)


def paint(file, levels=1):
    """Changes one pixel, and keeps the metadata."""
    with Image.open(file) as image:
        info = PngInfo()
        for name, value in image.text.items():
            info.add_itxt(name, value)
        r, g, b = image.getpixel((3, 3))
        image.putpixel((3, 3), ((r + levels) % 256, g, b))
        image.save(file, pnginfo=info)


def test_a_picture_says_what_it_is(file, faces):
    with Image.open(file) as image:
        texts = image.text
    receipt = json.loads(texts[KEY])
    assert texts["Software"].startswith("latentctl ") and "Edited by AI" in texts["Description"]
    assert "compositeWithTrainedAlgorithmicMedia" in texts["XML:com.adobe.xmp"]
    assert receipt == json.loads(beside(file).read_text())
    row = receipt["samples"][0]
    assert row["requested_Smiling"] == 1 and row["held"] == ["Hat"]
    assert receipt["decoder"]["fingerprint"] == faces.decoder.fingerprint()
    assert {"pack", "evaluator", "versions", "request", "digital_source_type"} <= receipt.keys()
    sample = faces.sample(2, Smiling=True).save(file.with_name("b.png"))
    with Image.open(sample) as image:
        assert "Made by AI" in image.text["Description"]


def test_every_kind_of_result_is_made_again(faces, photos, tmp_path):
    ascent = Ascent(faces.critic, steps=5, noise=0.1)
    noisy = condition(faces.decoder, faces.critic, ascent)
    where = "(Smiling & ~Male) | Hat"
    made = [
        (faces, faces.edit(photos, Smiling=[True, None, False, 0.4, 1], hold=False)),
        (faces, faces.edit(photos, where=where, strength=0.5)),
        (faces, faces.edit(photos)),
        (faces, faces.sample(7, Male=False, seed=4, start=3)),
        (noisy, noisy.sample(40, where=where, seed=2)[[3, 17]]),
        (noisy, noisy.edit(photos, Hat=True)[2:]),
    ]
    for number, (maker, out) in enumerate(made):
        if number == 0:
            out = copy.deepcopy(pickle.loads(pickle.dumps(out)))
        verdict = verify(out.save(tmp_path / f"{number}.png", columns=2, margin=number), maker)
        assert verdict.intact and verdict.difference <= 1, (number, str(verdict))


def test_a_region_is_made_again(tmp_path):
    grids = wrap(torch.nn.Conv2d(4, 3, 1), decode="forward", latent_shape=(4, 8, 8))
    critic = AttributeCritic((4, 8, 8), ["Bright"], width=8)
    faces = condition(grids, critic)
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    out = faces.edit(Latents(noise(0, 2, (4, 8, 8), seed=0)), Bright=True, mask=mask)
    assert verify(out.save(tmp_path / "a.png"), faces).intact


TAMPERS = {
    "paint": (lambda f: paint(f), "pixels"),
    "paint and write the hash": (
        lambda f: (paint(f, 90), rewrite(f, lambda r: r["picture"].update(sha256=_hash(f)))),
        "pixels",
    ),
    "grey": (lambda f: Image.open(f).convert("RGBA").save(f, pnginfo=_texts(f)), "pixels"),
    "strip": (lambda f: Image.open(f).save(f), "metadata"),
    "say made by a human": (
        lambda f: Image.open(f).save(f, pnginfo=_texts(f, Description="A photograph.")),
        "metadata",
    ),
    "claim": (
        lambda f: rewrite(f, lambda r: r["samples"][0].update(probability_Smiling=0.99)),
        "metadata",
    ),
    "claim in the picture alone": (
        lambda f: rewrite(f, lambda r: r["samples"][0].update(shift=0.0), both=False),
        "metadata",
    ),
    "no new seal": (lambda f: rewrite(f, lambda r: r.update(names=[]), reseal=False), "metadata"),
    "other request": (
        lambda f: rewrite(f, lambda r: r["samples"][1].update(requested_Smiling=0.0)),
        "metadata",
    ),
    "other start": (
        lambda f: rewrite(f, lambda r: r.update(start=packed(-unpacked(r["start"])))),
        "metadata",
    ),
    "cut receipt": (lambda f: beside(f).write_text(beside(f).read_text()[:200]), "metadata"),
    "other sidecar": (lambda f: beside(f).write_text("[]"), "metadata"),
}


def _texts(file, **others):
    info = PngInfo()
    with Image.open(file) as image:
        for name, value in {**image.text, **others}.items():
            info.add_itxt(name, value)
    return info


def _hash(file):
    with Image.open(file) as image:
        return pixel_hash(torch.from_numpy(np.array(image)))


@pytest.mark.parametrize("name", TAMPERS)
def test_what_was_changed_is_named(name, file, faces):
    change, part = TAMPERS[name]
    change(file)
    verdict = verify(file, faces)
    assert set(verdict.changed) == {part}, str(verdict)
    assert str(verdict).startswith(f"Changed: {part} (") and not verdict.intact


def test_another_pack_or_decoder_is_named(file, faces, tmp_path):
    other = conditional(critic_seed=1)
    folder = faces.save_pretrained(tmp_path / "pack")
    elsewhere = other.save_pretrained(tmp_path / "other")
    abroad = conditional(toy_decoder(ToyVAE(seed=1))).save_pretrained(tmp_path / "abroad")
    decoder, model = toy_decoder(ToyVAE()), ToyVAE(seed=1)
    assert verify(file, folder, decoder).intact and verify(file, faces).intact
    assert set(verify(file, other).changed) == {"pack"}
    assert set(verify(file, elsewhere, decoder).changed) == {"pack"}
    assert set(verify(file, abroad, decoder).changed) == {"pack"}
    assert set(verify(file, folder, toy_decoder(model)).changed) == {"decoder"}
    assert set(verify(file, conditional(toy_decoder(model))).changed) == {"decoder"}
    stricter = condition(decoder, faces.critic, threshold=0.9)
    assert set(verify(file, stricter).changed) == {"pack"}
    weights = next(folder.glob("critic*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert set(verify(file, folder, decoder).changed) == {"pack"}
    with pytest.raises(InputError, match="needs its decoder"):
        verify(file, folder)


def test_what_cannot_be_recomputed_is_said(faces, photos, tmp_path):
    evaluator = PixelCritic(faces.decoder, lambda x: x.flatten(1)[:, :3], names=NAMES)
    strict = condition(faces.decoder, faces.critic, evaluator=evaluator)
    path = strict.edit(photos, Smiling=True).save(tmp_path / "a.png")
    assert verify(path, strict).intact
    lax = condition(faces.decoder, faces.critic, threshold=strict.threshold)
    verdict = verify(path, lax)
    assert not verdict.changed and not verdict.intact and "evaluator=" in str(verdict)
    path = faces.edit(photos, where=faces.critic["Hat"]).save(tmp_path / "b.png")
    assert "`where` was a critic" in str(verify(path, faces))
    own = condition(faces.decoder, Linear(torch.ones(8)))  # cannot be saved
    verdict = verify(own.sample(3).save(tmp_path / "c.png"), own)
    assert verdict.intact and "no fingerprint" in str(verdict)
    (tmp_path / "d.png").write_bytes((tmp_path / "c.png").read_bytes())
    assert verify(tmp_path / "d.png", own).intact  # without the file beside it
    verdict = verify(path, faces, inputs=photos.flip(1))
    assert "inputs are not among" in str(verdict)


def test_files_without_a_receipt_are_refused(faces, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "a.jpg", "text.png", "absent.png", "."):
        with pytest.raises(InputError):
            verify(tmp_path / name, faces)


def test_no_receipt_brings_verify_down(file, faces):
    """Fields of any kind, rightly sealed: each is a change of the metadata, or none that counts."""
    draw, saved = random.Random(0), (file.read_bytes(), beside(file).read_bytes())
    values = [None, -1, 2**70, 1e308, "x", [], {}, True, [[]], {"shape": [10**9], "float32": ""}]
    values.append({"shape": [5, 8], "float32": base64.b64encode(b"\xff" * 160).decode()})
    verdicts = []
    for _ in range(80):
        receipt = json.loads(saved[1])
        receipt.pop("sha256")  # sealing writes it
        place = draw.choice(
            [receipt, receipt["request"], receipt["picture"], receipt["samples"][0]]
        )
        key = draw.choice(sorted(place))
        place[key] = draw.choice([v for v in values if v != place[key]])
        file.write_bytes(saved[0])
        beside(file).write_bytes(sealed(receipt))  # the two differ
        assert "metadata" in verify(file, faces).changed
        try:
            rewrite(file, lambda r, new=receipt: (r.clear(), r.update(new)))
        except (InputError, KeyError, TypeError):
            continue
        verdicts.append((key, verify(file, faces)))
    silent = {key for key, verdict in verdicts if verdict.intact}
    assert len(verdicts) > 40
    assert silent <= {
        "input",
        "names",
        "versions",
        "columns",
        "margin",
        "size",
        "statement",
        "digital_source_type",
        "where_is_text",
        "seed",
        "index",
        "latentctl_version",
    }, silent

"""Signatures of others in picture files are found, and the files are left alone."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import pytest
import torch
from conftest import NAMES, ToyVAE
from PIL import Image

import latentctl
from latentctl import AttributeCritic, condition
from latentctl.decoder.signatures import signature_of


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, format=kind)
    return file.getvalue()


def signed_png():
    raw, box = picture("PNG"), b"\0\0\0\x10jumb12345678"
    chunk = struct.pack(">I", len(box)) + b"caBX" + box
    return raw[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + raw[33:]


def signed_jpeg():
    raw, box = picture("JPEG"), b"JP\0\x01\0\0\0\x01\0\0\0\x20jumb\0\0\0\x10jumd1234"
    return raw[:2] + b"\xff\xeb" + struct.pack(">H", len(box) + 2) + box + raw[2:]


def test_signatures_are_found():
    assert signature_of(signed_png()) == signature_of(signed_jpeg()) == "C2PA"
    for raw in (picture("PNG"), picture("JPEG"), picture("BMP"), b"", b"\xff\xd8\xff"):
        assert signature_of(raw) is None
    for raw in (signed_png(), signed_jpeg()):
        for cut in range(len(raw)):
            signature_of(raw[:cut])


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_edit_warns_and_leaves_the_file_alone(name, tmp_path, caplog):
    raw = {"a.png": signed_png, "a.jpg": signed_jpeg}[name]()
    path = tmp_path / name
    path.write_bytes(raw)
    faces = condition(
        latentctl.wrap(ToyVAE(), latent_shape=(8,)), AttributeCritic((8,), NAMES, width=8)
    )
    for x in (path, [str(path)], Image.open(path), [{"bytes": None, "path": str(path)}]):
        with caplog.at_level(logging.WARNING):
            out = faces.edit(x, Smiling=True)
        assert "signed (C2PA)" in caplog.text and name in caplog.text
        caplog.clear()
    assert path.read_bytes() == raw
    assert signature_of(out.save(tmp_path / "out.png").read_bytes()) is None
    faces.edit(torch.rand(1, 3, 4, 4), Smiling=True)
    assert not caplog.text

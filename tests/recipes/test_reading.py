"""Broken photographs and mixed labels of the recipes' data: named, refused, or left out."""

from __future__ import annotations

import io
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.faces import DataFlags, load_faces, read_images
from support.images import ImageFlags, load_images
from support.reading import label_matrix

from latentctl.errors import InputError

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
SIZE = 16


def png(rng, orientation=1):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def folder_of(path: Path, pictures: list[bytes], **labels: list) -> str:
    """A folder with a parquet file for each split, of the same rows."""
    rows = {"image": [{"bytes": raw, "path": f"{i}.png"} for i, raw in enumerate(pictures)]}
    features = {name: datasets.Value("float32") for name in labels}
    data = datasets.Dataset.from_dict(
        rows | labels, features=datasets.Features(image=datasets.Image(), **features)
    )
    path.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        data.to_parquet(path / f"{split}.parquet")
    return str(path)


def flags_of(folder, kind=DataFlags, **options):
    shapes = {"resolution": SIZE}
    return kind(train_data_dir=folder, cache_dir=folder + "-cache", **shapes, **options)


def test_broken_photographs_are_named_or_left_out(tmp_path):
    rng, tried = np.random.default_rng(SEED), 0
    for number in range(4):
        pictures = [png(rng) for _ in range(12)]
        bad = sorted(rng.choice(12, int(rng.integers(1, 4)), replace=False).tolist())
        for row in bad:
            raw = pictures[row]
            pictures[row] = raw[: int(rng.integers(0, len(raw) - 30))]
            tried += 1
        labels = [float(row % 2) for row in range(12)]
        folder = folder_of(tmp_path / str(number), pictures, Smiling=labels)
        faces = flags_of(folder, attributes=("Smiling",))
        images = flags_of(folder, ImageFlags)
        for load, flags in ((load_faces, faces), (load_images, images)):
            with pytest.raises(InputError, match=rf"{bad[0]}\.png.*--on_bad_sample skip"):
                load(flags)
            flags.on_bad_sample = "skip"
            kept = load(flags)["train"]
            assert len(kept) == 12 - len(bad) == len(kept.labels)
        kept = load_faces(faces)["train"]
        good = [row for row in range(12) if row not in bad]
        assert kept.labels[:, 0].tolist() == [labels[row] for row in good]
        first = np.asarray(Image.open(io.BytesIO(pictures[good[0]])))
        assert np.array_equal(kept.images[0].permute(1, 2, 0).numpy(), first)
    print(f"{tried} broken photographs: each named, each left out on demand")


def test_photographs_of_a_data_set_are_turned_upright(tmp_path):
    for orientation in (1, 3, 6, 8):
        raw = png(np.random.default_rng(SEED), orientation)
        folder = folder_of(tmp_path / str(orientation), [raw] * 2, Smiling=[0.0, 1.0])
        upright = load_faces(flags_of(folder, attributes=()))["train"].images[0]
        (tmp_path / f"{orientation}.d").mkdir()
        (tmp_path / f"{orientation}.d" / "a.png").write_bytes(raw)
        images, names = read_images(tmp_path / f"{orientation}.d", 5, SIZE, SIZE)
        assert names == ["a.png"] and torch.equal(images[0], upright)
        quarters = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
        turned = np.rot90(np.asarray(Image.open(io.BytesIO(raw))), quarters)
        assert np.array_equal(upright.permute(1, 2, 0).numpy(), turned)


class Split(dict):
    def __len__(self):
        return len(next(iter(self.values())))


def test_labels_of_minus_one_never_change_other_labels():
    nan = float("nan")
    both = label_matrix(Split(a=[-1, 1, -1], b=[1, -1, None]), ("a", "b"))
    assert torch.equal(both[:, 0], torch.tensor([0.0, 1, 0]))
    assert both[:2, 1].tolist() == [1, 0] and both[2, 1].isnan()
    plain = Split(a=[True, False, True], b=[0, 0.5, nan])
    assert label_matrix(plain, ("a", "b"))[:2].tolist() == [[1, 0], [0, 0.5]]
    rng, tried = np.random.default_rng(SEED), 0
    for _ in range(100):
        values = rng.integers(0, 2, (8, 3)).astype(float)
        values[0] = 0  # so that some label is 0
        values[rng.integers(1, 8), rng.integers(3)] = rng.choice([-1, 2, -0.5, 255, np.inf])
        split = Split({name: values[:, k].tolist() for k, name in enumerate("abc")})
        with pytest.raises(InputError, match=r"The label '[abc]' of row \d"):
            label_matrix(split, tuple("abc"))
        tried += 1
    with pytest.raises(InputError, match="'a' holds no numbers"):
        label_matrix(Split(a=["yes", "no"]), ("a",))
    print(f"{tried} tables with one wrong label: 0 taken")

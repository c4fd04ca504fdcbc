"""Pictures: every mode, orientation and format reads right, and every fault is refused."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from conftest import ToyVAE
from PIL import Image, ImageOps

from latentctl.decoder import Decoder, Posterior, encode_dataset, read_samples
from latentctl.decoder.pictures import read_picture
from latentctl.decoder.samples import sample_of
from latentctl.errors import InputError

SIZE = 24
SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I;16B", "F")
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "RGB"),
    "PPM": ("L", "RGB"),
    "TGA": ("L", "RGB", "RGBA"),
}


def decoder_of(channels=3, value_range=(0.0, 1.0), side=SIZE):
    shape = (channels, side, side)
    return Decoder(
        ToyVAE(), lambda m, z: z, latent_shape=shape, sample_shape=shape, value_range=value_range
    )


def picture(mode, rng, side=SIZE):
    """A smooth picture with some noise, and its colours as the eye sees them, on white."""
    ramp = np.add.outer(np.arange(side), np.arange(side))[..., None] * [1, 2, 3] % 256
    rgb = (ramp + rng.integers(0, 20, (side, side, 3))).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(rgb)
    if mode.startswith("I;16"):
        values = np.asarray(image.convert("L")).astype(np.uint16) * 257
        wide = values.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        return Image.frombytes(mode, image.size, wide)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    return image.convert(mode)


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def truth(image):
    """The picture as RGB bytes, by another route than the reader's."""
    if image.mode.startswith("I;16") or image.mode == "F":
        values = np.asarray(image).astype(np.float64) / (1 if image.mode == "F" else 65535)
        return np.repeat((255 * values).round().astype(np.uint8)[..., None], 3, 2)
    return np.asarray(image.convert("RGB"))


def given(raw, path, kind):
    """The picture of a file as users have it."""
    path.write_bytes(raw)
    if kind == "path":
        return path
    if kind == "bytes":
        return {"bytes": raw, "path": None}
    return Image.open(path if kind == "picture" else io.BytesIO(raw))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_as_it_looks(mode):
    image = picture(mode, np.random.default_rng(SEED))
    seen = truth(image)
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        x = sample_of(image, decoder_of(value_range=(low, high)))
        expected = torch.from_numpy(seen.copy()).permute(2, 0, 1) / 255 * (high - low) + low
        assert (x - expected).abs().max() < 1e-6
    grey = sample_of(image, decoder_of(1))
    assert (grey - sample_of(image, decoder_of()).mean(0)).abs().mean() < 0.1
    assert grey.std() > 0.05  # neither white nor black


def test_transparent_pixels_are_white():
    image = Image.new("RGBA", (SIZE, SIZE), (10, 20, 30, 0))
    assert bool((sample_of(image, decoder_of()) == 1).all())
    assert bool((sample_of(image, decoder_of(4))[3] == 0).all())
    palette = Image.new("P", (SIZE, SIZE), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    assert bool((sample_of(palette, decoder_of()) == 1).all())


@pytest.mark.parametrize("kind", ["path", "bytes", "picture", "loaded", "converted"])
def test_every_orientation_of_every_kind_is_turned(kind, tmp_path):
    image = picture("RGB", np.random.default_rng(SEED))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        raw = saved(image, "PNG", exif=exif)
        value = given(raw, tmp_path / "a.png", kind)
        if kind == "loaded":
            value.load()
        elif kind == "converted":
            value = value.convert("RGBA")
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))))
        assert np.array_equal(np.asarray(read_picture(value)), expected), orientation


def faults(rng, count):
    """`count` files that are truncated, or have corrupted bytes; `(what, raw, truth)`."""
    formats = [(name, mode) for name, modes in FORMATS.items() for mode in modes]
    for _ in range(count):
        name, mode = formats[rng.integers(len(formats))]
        raw = bytearray(saved(picture(mode, rng), name))
        seen = np.asarray(read_picture({"bytes": bytes(raw), "path": None}, "RGB"))
        if rng.random() < 0.5:
            raw = raw[: rng.integers(len(raw))]
            yield f"truncated {name} {mode}", bytes(raw), seen
            continue
        for _ in range(int(rng.integers(1, 5))):
            raw[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
        yield f"corrupted {name} {mode}", bytes(raw), seen


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of files that are refused
def test_no_broken_file_is_taken_and_each_is_refused_twice(tmp_path):
    rng, count, refused, taken = np.random.default_rng(SEED), 400, 0, []
    for number, (what, raw, seen) in enumerate(faults(rng, count)):
        kind = ("path", "bytes", "picture", "stream")[number % 4]
        try:
            value = given(raw, tmp_path / "picture", kind)
        except Exception:  # Pillow's, in the user's own Image.open
            value = tmp_path / "picture"
        answers = []
        for _ in range(2):
            try:
                answers.append(np.asarray(read_picture(value, "RGB")))
            except InputError as error:
                assert str(error).startswith(("it ", "there "))
                answers.append(None)
        refused += answers[0] is None
        first, second = (None if a is None else a.tobytes() for a in answers)
        assert first == second, f"{what} as {kind}: two answers"
        # only PNG has checksums: the others cannot tell corrupted colours from colours
        whole = first is None or np.array_equal(answers[0], seen)
        if not whole and ("truncated" in what or "PNG" in what):
            taken.append(f"{what} as {kind}")
    print(f"{count} broken pictures: {refused} refused, {len(taken)} taken in silence")
    assert not taken and refused > count / 3


@pytest.mark.parametrize(
    "value, reason",
    [
        ("no/such/file.png", "no such file"),
        (os.path.dirname(__file__), "no such file"),
        ("/dev/zero", "no such file"),
        (Image.new("F", (SIZE, SIZE), 255.0), r"floats in \[255, 255\]"),
        (Image.new("F", (SIZE, SIZE), float("nan")), "floats in"),
        (Image.new("I", (SIZE, SIZE), 70000), "32-bit"),
        (Image.new("I;16", (SIZE, SIZE), 255), "255 of 65535: nearly black"),
        (np.full((SIZE, SIZE, 3), 4095, dtype=np.uint16), "4095 of 65535: nearly black"),
        (np.zeros((SIZE, SIZE, 3), dtype=np.int64), "int64"),
        (np.full((SIZE, SIZE, 3), np.nan), "finite"),
        (np.full((SIZE, SIZE, 3), 255.0), r"values in \[0, 1\]"),
        (np.zeros((SIZE, SIZE + 1, 3)), "it has shape"),
        (np.zeros((SIZE, SIZE, 3), dtype=object), "TypeError"),
        (Image.new("RGB", (SIZE + 1, SIZE)), "it has shape"),
        (Image.new("La", (SIZE, SIZE)), "cannot be read as a picture"),
        (None, "NoneType"),
        (3.0, "float|it has shape"),
        ({"image": 1}, "dict"),
        (iter([1]), "iterator"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(value, reason):
    decoder = decoder_of()
    with pytest.raises(InputError, match=reason):
        read_samples(value, decoder)
    good = Image.new("RGB", (SIZE, SIZE))
    with pytest.raises(InputError, match=rf"Input 1.*{reason if reason != 'iterator' else ''}"):
        read_samples([good, value], decoder)


def test_whatever_a_user_has_is_read(tmp_path):
    decoder, rng = decoder_of(value_range=(-1.0, 1.0)), np.random.default_rng(SEED)
    image = picture("RGB", rng)
    image.save(tmp_path / "a.png")
    array = np.asarray(image).copy()
    chw = array.transpose(2, 0, 1)
    unit = torch.from_numpy(array).permute(2, 0, 1) / 255 * 2 - 1
    ones = [
        *(tmp_path / "a.png", str(tmp_path / "a.png"), image, Image.open(tmp_path / "a.png")),
        *(array, chw, torch.from_numpy(array), torch.from_numpy(chw), unit, unit.numpy()),
        *(array.astype(np.uint16) * 257, unit.permute(1, 2, 0), unit.double()),
        {"bytes": (tmp_path / "a.png").read_bytes(), "path": None},
    ]
    for one in ones:
        x = read_samples(one, decoder)
        assert x.shape == (1, 3, SIZE, SIZE) and (x[0] - unit).abs().max() < 1e-6
        assert torch.equal(read_samples([one, one], decoder), x.repeat(2, 1, 1, 1))
    assert torch.equal(read_samples(np.stack([array, array]), decoder)[1], x[0])
    batch = torch.stack([unit, unit])
    assert read_samples(batch, decoder) is batch
    assert read_samples([], decoder).shape == (0, 3, SIZE, SIZE)
    grey = np.zeros((5, SIZE, SIZE), dtype=np.uint8)
    assert read_samples(grey, decoder_of(1)).shape == (5, 1, SIZE, SIZE)
    assert read_samples(grey[0], decoder_of(1)).shape == (1, 1, SIZE, SIZE)


def encoder_of(value_range):
    return Decoder(
        ToyVAE(),
        lambda m, z: z,
        lambda m, x: Posterior(x.flatten(1)[:, :8]),
        latent_shape=(8,),
        sample_shape=(3, SIZE, SIZE),
        value_range=value_range,
    )


@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
def test_a_data_set_of_files_and_opened_pictures_is_encoded_alike(tmp_path, value_range):
    decoder, rng = encoder_of(value_range), np.random.default_rng(SEED)
    paths = []
    for mode in ("RGB", "L", "I;16", "P"):
        paths.append(tmp_path / f"{mode.replace(';', '')}.png")
        picture(mode, rng).save(paths[-1])
    opened = [Image.open(path) for path in paths]
    one = encode_dataset(decoder, paths, tmp_path / "paths", progress=False)
    other = encode_dataset(decoder, opened, tmp_path / "pictures", progress=False)
    assert torch.equal(one.mean, other.mean)
    assert bool(((one.mean >= 0) & (one.mean <= 1)).all()) and one.mean.std() > 0.01


def test_a_truncated_opened_picture_is_refused_by_each_encoding(tmp_path):
    raw = saved(picture("RGB", np.random.default_rng(SEED)), "PNG")
    (tmp_path / "a.png").write_bytes(raw[: len(raw) // 2])
    with Image.open(tmp_path / "a.png") as opened:
        for number in range(3):
            with pytest.raises(InputError, match=r"Sample 0 \(.*a\.png\).*Truncated"):
                encode_dataset(encoder_of(None), [opened], tmp_path / str(number), progress=False)


def test_a_decoder_without_bounds_reads_pictures_in_unit_range():
    for value_range in (None, (-torch.inf, torch.inf)):
        decoder = decoder_of(value_range=value_range)
        assert bool((read_samples(Image.new("RGB", (SIZE, SIZE), "white"), decoder) == 1).all())
        wide = torch.full((2, 3, SIZE, SIZE), 7.0)
        assert read_samples(wide, decoder) is wide

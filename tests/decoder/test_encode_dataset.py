from __future__ import annotations

import functools
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from latentctl.decoder import Decoder, Posterior
from latentctl.decoder.encode import encode_dataset
from latentctl.errors import AdapterError, CacheError, InputError, ShapeError, UnknownNameError
from latentctl.latents import Latents

SHAPE = (3, 8, 8)
N = 53
if TYPE_CHECKING:
    import datasets

encode = functools.partial(encode_dataset, batch_size=4, shard_size=16, progress=False)


class Counting(nn.Module):
    """An encoder that counts its samples."""

    def __init__(self, seed: int = 0, width: float = 0.5) -> None:
        super().__init__()
        weight = torch.randn(5, 192, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight / 14)
        self.width = width
        self.seen = 0
        self.largest = 0

    def encode(self, x: torch.Tensor) -> Posterior:
        self.seen += len(x)
        self.largest = max(self.largest, len(x))
        mean = x.flatten(1) @ self.weight.T
        return Posterior(mean, self.width + mean.abs() if self.width else None)


def wrap(seed: int = 0, width: float = 0.5) -> Decoder:
    return Decoder(
        Counting(seed, width),
        lambda model, z: z @ model.weight,
        lambda model, x: model.encode(x),
        latent_shape=(5,),
        sample_shape=SHAPE,
    )


@pytest.fixture
def decoder() -> Decoder:
    return wrap()


def pixels(n: int = N) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def faces(n: int = N, broken: tuple[int, ...] = ()) -> datasets.Dataset:
    """Images as `datasets` stores them, some of them truncated."""
    import datasets  # here, because launched processes import this file and mostly need no such

    images = [png(array) for array in pixels(n)]
    for index in broken:
        images[index] = images[index][:60]
    rows = {
        "image": [{"bytes": b, "path": f"{i:06d}.png"} for i, b in enumerate(images)],
        "Smiling": [i % 2 == 0 for i in range(n)],
        "Male": [i % 3 == 0 for i in range(n)],
        "Bald": [False] * n,
    }
    features = {name: datasets.Value("bool") for name in ("Smiling", "Male", "Bald")}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features(image=datasets.Image(), **features)
    )


def tensors(latents: Latents) -> list[torch.Tensor]:
    parts = [latents.mean, latents.std, latents.labels, latents.index]
    return [part for part in parts if part is not None]


def same(a: Latents, b: Latents) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return a.names == b.names and all(torch.equal(x, y) for x, y in pairs)


def shard_files(path: Path) -> list[Path]:
    return sorted(path.glob("shard-*.safetensors"))


def manifest(path: Path) -> dict:
    return json.loads((path / "manifest.json").read_text())


# --- Latents by hand -------------------------------------------------------------------------


def by_hand(n: int = 7) -> Latents:
    draw = torch.Generator().manual_seed(1)
    mean, std = torch.randn(n, 2, 3, generator=draw), torch.rand(n, 2, 3, generator=draw)
    labels = torch.tensor([[1.0, 0.0], [0.0, float("nan")], [0.5, 1.0]]).repeat(n, 1)[:n]
    return Latents(mean, std, labels, ["Smiling", "Male"])


def many_shards(tmp_path: Path, n: int = N, shard_size: int = 16) -> Latents:
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n).remainder(2)[:, None]
    rows = torch.utils.data.TensorDataset(x, labels)
    return encode(wrap(), rows, tmp_path, attributes=["Odd"], shard_size=shard_size)


@pytest.mark.parametrize("shard_size", [7, 16, 1000])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(-N, N - 1), max_size=40))
def test_a_batch_is_what_indexing_the_whole_gives(
    tmp_path: Path, shard_size: int, rows: list[int]
) -> None:
    latents = many_shards(tmp_path, shard_size=shard_size)
    batch = latents[rows]
    assert torch.equal(batch.mean, latents.mean[torch.tensor(rows, dtype=torch.long)])
    assert batch.index.tolist() == [row % N for row in rows]
    assert batch.column("Odd").tolist() == [row % N % 2 for row in rows]


def test_every_kind_of_index(tmp_path: Path) -> None:
    latents = many_shards(tmp_path)
    whole = latents.mean
    assert torch.equal(latents[5:40:3].mean, whole[5:40:3])
    assert torch.equal(latents[14:18].mean, whole[14:18])
    assert latents[-1].mean.shape == (1, 5) and torch.equal(latents[-1].mean, whole[-1:])
    assert torch.equal(latents[whole[:, 0] > 0].mean, whole[whole[:, 0] > 0])
    assert len(latents[[]]) == 0 and latents[[]].mean.shape == (0, 5)
    assert sum(len(row) for row in latents) == N  # stops by IndexError
    with pytest.raises(IndexError, match="53 latents"):
        latents[[0, N]]
    with pytest.raises(IndexError):
        latents[-N - 1]


def test_torch_can_shuffle_it(tmp_path: Path) -> None:
    latents = many_shards(tmp_path)
    sampler = torch.utils.data.RandomSampler(latents, generator=torch.Generator().manual_seed(0))
    batches = torch.utils.data.BatchSampler(sampler, 10, False)
    loader = torch.utils.data.DataLoader(latents, sampler=batches, batch_size=None)
    index = torch.cat([batch.index for batch in loader])
    assert index.tolist() != list(range(N)) and sorted(index.tolist()) == list(range(N))


@pytest.mark.parametrize("shard_size", [7, 16, 1000])
def test_moments_are_those_of_the_aggregate_posterior(tmp_path: Path, shard_size: int) -> None:
    latents = many_shards(tmp_path, shard_size=shard_size)
    mean, std = latents.mean.double(), latents.std.double()
    variance = mean.var(0, correction=0) + std.square().mean(0)
    found = latents.moments()
    torch.testing.assert_close(found[0], mean.mean(0).float())
    torch.testing.assert_close(found[1], variance.sqrt().float())
    torch.testing.assert_close(latents.posterior_std(), std.mean(0).float())
    assert not torch.allclose(found[1], mean.std(0).float())  # the posteriors' width counts


def test_moments_survive_a_large_offset() -> None:
    mean = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    far = Latents(mean + 1000.0)
    torch.testing.assert_close(far.moments()[1], mean.std(0, correction=0), rtol=1e-3, atol=0)


def test_without_stds_every_dimension_has_equal_weight() -> None:
    latents = Latents(torch.tensor([[-1.0, -7.0], [1.0, 7.0]]))
    assert latents.posterior_std().tolist() == pytest.approx([5.0, 5.0])
    assert torch.equal(latents.sample(torch.ones(2, 2)), latents.mean)


def test_sample_is_mean_plus_std_times_noise() -> None:
    latents, eps = by_hand(), torch.full((7, 2, 3), 2.0)
    assert torch.equal(latents.sample(eps), latents.mean + 2 * latents.std)
    with pytest.raises(ShapeError):
        latents.sample(eps[:3])


def test_labels_are_chosen_by_name() -> None:
    latents = by_hand()
    assert torch.equal(
        latents.select(["Male"]).labels[:, 0].nan_to_num(9), latents.column("Male").nan_to_num(9)
    )
    swapped = latents.select(["Male", "Smiling"])
    assert swapped.names == ("Male", "Smiling")
    assert torch.equal(swapped.column("Smiling"), latents.column("Smiling"))
    assert swapped.select([]).labels is None
    with pytest.raises(UnknownNameError, match="Did you mean 'Smiling'"):
        latents.column("smilng")
    with pytest.raises(UnknownNameError, match="Male"):
        latents.select(["Female"])
    relabelled = latents.with_labels(torch.zeros(7, 1), ["Hat"])
    assert relabelled.names == ("Hat",) and latents.names == ("Smiling", "Male")
    assert relabelled.mean is latents.mean


def test_relabelling_many_shards_keeps_the_rows_together(tmp_path: Path) -> None:
    latents = many_shards(tmp_path)
    labels = latents.index[:, None] / 100
    batch = latents.with_labels(labels, ["Place"])[[40, 3, 17]]
    assert torch.equal(batch.column("Place"), batch.index / 100)
    assert batch.fingerprint == latents.fingerprint != ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mean": torch.tensor([[0.0], [float("nan")]])}, r"rows \[1\]"),
        ({"mean": torch.zeros(2, 3), "std": torch.zeros(2, 4)}, "one shape"),
        ({"mean": torch.zeros(2, 3), "std": -torch.ones(2, 3)}, "negative"),
        ({"mean": torch.zeros(2)}, "latent_shape"),
        ({"mean": torch.zeros(2, 3), "labels": torch.zeros(2), "names": ["a"]}, r"\(2, 1\)"),
        ({"mean": torch.zeros(2, 3), "labels": torch.zeros(2, 1)}, "0 names"),
        ({"mean": torch.zeros(2, 3), "names": ["a"]}, "found None"),
        ({"mean": torch.zeros(2, 3), "labels": -torch.ones(2, 1), "names": ["a"]}, "Map -1 to 0"),
        ({"mean": torch.zeros(2, 3), "labels": torch.ones(2, 2), "names": ["a", "a"]}, "unique"),
    ],
)
def test_bad_tensors_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Latents(**arguments)


def test_latents_of_tensors_are_saved_and_loaded(tmp_path: Path) -> None:
    latents = by_hand()
    latents.save(tmp_path / "cache")
    back = Latents.load(tmp_path / "cache")
    assert back.names == latents.names and back.fingerprint == ""
    assert torch.equal(back.mean, latents.mean) and torch.equal(back.std, latents.std)
    assert torch.equal(back.labels.nan_to_num(9), latents.labels.nan_to_num(9))


def test_a_cache_can_be_saved_over_itself(tmp_path: Path) -> None:
    latents = many_shards(tmp_path)
    wanted = latents.mean.clone()
    latents.select([]).save(tmp_path)
    assert Latents.load(tmp_path).labels is None
    assert torch.equal(Latents.load(tmp_path).mean, wanted)
    assert len(shard_files(tmp_path)) == 4  # what belonged to the older cache is gone


def test_one_tensor_may_be_mean_and_std(tmp_path: Path) -> None:
    ones = torch.ones(3, 2)
    Latents(ones, ones).save(tmp_path)
    assert torch.equal(Latents.load(tmp_path).std, ones)


# --- encoding --------------------------------------------------------------------------------


def test_the_cache_holds_the_encoders_posterior(tmp_path: Path, decoder: Decoder) -> None:
    latents = encode(decoder, faces(), tmp_path, attributes=["Male", "Bald"])
    x = torch.from_numpy(pixels()).permute(0, 3, 1, 2) / 255
    posterior = decoder.encode(x)
    torch.testing.assert_close(latents.mean, posterior.mean)
    torch.testing.assert_close(latents.std, posterior.std)
    assert latents.names == ("Male", "Bald") and latents.fingerprint == decoder.fingerprint()
    assert latents.column("Male").tolist() == [float(i % 3 == 0) for i in range(N)]
    assert latents.column("Bald").sum() == 0  # one class only is for the critic to refuse
    assert decoder.model.largest <= N


@pytest.mark.parametrize("shard_size", [1, 16, 27, 53, 100])
def test_shards_change_nothing(tmp_path: Path, decoder: Decoder, shard_size: int) -> None:
    def run(name: str, size: int) -> Latents:
        return encode(
            decoder, faces(), tmp_path / name, attributes=["Male"], shard_size=size, batch_size=1
        )

    one, many = run("one", 1000), run("many", shard_size)
    assert same(one, many)
    assert len(shard_files(tmp_path / "many")) == -(-N // shard_size)


def test_a_deterministic_encoder_has_no_std(tmp_path: Path) -> None:
    latents = encode(wrap(width=0.0), faces(), tmp_path)
    assert latents.std is None and latents.labels is None and len(latents) == N


@pytest.mark.parametrize("kind", ["hf", "torch", "generator", "list"])
def test_every_kind_of_data_set_gives_the_same(tmp_path: Path, decoder: Decoder, kind: str) -> None:
    names = ["Smiling", "Male"]
    wanted = encode(decoder, faces(), tmp_path / "a", attributes=names)
    rows = list(faces())
    x = torch.from_numpy(pixels()).permute(0, 3, 1, 2)
    labels = torch.tensor([[row[name] for name in names] for row in rows])

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return zip(pixels(), labels, strict=True)

    found = encode(
        decoder,
        {
            "hf": lambda: faces().to_iterable_dataset(),
            "torch": Stream,
            "generator": lambda: ((image, row) for image, row in zip(x, rows, strict=True)),
            "list": lambda: rows,
        }[kind](),
        tmp_path / "b",
        attributes=names,
    )
    assert same(wanted, found)


def test_vectors_need_no_value_range(tmp_path: Path) -> None:
    decoder = Decoder(
        nn.Linear(3, 2),
        lambda m, z: z,
        lambda m, x: Posterior(m(x.float())),
        latent_shape=(2,),
        sample_shape=(3,),
        value_range=None,
    )
    plain = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    a = encode(decoder, plain, tmp_path / "a")
    b = encode(decoder, plain.tolist(), tmp_path / "b")
    assert torch.equal(a.mean, b.mean)
    tokens = encode(decoder, torch.randint(0, 9, (9, 3), dtype=torch.uint8), tmp_path / "c")
    assert len(tokens) == 9  # bytes are not scaled where there is no range
    with pytest.raises(InputError, match=r"Sample 0 .*NaN"):
        encode(decoder, torch.full((2, 3), torch.nan), tmp_path / "d")


def test_a_transform_gets_images_and_is_seeded(tmp_path: Path, decoder: Decoder) -> None:
    def jitter(image: Image.Image) -> Image.Image:
        assert isinstance(image, Image.Image)
        return image.rotate(90 * int(torch.randint(4, ())))

    before = torch.random.get_rng_state()
    one = encode(decoder, faces(), tmp_path / "a", transform=jitter, batch_size=1)
    many = encode(decoder, faces(), tmp_path / "b", transform=jitter, batch_size=1, shard_size=5)
    assert torch.equal(before, torch.random.get_rng_state())
    other = encode(decoder, faces(), tmp_path / "c", transform=jitter, batch_size=1, seed=1)
    assert same(one, many) and not same(one, other)


def test_wrong_arguments_name_what_exists(tmp_path: Path, decoder: Decoder) -> None:
    for data in (faces(), faces().to_iterable_dataset()):
        with pytest.raises(UnknownNameError, match="Did you mean 'Smiling'"):
            encode(decoder, data, tmp_path / "a", attributes=["smilng"], on_bad_sample="skip")
        with pytest.raises(UnknownNameError, match="Did you mean 'image'"):
            encode(decoder, data, tmp_path / "a", image_column="images")
    with pytest.raises(InputError, match=r"\(3, 8, 8\).*\(3, 4, 4\).*transform="):
        small = wrap()
        small.sample_shape = (3, 4, 4)
        encode(small, faces(), tmp_path / "a")
    with pytest.raises(InputError, match="empty"):
        encode(decoder, [], tmp_path / "a")
    with pytest.raises(InputError, match="__getitem__"):
        encode(decoder, 7, tmp_path / "a")
    with pytest.raises(InputError, match="on_bad_sample"):
        encode(decoder, faces(), tmp_path / "a", on_bad_sample="ignore")
    with pytest.raises(InputError, match="unique"):
        encode(decoder, faces(), tmp_path / "a", attributes=["Male", "Male"])
    with pytest.raises(InputError, match=r"Sample 0 .*0 labels"):
        encode(decoder, torch.rand(3, *SHAPE), tmp_path / "a", attributes=["Male"])
    blind = Decoder(nn.Linear(1, 1), lambda m, z: z, latent_shape=(1,), sample_shape=(1,))
    with pytest.raises(AdapterError, match="no encoder"):
        encode(blind, faces(), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="is a file"):
        encode(decoder, faces(), tmp_path / "file")


# --- P23: bad samples ------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_an_unreadable_picture(tmp_path: Path, decoder: Decoder, streaming: bool) -> None:
    data = faces(broken=(3, 17, 52))
    data = data.to_iterable_dataset() if streaming else data
    with pytest.raises(InputError, match=r"Sample 3 \(000003.png\).*skip"):
        encode(decoder, data, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    latents = encode(decoder, data, tmp_path, attributes=["Smiling"], on_bad_sample="skip")
    good = [i for i in range(N) if i not in (3, 17, 52)]
    assert latents.index.tolist() == good
    assert latents.column("Smiling").tolist() == [float(i % 2 == 0) for i in good]
    records = manifest(tmp_path)["skipped"]
    assert [(r["index"], r["file"]) for r in records] == [
        (3, "000003.png"),
        (17, "000017.png"),
        (52, "000052.png"),
    ]
    assert manifest(tmp_path)["length"] == N and manifest(tmp_path)["rows"] == N - 3
    with pytest.raises(InputError, match="Sample 3"):  # raise means raise, cached or not
        encode(decoder, data, tmp_path, attributes=["Smiling"])


@pytest.mark.parametrize(
    "value, message",
    [
        (torch.full(SHAPE, torch.nan), "NaN"),
        (torch.full(SHAPE, 7.0), r"values in \[0, 1\]"),
        (torch.zeros(3, 4, 4), r"\(3, 4, 4\)"),
        (["not a number"], "ValueError"),
        (torch.full(SHAPE, 0.123), "encoding is not finite"),
    ],
)
def test_a_sample_that_does_not_fit(tmp_path: Path, value: object, message: str) -> None:
    class Fragile(Counting):
        def encode(self, x: torch.Tensor) -> Posterior:
            broken = (x == 0.123).flatten(1).all(1)[:, None]
            return Posterior(super().encode(x).mean.masked_fill(broken, torch.nan))

    decoder = Decoder(
        Fragile(), lambda m, z: z, lambda m, x: m.encode(x), latent_shape=(5,), sample_shape=SHAPE
    )
    rows = [{"image": torch.rand(SHAPE), "path": f"{i}.wav"} for i in range(20)]
    rows[18]["image"] = value
    with pytest.raises(InputError, match=rf"(?s)Sample 18 \(18.wav\).*{message}"):
        encode(decoder, rows, tmp_path)
    latents = encode(decoder, rows, tmp_path, on_bad_sample="skip")
    assert latents.index.tolist() == [*range(18), 19]


def test_labels_out_of_range_are_refused(tmp_path: Path, decoder: Decoder) -> None:
    rows = [{"image": torch.rand(SHAPE), "Male": label} for label in (1, None, 0.25, -1)]
    with pytest.raises(InputError, match=r"Sample 3 .*'Male' is -1.*Map -1 to 0"):
        encode(decoder, rows, tmp_path / "a", attributes=["Male"])
    latents = encode(decoder, rows[:3], tmp_path / "b", attributes=["Male"])
    assert latents.column("Male").nan_to_num(9).tolist() == [1, 9, 0.25]


def test_shards_of_bad_samples_only(tmp_path: Path, decoder: Decoder) -> None:
    rows: list = [torch.rand(SHAPE) for _ in range(40)]
    rows[16:32] = ["bad"] * 16  # the whole second shard
    latents = encode(decoder, rows, tmp_path / "a", on_bad_sample="skip")
    assert latents.index.tolist() == [*range(16), *range(32, 40)]
    rows[:16] = ["bad"] * 16
    latents = encode(decoder, rows, tmp_path / "b", on_bad_sample="skip")
    assert latents.index.tolist() == list(range(32, 40)) and latents.std is not None
    with pytest.raises(InputError, match=r"None of the 5 samples.*Sample 0"):
        encode(decoder, ["bad"] * 5, tmp_path / "c", on_bad_sample="skip")


def test_a_stream_that_fails_is_not_taken_for_its_end(tmp_path: Path, decoder: Decoder) -> None:
    def stream():
        yield from torch.rand(20, *SHAPE)
        raise OSError("connection lost")

    with pytest.raises(InputError, match=r"failed at sample 20.*connection lost"):
        encode(decoder, stream(), tmp_path, on_bad_sample="skip")


# --- corruption -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cached")
    encode(wrap(), faces(20), path, attributes=["Male"], shard_size=8)
    return path


def copy(source: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_and_any_truncation_is_found(
    cached: Path, tmp_path: Path, data: st.DataObject
) -> None:
    path = copy(cached, tmp_path / "copy")
    assert len(Latents.load(path)) == 20
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    raw = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        del raw[place:]
    else:
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    with pytest.raises(CacheError, match=file.name.split(".")[0]):
        assert Latents.load(path).mean is not None  # a shard is compared when it is used


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "header", "manifest", "no manifest"])
def test_only_corrupted_shards_are_encoded_again(
    cached: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy(cached, tmp_path / "copy")
    wanted = [part.clone() for part in tensors(Latents.load(cached))]
    middle = shard_files(path)[1]
    raw = bytearray(middle.read_bytes())
    if damage == "flip":
        raw[-5] ^= 1
        middle.write_bytes(raw)
    elif damage == "cut":
        middle.write_bytes(raw[:-1])
    elif damage == "remove":
        middle.unlink()
    elif damage == "header":
        raw[60] ^= 1
        middle.write_bytes(raw)
    elif damage == "manifest":
        (path / "manifest.json").write_text("{")
    else:
        (path / "manifest.json").unlink()
    decoder = wrap()
    with caplog.at_level(logging.INFO):
        found = encode(decoder, faces(20), path, attributes=["Male"], shard_size=8)
    assert decoder.model.seen == (0 if "manifest" in damage else 8)
    assert all(map(torch.equal, tensors(found), wanted))
    assert "finished shards" in caplog.text
    assert len(shard_files(path)) == 3
    Latents.load(path, decoder=decoder)


def test_a_cache_of_another_job_is_refused(cached: Path, tmp_path: Path) -> None:
    path = copy(cached, tmp_path / "copy")
    with pytest.raises(CacheError, match="another decoder"):
        Latents.load(path, decoder=wrap(seed=1))

    def asked(decoder: Decoder, data: object, names: list[str], size: int = 8) -> Latents:
        return encode(decoder, data, path, attributes=names, shard_size=size)

    def refusals(size: int) -> None:
        with pytest.raises(CacheError, match="another decoder"):
            asked(wrap(seed=1), faces(20), ["Male"], size)
        with pytest.raises(CacheError, match=r"Male.*Smiling"):
            asked(wrap(), faces(20), ["Smiling"], size)
        with pytest.raises(CacheError, match=r"20 samples.*21"):
            asked(wrap(), faces(21), ["Male"], size)
        with pytest.raises(CacheError, match="another data set"):
            asked(wrap(), faces(20).select(range(19, -1, -1)), ["Male"], size)

    before = {file.name: file.read_bytes() for file in path.iterdir()}
    refusals(8)
    decoder = wrap()
    assert len(asked(decoder, faces(20), ["Male"], 4)) == 20  # shard_size: a whole cache is whole
    assert len(asked(decoder, faces(20).to_iterable_dataset(), ["Male"])) == 20
    assert decoder.model.seen == 0
    (path / "manifest.json").unlink()
    refusals(8)
    with pytest.raises(CacheError, match="shard_size"):
        asked(wrap(), faces(20), ["Male"], 4)
    del before["manifest.json"]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_later_format_and_foreign_folders(cached: Path, tmp_path: Path) -> None:
    from latentctl.storage.files import sealed

    path = copy(cached, tmp_path / "copy")
    later = {**manifest(path), "format": 99, "latentctl_version": "9.0"}
    (path / "manifest.json").write_bytes(sealed(later))
    with pytest.raises(CacheError, match=r"upgrade latentctl to >= 9.0"):
        Latents.load(path)
    with pytest.raises(CacheError, match="not a finished cache"):
        Latents.load(tmp_path / "nothing")
    by_hand().save(tmp_path / "hand")
    with pytest.raises(CacheError, match="not made by encode_dataset"):
        encode(wrap(), faces(20), tmp_path / "hand")
    with pytest.raises(CacheError, match=r"latents \(2, 3\)"):
        Latents.load(tmp_path / "hand", decoder=wrap())


# --- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("stop", [5, 16, 20, 35, 48, 52])
def test_finished_shards_are_not_encoded_again(tmp_path: Path, stop: int, streaming: bool) -> None:
    class Stopping(list):
        def __getitem__(self, index):
            if index == stop:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    def stream(rows):
        return (rows[i] for i in range(N)) if streaming else rows

    rows = list(torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(KeyboardInterrupt):
        encode(wrap(), stream(Stopping(rows)), tmp_path / "a", batch_size=1)
    with pytest.raises(CacheError, match="not a finished cache"):
        Latents.load(tmp_path / "a")
    decoder = wrap()
    latents = encode(decoder, stream(rows), tmp_path / "a", batch_size=1)
    finished = stop // 16 * 16 if stop < 52 or streaming else 0  # 52 is read first, for its hash
    assert decoder.model.seen == N - finished
    assert same(latents, encode(decoder, rows, tmp_path / "b", batch_size=1))
    assert not list((tmp_path / "a").glob(".*"))


def test_a_full_disk_keeps_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import latentctl.latents.shards as shards

    calls = {"fsync": 0}
    fsync = os.fsync

    def fail_at(n: int) -> None:
        def full(descriptor: int) -> None:
            calls["fsync"] += 1
            if calls["fsync"] == n:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        calls["fsync"] = 0
        monkeypatch.setattr(shards.os, "fsync", full)

    rows = torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))
    fail_at(0)  # a dry run counts
    wanted = encode(wrap(), rows, tmp_path / "dry")
    total, fired = calls["fsync"], 0
    assert total >= 2 * 4 + 2
    for n in range(1, total + 1):
        path = tmp_path / str(n)
        fail_at(n)
        with pytest.raises(CacheError, match="No space left"):
            encode(wrap(), rows, path)
        fired += 1
        assert not list(path.glob(".shard*")), "remains of the write that failed"
        monkeypatch.setattr(shards.os, "fsync", fsync)
        decoder = wrap()
        assert same(encode(decoder, rows, path), wanted)
        assert decoder.model.seen == max(0, N - 16 * (n // 2))
    assert fired == total


SCRIPT = """
import sys, time
import torch
sys.path.insert(0, {tests!r})
from test_encode_dataset import SHAPE, encode, wrap

class Slow(list):
    def __getitem__(self, index):
        time.sleep(0.02)
        return super().__getitem__(index)

rows = Slow(torch.rand(53, *SHAPE, generator=torch.Generator().manual_seed(0)))
encode(wrap(), rows, sys.argv[1], batch_size=1)
"""


def test_a_killed_run_resumes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "a")])
    while process.poll() is None and len(shard_files(tmp_path / "a")) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(shard_files(tmp_path / "a"))
    assert 2 <= finished < 4 and not (tmp_path / "a" / "manifest.json").exists()
    rows = list(torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0)))
    decoder = wrap()
    latents = encode(decoder, rows, tmp_path / "a", batch_size=1)
    assert decoder.model.seen == N - 16 * finished
    assert same(latents, encode(decoder, rows, tmp_path / "b", batch_size=1))


LAUNCHED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_encode_dataset import encode, faces, wrap
from accelerate import Accelerator

data = faces(broken=(3, 20))
for name, rows in (("map", data), ("stream", data.to_iterable_dataset())):
    decoder = wrap()
    accelerator = Accelerator()
    accelerator.wait_for_everyone()  # so that each finds some work, here where it is little
    latents = encode(decoder, rows, sys.argv[1] + "/" + name, attributes=["Male"],
                     on_bad_sample="skip")
    rank = accelerator.process_index
    Path(sys.argv[1], f"{{name}}-{{rank}}.seen").write_text(str(decoder.model.seen))
"""


@pytest.mark.slow
def test_two_processes_make_the_cache_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LAUNCHED.format(tests=str(Path(__file__).parent)))
    # accelerate's own launcher starts one process only with --cpu, whatever --num_processes says
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    one = encode(
        wrap(), faces(broken=(3, 20)), tmp_path / "one", attributes=["Male"], on_bad_sample="skip"
    )
    for name in ("map", "stream"):
        assert same(Latents.load(tmp_path / name), one)
        seen = [int(path.read_text()) for path in tmp_path.glob(f"{name}-*.seen")]
        assert len(seen) == 2 and sum(seen) == 51 and min(seen) > 0  # the work was shared


# --- memory ----------------------------------------------------------------------------------


def test_no_more_than_two_shards_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from latentctl.latents import shards as module

    alive: list[weakref.ref] = []
    most = []
    write = module.write_shard

    def watched(folder, key, tensors, notes):
        alive.append(weakref.ref(tensors["mean"].untyped_storage()))
        most.append(sum(ref() is not None for ref in alive))
        return write(folder, key, tensors, notes)

    monkeypatch.setattr(module, "write_shard", watched)
    encode(wrap(), torch.rand(64, *SHAPE), tmp_path, shard_size=8)
    assert len(most) == 8 and max(most) <= 2  # the one being written, and at most the next


def test_reading_is_memory_mapped(tmp_path: Path) -> None:
    """A fresh process that takes a batch of a 64 MB cache reads little more than the batch."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory in use is read from /proc")
    Latents(torch.ones(65536, 256)).save(tmp_path)
    code = """
import sys
from pathlib import Path
import latentctl.latents.latents as module
from latentctl.latents.manifest import read_manifest

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

folder = Path(sys.argv[1])
found = read_manifest(folder)
module.open_cache(folder, *found)[[0]]
before = resident()
latents = module.open_cache(folder, *found)
latents[[5, 60000, 31000]]
part = resident() - before
latents.mean.sum()
print(part, resident() - before)
"""
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    part, whole = map(int, output.split())
    assert part < 8_000 < 50_000 < whole

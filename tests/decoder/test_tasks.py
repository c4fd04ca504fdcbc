"""Shards as tasks: killed, doubled and in any order, they make the cache of one process."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import signal
import time

import pytest
import torch
from forked import children, ends, start
from torch import nn

from latentctl.decoder import Decoder, Posterior
from latentctl.decoder.dataset import Source
from latentctl.decoder.encode import encode_dataset, prepare
from latentctl.decoder.shares import Given
from latentctl.errors import CacheError
from latentctl.latents import Latents
from latentctl.storage.claims import Claims

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
N, SIZE = 200, 5


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Rows:
    """Vectors; each row that is read is noted in a file, and one of them kills its reader."""

    def __init__(self, log=None, killer=-1, pause=0.0):
        self.x = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
        self.log, self.killer, self.pause = log, killer, pause

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if self.log:
            with open(self.log, "ab") as file:
                file.write(b".")
        if index == self.killer:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
        return self.x[index]


def decoder(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
    return Decoder(
        model,
        lambda m, z: z @ m.weight,
        lambda m, x: Posterior(m(x), torch.ones(len(x), 2)),
        latent_shape=(2,),
        sample_shape=(3,),
        value_range=None,
    )


OPTIONS = {"batch_size": 2, "shard_size": SIZE}


def contents(folder):
    """What a cache holds, but for the times of its files."""
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}
    assert len(found) + 2 == len(list(folder.iterdir())), "the manifest and the listing"
    return {**found, "identity": Latents.load(folder).identity()}


@pytest.fixture
def expected(tmp_path):
    encode_dataset(decoder(), Rows(), tmp_path / "one", progress=False, **OPTIONS)
    return contents(tmp_path / "one")


def test_killed_doubled_and_disordered_tasks_make_the_cache_of_one(tmp_path, expected):
    cache, log, tasks = tmp_path / "cache", tmp_path / "log", 20

    def work(task, killer=-1, clock=0.0, pause=0.0):
        time.time = lambda: clock  # of this process only
        rows = Rows(log, killer, pause)
        job = prepare(decoder(), rows, cache, **OPTIONS)
        job.run(Given(range(task, task + 1), tasks), progress=False)

    order = random.Random(0).sample(range(tasks), tasks)
    killed = {order[3]: 3, order[8]: 2, order[15]: 0}  # row of its first shard
    for task in order[:-2]:
        row = task * SIZE + killed[task] if task in killed else -1
        ends([start(work, task, row, 1e12 if task == order[1] else 0.0)])
    assert ends([start(work, order[-1], -1, 0.0, 0.001) for _ in range(2)]) == [0, 0]
    job = prepare(decoder(), Rows(), cache, **OPTIONS)
    left = [n for n in range(N // SIZE) if n % tasks in {*killed, order[-2]}]
    assert job.seal() == [str(number) for number in left]
    with pytest.raises(CacheError, match="not a finished cache"):
        Latents.load(cache)
    for task in (*killed, order[-2]):
        assert ends([start(work, task)]) == [0]
    assert job.seal() == []
    assert contents(cache) == expected
    # each of the 24 processes reads the first and the last row for the identity of the data, the
    # killed ones read 8 in vain, and one task was done twice
    assert log.stat().st_size <= N + 24 * 2 + 8 + 2 * SIZE


def test_processes_that_claim_share_the_work_and_take_over(tmp_path, expected):
    cache, log = tmp_path / "cache", tmp_path / "log"

    def work(number):
        rows = Rows(log, killer=6 * SIZE + 1 if number == 0 else -1, pause=0.001)
        encode_dataset(decoder(), rows, cache, progress=False, **OPTIONS)

    codes = children(3, work)
    assert codes[1:] == [0, 0] and codes[0] in (0, -9)  # 0: another one took the shard
    assert contents(cache) == expected
    assert log.stat().st_size <= N + 3 * 2 + 2  # the shard of the killed one is read again


def test_a_killed_process_leaves_nothing_that_is_taken_as_finished(tmp_path, expected):
    cache = tmp_path / "cache"

    def work(killer):
        encode_dataset(decoder(), Rows(killer=killer), cache, progress=False, **OPTIONS)

    for shard in (0, 1, 17, 38):
        assert ends([start(work, shard * SIZE + 4)]) == [-9]
        assert len(list(cache.glob("shard-*"))) == shard
    assert ends([start(work, -1)]) == [0]
    assert contents(cache) == expected


def test_two_jobs_in_one_folder_are_refused(tmp_path):
    cache = tmp_path / "cache"

    def work(number):
        encode_dataset(decoder(number), Rows(pause=0.001), cache, progress=False, **OPTIONS)

    assert sorted(children(2, work)) in ([0, 1], [1, 1])


def stream(log, parts):
    datasets = pytest.importorskip("datasets")

    def noted(row):
        if log:
            with open(log, "ab") as file:
                file.write(b".")
        return row

    rows = datasets.Dataset.from_dict({"x": Rows().x.tolist(), "label": [n % 2 for n in range(N)]})
    return rows.to_iterable_dataset(num_shards=parts).map(noted)


@pytest.mark.parametrize("parts", [1, 4, 9])
def test_a_stream_is_divided_by_its_files(tmp_path, parts):
    given = {"image_column": "x", "attributes": ["label"], "progress": False}
    given |= {"batch_size": 5, "shard_size": 25}
    whole = encode_dataset(decoder(), list(stream(None, 1)), tmp_path / "list", **given)
    one = encode_dataset(decoder(), stream(None, parts), tmp_path / "one", **given)
    assert torch.equal(one.index, torch.arange(N))
    torch.testing.assert_close(one.mean, whole.mean)  # batches end where files do
    assert torch.equal(one.labels, whole.labels)

    def work(number):
        rows = stream(tmp_path / "log", parts)
        encode_dataset(decoder(), rows, tmp_path / "two", **given)

    assert children(2, work) == [0, 0]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    read = (tmp_path / "log").stat().st_size
    assert read <= (N if parts > 1 else 2 * N) + 2 * 2


def test_a_stream_whose_rows_are_not_those_of_its_files_is_read_whole():
    made = stream(None, 4)
    assert Source(made, "x").parts == 4
    assert Source(made.filter(lambda row: row["label"]), "x").parts == 4
    for other in (
        made.take(7),
        made.skip(7),
        made.shuffle(seed=0),
        made.map(lambda row, index: row, with_indices=True),
        made.map(lambda rows: rows, batched=True),
    ):
        assert Source(other, "x").parts == 1


def test_bad_samples_of_a_part_are_counted_through_all(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [[0.0, 1.0, 2.0]] * 12
    rows[7] = [0.0]
    made = datasets.Dataset.from_dict({"x": rows}).to_iterable_dataset(num_shards=3)
    given = {"image_column": "x", "progress": False, **OPTIONS}
    with pytest.raises(ValueError, match="Sample 3 of part 1 of the stream"):
        encode_dataset(decoder(), made, tmp_path, **given)
    latents = encode_dataset(decoder(), made, tmp_path, on_bad_sample="skip", **given)
    assert latents.index.tolist() == [*range(7), *range(8, 12)]


def test_claims_depend_on_no_clock_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1 / 0)
    one, other = Claims(tmp_path / "claims"), Claims(tmp_path / "claims", lease=0.05)
    assert one.take("a") and not other.take("a") and not one.take("a")
    one.finish("a")
    assert other.is_done("a") and not other.take("a")
    one.release("a")
    assert other.take("a")
    assert ends([start(Claims(tmp_path / "claims").take, "b")]) == [0]
    assert one.take("b"), "its holder has ended on this machine"
    (tmp_path / "claims" / "c").write_bytes(b"elsewhere 1")
    os.utime(tmp_path / "claims" / "c", (1, 1))
    assert not other.take("c")
    time.sleep(0.06)
    (tmp_path / "claims" / "c").write_bytes(b"elsewhere 2")  # its holder is at work
    assert not other.take("c") and not one.take("c")
    time.sleep(0.06)
    assert other.take("c") and not one.take("c")


def test_a_stream_that_cannot_be_read_again_says_so(tmp_path):
    given = iter(Rows().x)
    source = Source(given, "x")
    assert source.has(10)
    with pytest.raises(ValueError, match="can be read once"):
        source.part(0)


@pytest.mark.parametrize(("dtype", "relative"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_the_manifest_bounds_the_error_of_half_precision(tmp_path, dtype, relative):
    whole = encode_dataset(decoder(), Rows(), tmp_path / "whole", progress=False, **OPTIONS)
    given = {"dtype": dtype, "progress": False, **OPTIONS}
    half = encode_dataset(decoder(), Rows(), tmp_path / "half", **given)
    errors = json.loads((tmp_path / "half" / "manifest.json").read_text())["errors"]
    assert half.mean.dtype == half[[3]].mean.dtype == torch.float32
    assert errors["mean"] == float((half.mean - whole.mean).abs().max()) > 0
    assert errors["mean"] <= relative * float(whole.mean.abs().max())
    assert torch.equal(half[[7, 3]].mean, half.mean[[7, 3]]) and torch.equal(half.std, whole.std)
    with pytest.raises(CacheError, match=f"stored in {dtype} and this call asks for float32"):
        encode_dataset(decoder(), Rows(), tmp_path / "half", progress=False, **OPTIONS)
    if dtype == "float16":
        far = torch.full((3, 3), 1e6)
        with pytest.raises(ValueError, match="beyond the range of float16"):
            encode_dataset(decoder(), far, tmp_path / "far", **given)


@pytest.mark.parametrize("kind", ["map", "stream"])
def test_loader_workers_change_nothing(tmp_path, kind):
    rows = list(Rows().x)
    rows[13] = torch.full((3,), torch.nan)
    given = {"on_bad_sample": "skip", "progress": False, **OPTIONS}

    def run(name, workers):
        data = rows if kind == "map" else iter(rows)
        encode_dataset(decoder(), data, tmp_path / name, num_workers=workers, **given)
        return contents(tmp_path / name)

    assert run("none", 0) == run("two", 2)


def test_an_error_in_a_worker_gives_its_claims_back(tmp_path):
    rows = list(Rows().x)
    rows[13] = torch.full((3,), torch.nan)
    with pytest.raises(ValueError, match="Sample 13 of the data set cannot be used"):
        encode_dataset(decoder(), rows, tmp_path, num_workers=1, progress=False, **OPTIONS)
    assert {path.read_bytes() for path in (tmp_path / ".claims").iterdir()} == {b"done"}


def test_splits_do_not_leak_and_stay(tmp_path):
    x = Rows().x.clone()
    x[100:150] = x[:50]  # exact copies
    made = encode_dataset(decoder(), x, tmp_path / "a", progress=False, **OPTIONS)
    train, held_out = made.split(0.3, seed=1)
    assert 35 <= len(held_out) <= 85 and len(train) + len(held_out) == N
    sides = {tuple(row.tolist()) for row in train.mean}
    assert not any(tuple(row.tolist()) in sides for row in held_out.mean)
    assert made.unique().index.tolist() == [*range(100), *range(150, N)]
    grown = torch.cat([torch.randn(20, 3, generator=torch.Generator().manual_seed(5)), x])
    other = encode_dataset(decoder(), grown, tmp_path / "b", progress=False, **OPTIONS)
    again = other.split(0.3, seed=1)[1]
    assert [row - 20 for row in again.index.tolist() if row >= 20] == held_out.index.tolist()
    assert made.split(0.3, seed=2)[1].index.tolist() != held_out.index.tolist()
    assert len(made.split(0.0)[1]) == 0 and len(made.split(1.0)[0]) == 0
    with pytest.raises(ValueError, match="no hashes"):
        Latents(x).split(0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        made.split(5)


def test_the_content_of_a_picture_is_that_of_its_file(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for number in range(3):
        Image.new("RGB", (4, 4), (number // 2, 0, 0)).save(tmp_path / f"{number}.png")
    model = Decoder(
        nn.Identity(),
        lambda m, z: z.view(-1, 3, 4, 4),
        lambda m, x: Posterior(x.flatten(1)),
        latent_shape=(48,),
        sample_shape=(3, 4, 4),
    )
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    other = {"bytes": (tmp_path / "1.png").read_bytes(), "path": "x.png"}
    rows = [files[0], {"image": other}, files[2]]
    latents = encode_dataset(model, rows, tmp_path / "cache", progress=False)
    assert latents.unique().index.tolist() == [0, 2]


def test_latents_of_many_shards_are_read_row_by_row_and_travel(tmp_path, monkeypatch):
    monkeypatch.setattr("latentctl.latents.tables.MAPPED", 10)
    monkeypatch.setattr("latentctl.latents.tables.SINGLE", 2)
    made = encode_dataset(decoder(), Rows(), tmp_path, progress=False, **OPTIONS)
    rows = torch.randint(N, (60,), generator=torch.Generator().manual_seed(0))
    for latents in (made, pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        batch = latents[rows]
        assert torch.equal(batch.mean, made.mean[rows]) and torch.equal(batch.index, rows)
        assert torch.equal(batch.content, made.content[rows]) and len(latents[[]]) == 0
    relabelled = made.with_labels(torch.arange(N)[:, None] / N, ["Place"])[rows]
    assert torch.equal(relabelled.column("Place"), rows / N)
    sorted(tmp_path.glob("shard-*"))[3].write_bytes(b"short")
    with pytest.raises(CacheError, match=r"shard-00000-00003-\w+.safetensors is missing, trunc"):
        Latents.load(tmp_path)[[3 * SIZE]]


def test_a_copy_whose_times_differ_is_compared_by_its_hashes(tmp_path, expected):
    files = sorted((tmp_path / "one").glob("shard-*"))
    for file in files:
        os.utime(file, (5, 5))
    latents = Latents.load(tmp_path / "one")
    assert len(latents.mean) == N
    raw = bytearray(files[7].read_bytes())
    raw[-1] ^= 1
    files[7].write_bytes(raw)
    assert len(Latents.load(tmp_path / "one")[[0, 1]]) == 2  # other shards can be used
    with pytest.raises(CacheError, match=files[7].name):
        Latents.load(tmp_path / "one")[[7 * SIZE]]
    encode_dataset(decoder(), Rows(), tmp_path / "one", progress=False, **OPTIONS)
    assert contents(tmp_path / "one") == expected

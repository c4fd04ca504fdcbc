"""A finished cache grows by further shards; what is sealed stays as it is, at any time."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from forked import children, ends, start
from torch import nn

from latentctl.decoder import Decoder, Posterior
from latentctl.decoder.encode import encode_dataset, prepare
from latentctl.decoder.shares import Given
from latentctl.errors import CacheError, InputError
from latentctl.latents import Latents
from latentctl.latents.manifest import verify_cache

N, MORE = 22, 41
X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
X[30] = X[3]  # one that is there already


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Rows:
    """The first vectors; reading some row raises, or kills the reader."""

    def __init__(self, count, fails=-1, killer=-1):
        self.count, self.fails, self.killer = count, fails, killer

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.killer:
            os.kill(os.getpid(), 9)
        if index == self.fails:
            raise ValueError("no such row today")
        return X[index]


class Counting(nn.Linear):
    seen = 0

    def encode(self, x):
        self.seen += len(x)
        return Posterior(self(x), torch.ones(len(x), 2))


def decoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Counting(3, 2)
    return Decoder(
        model,
        lambda m, z: z @ m.weight,
        lambda m, x: m.encode(x),
        latent_shape=(2,),
        sample_shape=(3,),
        value_range=None,
    )


def jitter(x):
    return torch.as_tensor(x) + torch.rand(3)  # of a generator that is seeded by the row


def encode(cache, rows, used=None, **options):
    options = {"batch_size": 4, "shard_size": 5, "transform": jitter, **options}
    return encode_dataset(used or decoder(), rows, cache, progress=False, **options)


def files(cache):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in cache.glob("shard-*")}


def equal(a, b):
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("mean", "index", "content"))


@pytest.fixture
def cache(tmp_path):
    encode(tmp_path / "cache", Rows(N))
    return tmp_path / "cache"


def test_old_shards_stay_and_rows_are_those_of_one_encoding(cache, tmp_path):
    old, before = files(cache), Latents.load(cache)
    for count in (MORE, 60):
        used = decoder()
        grown = encode(cache, Rows(count), used, grow=True)
        assert used.model.seen == count - len(before)
        assert equal(grown, encode(tmp_path / f"whole {count}", Rows(count)))
        assert grown.index.tolist() == list(range(count)) and equal(before[:], grown[: len(before)])
        now = files(cache)
        assert old.items() <= now.items()
        assert verify_cache(cache) == len(now)
        old, before = now, grown
    for options in ({"grow": True}, {}, {"shard_size": 7}):
        used = decoder()
        assert equal(encode(cache, Rows(60), used, **options), grown) and not used.model.seen
    assert files(cache) == old


def test_a_split_leaks_nothing_after_growth(cache):
    before = Latents.load(cache)
    grown = encode(cache, Rows(60), grow=True)
    for seed in range(5):
        held_out = before.split(0.3, seed=seed)[1].index.tolist()
        now = grown.split(0.3, seed=seed)[1].index.tolist()
        assert [row for row in now if row < N] == held_out and (3 in now) == (30 in now)
    assert grown.unique().index.tolist() == [row for row in range(60) if row != 30]


def test_an_interrupted_growth_leaves_the_old_cache_whole(cache, tmp_path):
    before, old = Latents.load(cache)[:], files(cache)
    with pytest.raises(InputError, match="Sample 39 of the data set"):
        encode(cache, Rows(MORE, fails=39), grow=True)
    assert len(files(cache)) > len(old) and old.items() <= files(cache).items()
    assert equal(Latents.load(cache), before) and verify_cache(cache) == 5
    assert equal(encode(cache, Rows(N)), before)  # the old call goes on to work
    used = decoder()
    grown = encode(cache, Rows(MORE), used, grow=True)
    assert used.model.seen < MORE - N
    assert equal(grown, encode(tmp_path / "whole", Rows(MORE)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_share_a_growth_and_may_be_killed(cache, tmp_path):
    before = Latents.load(cache)[:]
    assert ends([start(lambda: encode(cache, Rows(60, killer=33), grow=True))]) == [-9]
    assert equal(Latents.load(cache), before)
    assert children(3, lambda number: encode(cache, Rows(60), grow=True)) == [0, 0, 0]
    assert equal(Latents.load(cache), encode(tmp_path / "whole", Rows(60)))


def test_a_scheduler_divides_a_growth(cache, tmp_path):
    for task in (1, 0, 2):
        job = prepare(
            *(decoder(), Rows(MORE), cache),
            **{"batch_size": 4, "shard_size": 5, "transform": jitter, "grow": True},
        )
        job.run(Given(range(task, task + 1), 3), progress=False)
    assert job.seal() == []
    assert equal(Latents.load(cache), encode(tmp_path / "whole", Rows(MORE)))


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_grown_cache_is_repaired(cache, part, manifest):
    grown = encode(cache, Rows(MORE), grow=True)[:]
    file = sorted(cache.glob(f"shard-{part:05d}-*"))[1]
    file.unlink()
    if not manifest:
        (cache / "manifest.json").unlink()
    used = decoder()
    assert equal(encode(cache, Rows(MORE), used), grown) and used.model.seen == 5
    assert file.exists()


def test_a_flipped_bit_is_found_while_the_cache_grows(cache, tmp_path):
    file = min(cache.glob("shard-*"))
    file.write_bytes(bytes([*file.read_bytes()[:-1], file.read_bytes()[-1] ^ 1]))
    grown = encode(cache, Rows(MORE), grow=True)
    assert equal(grown, encode(tmp_path / "whole", Rows(MORE)))


def test_what_is_not_an_extension_is_refused(cache, tmp_path):
    old = files(cache)
    with pytest.raises(CacheError, match=r"22 samples .* 41 \(with grow=True"):
        encode(cache, Rows(MORE))
    with pytest.raises(CacheError, match="22 samples and this data set 20"):
        encode(cache, Rows(20), grow=True)
    with pytest.raises(CacheError, match="samples or labels differ"):
        encode(cache, np.concatenate([X[:21], X[40:]]), grow=True)
    with pytest.raises(CacheError, match="shard_size=5"):
        encode(cache, Rows(MORE), grow=True, shard_size=6)
    with pytest.raises(InputError, match="stream in one part"):
        encode(cache, iter(X), grow=True)
    Latents(X, X.abs()).save(tmp_path / "saved")
    with pytest.raises(CacheError, match="not made by encode_dataset"):
        encode(tmp_path / "saved", Rows(60), grow=True)
    assert files(cache) == old and len(Latents.load(cache)) == N


def test_a_stream_grows_by_files(tmp_path):
    datasets = pytest.importorskip("datasets")

    def stream(count):
        def rows(parts):
            for part in parts:
                for row in range(12 * part, 12 * part + 12):
                    yield {"image": X[row].tolist()}

        made = datasets.IterableDataset.from_generator(
            rows, gen_kwargs={"parts": list(range(count))}
        )
        assert made.num_shards == count
        return made

    cache, used = tmp_path / "cache", decoder()
    encode(cache, stream(2))
    old, before = files(cache), Latents.load(cache)[:]
    for count in (3, 5):
        used = decoder()
        grown = encode(cache, stream(count), used, grow=True)
        assert used.model.seen == len(grown) - len(before)
        assert equal(grown, encode(tmp_path / f"whole {count}", stream(count)))
        assert equal(before, grown[: len(before)]) and old.items() <= files(cache).items()
        old, before = files(cache), grown[:]
    min(cache.glob("shard-00002-*")).unlink()
    assert equal(encode(cache, stream(5)), grown)

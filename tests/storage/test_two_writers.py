"""Several processes that save and load one folder at the same time."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from forked import children

from latentctl import Latents, encode_dataset
from latentctl.errors import CacheError, CheckpointError
from latentctl.storage import load_folder, save_folder
from latentctl.storage.files import write_atomic
from latentctl.storage.lock import LockedError, held, lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def content(value):
    return {"a": {"w": torch.full((8,), float(value))}, "b": {"w": torch.full((8,), float(value))}}


def whole(path):
    """The number that a folder was saved with, and whether all of it is of one save."""
    tensors, state = load_folder(path)
    value = float(state["value"])
    assert all(bool((group["w"] == value).all()) for group in tensors.values())
    return value


def test_writers_take_turns_and_readers_begin_again(tmp_path):
    pack, rounds = tmp_path / "pack", 60
    save_folder(pack, content(-1), {"value": -1})

    def work(number):
        for turn in range(rounds):
            if number < 2:
                value = 1000 * number + turn
                save_folder(pack, content(value), {"value": value})
            else:
                whole(pack)

    assert children(4, work) == [0] * 4
    assert whole(pack) in (rounds - 1, 1000 + rounds - 1)
    assert os.listdir(tmp_path) == ["pack"], "no stage, no older one, no lock is left"
    print(f"{2 * rounds} saves by two writers, {2 * rounds} loads beside them")


def test_threads_take_turns(tmp_path):
    errors = []

    def work(value):
        try:
            for _ in range(20):
                save_folder(tmp_path / "pack", content(value), {"value": value})
                whole(tmp_path / "pack")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and os.listdir(tmp_path) == ["pack"]


def test_a_writer_that_is_killed_holds_up_no_other(tmp_path):
    pack, killed = tmp_path / "pack", 0
    save_folder(pack, content(0), {"value": 0})
    for n in range(1, 21):
        pid = os.fork()
        if pid == 0:
            calls = 0

            def count(function, n=n):
                def call(*arguments, **options):
                    nonlocal calls
                    calls += 1
                    if calls == n:
                        os.kill(os.getpid(), 9)
                    return function(*arguments, **options)

                return call

            for name in ("open", "mkdir", "rename", "unlink", "rmdir"):
                setattr(os, name, count(getattr(os, name)))
            save_folder(pack, content(n), {"value": n})
            os._exit(0)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
        assert whole(pack) in (n, 1 - n)
        save_folder(pack, content(-n), {"value": -n})
        assert os.listdir(tmp_path) == ["pack"]
    print(f"{killed} writers were killed")
    assert killed >= 10


def test_a_save_waits_and_says_for_whom(tmp_path, monkeypatch):
    from latentctl.storage import folder

    monkeypatch.setattr(folder, "PATIENCE", 0.0)
    with lock(tmp_path / ".pack.lock"):
        with (
            pytest.raises(LockedError, match=f"process {os.getpid()} on "),
            lock(tmp_path / ".pack.lock"),
        ):
            pass
        with pytest.raises(CheckpointError, match=f"not saved: process {os.getpid()} on .* End"):
            save_folder(tmp_path / "pack", content(1), {"value": 1})
    save_folder(tmp_path / "pack", content(1), {"value": 1})


def test_single_files_and_caches_of_two_writers_are_whole(tmp_path):
    file, cache, rounds = tmp_path / "file", tmp_path / "cache", 30
    latents = [Latents(torch.full((5, 2), float(value))) for value in range(2)]

    def work(number):
        saved = 0
        for _ in range(rounds):
            write_atomic(file, bytes([number]) * 5000)
            assert len(set(file.read_bytes())) == 1
            try:
                latents[number].save(cache)
                saved += 1
            except CacheError as error:
                assert "is in use: " in str(error)
        assert saved

    assert children(2, work) == [0, 0]
    assert len(set(file.read_bytes())) == 1 and len(file.read_bytes()) == 5000
    assert Latents.load(cache).mean.unique().tolist() in ([0.0], [1.0])
    assert sorted(os.listdir(tmp_path)) == ["cache", "file"]
    assert len(os.listdir(cache)) == 3


def test_a_finished_cache_is_only_read(tmp_path):
    decoder = toy_decoder(ToyVAE())
    x = decoder.decode(torch.zeros(6, 8)).detach()
    first = encode_dataset(decoder, x, tmp_path / "cache", progress=False)
    with held(tmp_path / "cache"):
        again = encode_dataset(decoder, x, tmp_path / "cache", progress=False)
    assert torch.equal(first.mean, again.mean)

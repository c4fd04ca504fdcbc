"""Checkpoints under injected faults, kills, flipped bits and truncated files."""

from __future__ import annotations

import builtins
import copy
import errno
import itertools
import json
import logging
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import latentctl
from latentctl.errors import CheckpointError, InputError
from latentctl.storage import files, folder
from latentctl.storage.folder import FORMAT, load_folder, save_folder, verify_folder
from latentctl.storage.weights import load_strict
from latentctl.training import checkpoints as checkpoint
from latentctl.training import player
from latentctl.training.checkpoints import (
    checkpoints,
    latest_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from latentctl.training.player import flatten_optimizer, restore_optimizer

FILES = ("manifest.json", "state.json", "actor.safetensors", "critic.safetensors")


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch):
    """Flushing is slow and matters only for a power cut; its order is tested below."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def content(value):
    return {"critic": {"w": torch.full((4,), float(value))}, "actor": {"b": torch.ones(2)}}


def save_step(output_dir, step, total_limit=None):
    return save_checkpoint(output_dir, step, content(step), {"step": step}, total_limit=total_limit)


def value_of(path):
    """The number a folder was saved with, after checking that all of it is of one save."""
    tensors, state = load_folder(path)
    assert torch.equal(tensors["critic"]["w"], content(state["step"])["critic"]["w"])
    assert torch.equal(tensors["actor"]["b"], torch.ones(2))
    return state["step"]


class FileOperations:
    """Records every file operation of a save; before the `stop_at`-th it calls `stop`."""

    NAMES = ("mkdir", "rename", "fsync", "unlink", "rmdir", "open")

    def __init__(self, patch, stop_at=None, stop=None, lasting=False):
        self.log, self.fired = [], 0
        self.stop_at, self.stop, self.lasting = stop_at, stop, lasting
        for name in self.NAMES:
            patch.setattr(os, name, self.watched(name, getattr(os, name)))
        patch.setattr(files, "open", self.open, raising=False)

    def operation(self, name, *arguments):
        number = len(self.log)
        self.log.append((name, *map(str, arguments)))
        if self.stop_at is not None and (
            number == self.stop_at or (self.lasting and number > self.stop_at)
        ):
            self.fired += 1
            self.stop()

    def watched(self, name, function):
        def call(*arguments, **keywords):
            self.operation(name, *arguments)
            return function(*arguments, **keywords)

        return call

    def open(self, *arguments):
        self.operation("create", *arguments)
        file = builtins.open(*arguments)  # noqa: SIM115
        write = file.write

        class Half:
            """A full disk writes a part of the data."""

            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(_, data):
                write(data[: len(data) // 2])
                file.flush()
                self.operation("write", *arguments)
                write(data[len(data) // 2 :])

        return Half()


def disk_full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def second_signal():
    raise KeyboardInterrupt


def prepare(kind, base):
    """A place with an older state (1), a way to save a newer one (2), and to find the latest."""
    if kind == "next step":
        save_step(base, 1)
        return lambda: save_step(base, 2, total_limit=1), lambda: latest_checkpoint(base)
    if kind == "after a crash":
        older, newer = save_step(base, 1), save_step(base, 2)
        older.rename(base / ".step-000001.old")
        newer.rename(base / ".step-000002.partial")
        return lambda: save_step(base, 2, total_limit=1), lambda: latest_checkpoint(base)
    if kind == "same step":
        save_checkpoint(base, 7, content(1), {"step": 1})
        again = content(2)
        return (
            lambda: save_checkpoint(base, 7, again, {"step": 2}, total_limit=1),
            lambda: latest_checkpoint(base),
        )
    pack = base / "pack"
    save_folder(pack, content(1), {"step": 1})
    return lambda: save_folder(pack, content(2), {"step": 2}), lambda: pack


KINDS = ("next step", "same step", "pack", "after a crash")


def count_operations(kind, base, monkeypatch):
    save, latest = prepare(kind, base)
    with monkeypatch.context() as patch:
        operations = FileOperations(patch)
        save()
    assert value_of(latest()) == 2
    return len(operations.log)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("stop", [disk_full, second_signal])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_operation_leaves_the_old_or_the_new(
    kind, stop, lasting, tmp_path, monkeypatch
):
    total = count_operations(kind, tmp_path / "dry", monkeypatch)
    assert total > 20
    outcomes = []
    for n in range(total):
        base = tmp_path / str(n)
        save, latest = prepare(kind, base)
        raised = None
        with monkeypatch.context() as patch:
            operations = FileOperations(patch, n, stop, lasting)
            try:
                save()
            except (CheckpointError, KeyboardInterrupt) as error:
                raised = error
        assert operations.fired >= 1
        found = value_of(latest())
        outcomes.append(found)
        if raised is None:
            assert found == 2
        elif "was not saved" in str(raised):
            assert found == 1 and "untouched" in str(raised)
            if not lasting and kind != "after a crash":
                assert not list(base.glob(".*")), "the older state must be restored"
        save()
        assert value_of(latest()) == 2
        assert len(list(base.iterdir())) == 1, "the next save must remove the remains"
    assert len(outcomes) == total and outcomes == sorted(outcomes), "one instant must commit"
    assert set(outcomes) == {1, 2}


def test_the_fault_injector_does_catch_a_save_in_place(tmp_path, monkeypatch):
    def naive_save(path, tensors, state):
        files.remove(path)
        os.mkdir(path)
        for name, data in folder._serialise(tensors, state).items():
            files.write_synced(path / name, data)

    lost = 0
    for n in range(12):
        path = tmp_path / str(n)
        save_folder(path, content(1), {"step": 1})
        with monkeypatch.context() as patch:
            FileOperations(patch, n, disk_full)
            with pytest.raises(OSError):
                naive_save(path, content(2), {"step": 2})
        try:
            value_of(path)
        except CheckpointError:
            lost += 1
    assert lost >= 8


def test_nothing_is_deleted_before_the_new_one_is_in_place(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    with monkeypatch.context() as patch:
        log = FileOperations(patch)
        save_step(tmp_path, 4, total_limit=2)
    names = [entry[0] for entry in log.log]
    commit = next(i for i, entry in enumerate(log.log) if entry[-1].endswith("step-000004"))
    assert log.log[commit][0] == "rename"
    flushed = commit + 1 + names[commit + 1 :].index("fsync")
    first_removal = min(
        i for i, e in enumerate(log.log) if e[0] in ("unlink", "rmdir") or "step-000001" in e[1]
    )
    assert commit < flushed < first_removal
    assert log.log[commit - 2][0] == "open" and log.log[commit - 2][1].endswith(".partial")
    assert names[commit - 1] == "fsync"
    written = [i for i, name in enumerate(names) if name == "create"]
    synced = [i for i, name in enumerate(names) if name == "fsync"]
    assert len(written) == len(FILES) and "manifest.json" in log.log[written[-1]][1]
    assert all(
        any(w < s < nxt for s in synced)
        for w, nxt in zip(written, [*written[1:], commit], strict=True)
    )
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000003", "step-000004"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sigkill_at_every_operation_and_at_random_moments(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["operations"] == report["killed"] and report["killed"] > 60
    assert report["random_kills"] == 12 and report["saves_survived"] > 12


def test_every_flipped_bit_and_every_truncation_is_found_and_named(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    older, newer = save_step(tmp_path, 1), save_step(tmp_path, 2)
    assert latest_checkpoint(tmp_path) == newer
    assert sorted(f.name for f in newer.iterdir()) == sorted(FILES)
    tried = 0
    for file in newer.iterdir():
        data = file.read_bytes()
        named = re.escape(str(file)) + " is truncated or corrupted"
        with open(file, "r+b", buffering=0) as raw:  # in place: to write anew is slow on some disks
            for i, bit in itertools.product(range(len(data)), range(8)):
                os.pwrite(raw.fileno(), bytes([data[i] ^ 1 << bit]), i)
                with pytest.raises(CheckpointError, match=named):
                    verify_folder(newer)
                os.pwrite(raw.fileno(), data[i : i + 1], i)
                tried += 1
            assert value_of(newer) == 2
            raw.seek(0, os.SEEK_END)
            raw.write(b"\n")
            for length in range(len(data) + 1, -1, -1):
                if length != len(data):
                    raw.truncate(length)
                    with pytest.raises(CheckpointError, match=named):
                        verify_folder(newer)
                    tried += 1
        assert latest_checkpoint(tmp_path) == older
        file.write_bytes(data)
    assert tried > 5000 and latest_checkpoint(tmp_path) == newer


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_corrupted_bytes_fall_back_to_the_previous_checkpoint(data, tmp_path, caplog):
    older, newer = save_step(tmp_path, 1), save_step(tmp_path, 2)
    file = newer / data.draw(st.sampled_from(FILES))
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if bytes(raw) == file.read_bytes():
        return
    file.write_bytes(raw)
    with pytest.raises(CheckpointError, match=re.escape(file.name)):
        load_folder(newer)
    caplog.clear()
    assert resolve_checkpoint(tmp_path, "latest") == older
    assert str(file) in caplog.text
    save_step(tmp_path, 2)
    assert latest_checkpoint(tmp_path) == newer


def test_missing_and_unlisted_files(tmp_path):
    for name in FILES:
        path = save_step(tmp_path, 1)
        (path / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            load_folder(path)
    path = save_step(tmp_path, 1)
    for companion in ("README.md", "LICENSE", ".gitattributes"):
        (path / companion).write_text("from a model hub")
    assert value_of(path) == 1
    (path / "extra.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"extra\.safetensors is not listed"):
        load_folder(path)
    with pytest.raises(CheckpointError, match="is missing"):
        load_folder(tmp_path / "nowhere")


def test_unfinished_and_foreign_folders_are_ignored_and_logged(tmp_path, caplog):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    good = save_step(tmp_path, 3)
    for name in ("step-000009", ".step-000008.partial", "step-12", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000010").write_text("a file")
    (tmp_path / "step-000011x").mkdir()
    copied = tmp_path / "step-0000012"
    save_folder(copied, content(12), {})
    before = sorted(tmp_path.iterdir())
    assert checkpoints(tmp_path) == [good] and latest_checkpoint(tmp_path) == good
    for name in ("step-000009", ".step-000008.partial", "step-12", "step-000010", copied.name):
        assert str(tmp_path / name) in caplog.text
    assert "logs" not in caplog.text
    assert sorted(tmp_path.iterdir()) == before, "reading must not write"
    save_step(tmp_path, 4)
    assert not (tmp_path / ".step-000008.partial").exists()
    assert (tmp_path / "step-12").exists() and (tmp_path / "logs").exists()


def test_a_folder_left_by_a_crash_is_found_and_restored(tmp_path):
    path = save_step(tmp_path, 5)
    aside = path.with_name(".step-000005.old")
    path.rename(aside)
    assert checkpoints(tmp_path) == [aside] and value_of(latest_checkpoint(tmp_path)) == 5
    assert value_of(path) == 5
    assert value_of(resolve_checkpoint(tmp_path, "step-000005")) == 5
    save_step(tmp_path, 6)
    assert value_of(path) == 5 and path.is_dir() and not aside.exists()


def test_steps_beyond_six_digits_sort_by_number(tmp_path):
    for step in (1_000_000, 999_999):
        save_step(tmp_path, step)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


def test_rotation_counts_only_intact_checkpoints_and_keeps_the_new_one(tmp_path):
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    broken = tmp_path / "step-000003" / "state.json"
    broken.write_text("{}")
    save_step(tmp_path, 2, total_limit=2)
    assert [p.name[-1] for p in checkpoints(tmp_path)] == ["1", "2", "3"]
    new = save_step(tmp_path, 4, total_limit=1)
    assert [p.name[-1] for p in checkpoints(tmp_path)] == ["3", "4"]
    assert latest_checkpoint(tmp_path) == new
    with pytest.raises(InputError, match="total_limit"):
        save_step(tmp_path, 5, total_limit=0)


def test_resume_by_name_by_path_or_not_at_all(tmp_path, monkeypatch, caplog):
    assert resolve_checkpoint(tmp_path, None) is None
    assert resolve_checkpoint(tmp_path, "latest") is None
    assert "fresh run" in caplog.text
    one, two = save_step(tmp_path, 1), save_step(tmp_path, 2)
    assert resolve_checkpoint(tmp_path, "latest") == two
    assert resolve_checkpoint(tmp_path, one) == one
    monkeypatch.chdir(tmp_path.parent)
    assert resolve_checkpoint(tmp_path, "step-000001") == one


def test_an_explicit_path_that_cannot_be_used_is_refused_with_the_usable_ones(tmp_path):
    with pytest.raises(CheckpointError, match="none in"):
        resolve_checkpoint(tmp_path, tmp_path / "step-000001")
    one, two = save_step(tmp_path, 1), save_step(tmp_path, 2)
    (two / "state.json").write_text("{}")
    for asked in (two, "step-000002", tmp_path / "step-000077", "elsewhere"):
        with pytest.raises(CheckpointError) as caught:
            resolve_checkpoint(tmp_path, asked)
        usable = str(caught.value).split("Usable")[1]
        assert str(one) in usable and str(two) not in usable and str(asked) in str(caught.value)


def test_a_later_format_names_the_version_to_upgrade_to(tmp_path):
    older, newer = save_step(tmp_path, 1), save_step(tmp_path, 2)
    manifest = verify_folder(newer)
    assert manifest["format"] == FORMAT
    assert manifest["latentctl_version"] == latentctl.__version__
    manifest |= {"format": FORMAT + 1, "latentctl_version": "9.8.7", "files": "laid out anew"}
    (newer / "manifest.json").write_bytes(files.sealed(manifest))
    with pytest.raises(CheckpointError, match=r"upgrade latentctl to >= 9\.8\.7"):
        load_folder(newer)
    assert latest_checkpoint(tmp_path) == older


@pytest.mark.parametrize(
    "files",
    [["photo.png"], ["model.safetensors"], ["manifest.json", "notes.txt"], ["state.json", ".git"]],
)
def test_saving_never_deletes_foreign_files(files, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    for name in files:
        (target / name).write_text("precious")
    with pytest.raises(CheckpointError, match="did not write"):
        save_folder(target, content(1), {})
    assert sorted(p.name for p in target.iterdir()) == sorted(files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_a_folder_is_replaced_as_a_whole_also_when_broken_empty_or_linked(tmp_path):
    pack = tmp_path / "deep" / "pack"
    assert save_folder(pack, content(1), {"step": 1}) == pack
    save_folder(pack, {"critic": {}}, {})
    assert load_folder(pack) == ({"critic": {}}, {})
    (pack / "manifest.json").unlink()
    save_folder(pack, content(2), {"step": 2})
    (tmp_path / "link").symlink_to(pack)
    save_folder(tmp_path / "link", content(3), {"step": 3})
    assert value_of(pack) == 3 and (tmp_path / "link").is_symlink()
    (tmp_path / "empty").mkdir()
    assert value_of(save_folder(tmp_path / "empty", content(4), {"step": 4})) == 4
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CheckpointError, match="did not write"):
        save_folder(tmp_path / "file", content(5), {})


def test_what_cannot_be_a_file_or_json_is_refused_before_anything_is_written(tmp_path):
    for name in ("../critic", ".hidden", "a/b", ""):
        with pytest.raises(InputError, match="file name"):
            save_folder(tmp_path / "pack", {name: {}}, {})
    with pytest.raises(InputError, match="JSON"):
        save_folder(tmp_path / "pack", {}, {"tensor": torch.ones(1)})
    assert not list(tmp_path.iterdir())


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_every_kind_of_tensor_and_number_is_restored_bit_equal(tmp_path):
    base = torch.linspace(-3, 3, 12).reshape(3, 4)
    dtypes = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
              torch.float16, torch.bfloat16, torch.float32, torch.float64)  # fmt: skip
    group = {str(dtype): base.to(dtype) for dtype in dtypes}
    group |= {
        "scalar": torch.tensor(7.5),
        "scalar bool": torch.tensor(True),
        "empty": torch.empty(0, 3, dtype=torch.bfloat16),
        "special": torch.tensor([float("nan"), -float("inf"), -0.0, 1e-45]),
        "view": base[1:, ::2],
        "transposed": base.T,
        "expanded": torch.ones(1, 3).expand(4, 3),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "shared": base,
        "tied": base,
        "parameter": nn.Parameter(base),
    }
    state = {"best": float("inf"), "lr": 0.1 + 0.2, "names": ["é", "b"], "nested": {"n": None}}
    save_folder(tmp_path / "pack", {"a": group, "b.ema": {"tied": base}}, state)
    tensors, loaded = load_folder(tmp_path / "pack")
    assert (
        loaded == state and list(tensors) == ["a", "b.ema"] and tensors["a"].keys() == group.keys()
    )
    for key, value in group.items():
        assert bits(tensors["a"][key]) == bits(value.detach()), key
        assert tensors["a"][key].is_contiguous() and not tensors["a"][key].requires_grad
    elsewhere, _ = load_folder(tmp_path / "pack", device="meta")
    assert elsewhere["a"]["scalar"].device.type == "meta"
    tensors["a"]["tied"].zero_()
    assert torch.equal(tensors["a"]["shared"], base)


def test_loading_is_strict_and_lists_everything_at_once():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    good = {key: torch.rand_like(v, dtype=torch.float32) for key, v in module.state_dict().items()}
    load_strict(module, good, "critic")
    assert torch.equal(module[0].weight, good["0.weight"])
    bad = {**good, "0.weight": torch.zeros(3, 5), "lora": torch.zeros(1)}
    del bad["1.running_var"]
    with pytest.raises(CheckpointError) as caught:
        load_strict(module, bad, "critic")
    for part in ("critic", "missing 1.running_var", "unexpected lora", "(3, 5) instead of (3, 2)"):
        assert part in str(caught.value)
    assert torch.equal(module[0].weight, good["0.weight"]), "nothing may change"


OPTIMIZERS = {
    "adam": lambda g: torch.optim.Adam(g, lr=0.01),
    "amsgrad": lambda g: torch.optim.Adam(g, lr=0.01, amsgrad=True, betas=(0.8, 0.99)),
    "adamw, lr a tensor": lambda g: torch.optim.AdamW(g, lr=torch.tensor(0.01), foreach=False),
    "sgd": lambda g: torch.optim.SGD(g, lr=0.01),
    "momentum": lambda g: torch.optim.SGD(g, lr=0.01, momentum=0.9),
    "lbfgs": lambda g: torch.optim.LBFGS([p for d in g for p in d["params"]], history_size=3),
}


def build(name):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    groups = [{"params": list(net[0].parameters()), "lr": 0.02}, {"params": net[2].parameters()}]
    return net, OPTIMIZERS[name](groups)


def train(net, optimizer, steps):
    for step in steps:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))

        def closure(x=x):
            optimizer.zero_grad()
            loss = (net(x) - x.sin().sum(1, keepdim=True)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and bits(a) == bits(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_resumes_bit_equal_after_a_round_trip(name, tmp_path, monkeypatch):
    net, optimizer = build(name)
    train(net, optimizer, range(5))
    saved = copy.deepcopy(optimizer.state_dict())
    start = {key: value.clone() for key, value in net.state_dict().items()}

    def refuse(*_, **__):
        raise AssertionError("a pickle was touched")

    with monkeypatch.context() as patch:
        for module, names in ((pickle, ("load", "loads", "dump", "dumps", "Pickler", "Unpickler")),
                              (torch, ("load", "save"))):  # fmt: skip
            for function in names:
                patch.setattr(module, function, refuse)
        tensors, rest = flatten_optimizer(optimizer)
        everything = {"net": net.state_dict(), "optimizer": tensors}
        path = save_checkpoint(tmp_path, 5, everything, {"optimizer": rest})
        train(net, optimizer, range(5, 10))

        fresh, fresh_optimizer = build(name)
        loaded, state = load_folder(path)
        load_strict(fresh, loaded["net"], "net")
        restore_optimizer(fresh_optimizer, loaded["optimizer"], state["optimizer"])
    assert equal(dict(fresh.state_dict()), start)
    assert equal(fresh_optimizer.state_dict(), saved)
    train(fresh, fresh_optimizer, range(5, 10))
    assert equal(dict(fresh.state_dict()), dict(net.state_dict()))
    assert equal(fresh_optimizer.state_dict(), optimizer.state_dict())

    amnesiac, blank = build(name)
    load_strict(amnesiac, start, "net")
    train(amnesiac, blank, range(5, 10))
    plain = name == "sgd"
    assert equal(dict(amnesiac.state_dict()), dict(net.state_dict())) is plain


def test_flattened_tensors_are_copies_and_an_untouched_optimizer_has_none():
    net, optimizer = build("adam")
    assert flatten_optimizer(optimizer)[0] == {}
    train(net, optimizer, range(1))
    tensors, rest = flatten_optimizer(optimizer)
    before = {key: value.clone() for key, value in tensors.items()}
    train(net, optimizer, range(1, 3))
    assert equal(tensors, before)
    restore_optimizer(optimizer, tensors, rest)
    train(net, optimizer, range(1, 3))
    assert equal(tensors, before)


def test_an_optimizer_of_another_network_is_refused():
    net, optimizer = build("adam")
    train(net, optimizer, range(1))
    tensors, rest = flatten_optimizer(optimizer)
    for cut, complaint in (
        ({k: v for k, v in tensors.items() if k != "3"}, "lacks the tensor '3'"),
        ({**tensors, "stray": torch.ones(1)}, "Unexpected.*stray"),
    ):
        with pytest.raises(CheckpointError, match=complaint):
            restore_optimizer(optimizer, cut, rest)
    other = torch.optim.Adam([nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(CheckpointError, match="shapes"):
        restore_optimizer(other, tensors, rest)


def test_no_pickle_in_the_source():
    for module in (checkpoint, files, folder, player):
        source = Path(module.__file__).read_text()
        assert not re.search(r"import pickle|torch\.(load|save)\(", source)


def kill_and_check(base):
    """Run by itself: forks that are killed at every operation, then at random moments."""

    def wait(child):
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    operations, killed = 0, 0
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda descriptor: None)
    for kind in KINDS:
        with pytest.MonkeyPatch.context() as dry:
            total = count_operations(kind, base / kind / "dry", dry)
        operations += total
        for n in range(total):
            place = base / kind / str(n)
            save, latest = prepare(kind, place)
            child = os.fork()
            if child == 0:
                FileOperations(
                    pytest.MonkeyPatch(), n, lambda: os.kill(os.getpid(), signal.SIGKILL)
                )
                save()
                os._exit(0)
            killed += wait(child)
            assert value_of(latest()) in (1, 2), (kind, n)
            save()
            assert value_of(latest()) == 2 and not list(place.glob(".*")), (kind, n)

    patch.undo()
    moments, kills, last = random.Random(0), 0, 1
    run, pack = base / "run", base / "replaced"
    save_step(run, 1)
    save_folder(pack, content(1), {"step": 1})
    for _ in range(12):
        before = value_of(pack)
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            for step in itertools.count(last + 1):
                save_step(run, step, total_limit=2)
                os.write(sending, b".")
                save_folder(pack, content(step), {"step": step})
        os.read(receiving, 1)  # at least one save has ended, however slow the disk
        time.sleep(moments.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
        kills += wait(child)
        found = value_of(latest_checkpoint(run))
        assert found > last and before <= value_of(pack) <= found
        last = found
    print(json.dumps({"operations": operations, "killed": killed, "random_kills": kills,
                      "saves_survived": last}))  # fmt: skip


if __name__ == "__main__":
    kill_and_check(Path(sys.argv[1]))

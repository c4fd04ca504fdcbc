"""The folder of a run: of one decoder and one data set, held by one run, on a disk that fills."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NAMES, ToyVAE, toy_decoder, toy_latents
from torch import nn
from torch.utils.data import TensorDataset

from latentctl import Actor, AttributeCritic, FlowMatching, LatentFlow, Latents, encode_dataset
from latentctl.controllers import Ascent, Updater
from latentctl.controllers.distillation import distill
from latentctl.errors import CheckpointError
from latentctl.storage.lock import held
from latentctl.training import Player, fit, run_state, signals

SEED = int(os.environ.get("LATENTCTL_FAULT_SEED", "0"))
TINY = {"width": 8, "depth": 1}
SHORT = {"max_train_steps": 2, "batch_size": 16, "checkpointing_steps": 1}


def cached(folder, seed=0):
    """Encodings by a decoder, whose fingerprint they hold."""
    made = toy_latents(64, seed=3)
    decoder = toy_decoder(ToyVAE(seed))
    samples = decoder.decode(made.mean).detach()
    data = TensorDataset(samples, made.labels)
    return encode_dataset(decoder, data, folder, attributes=NAMES, progress=False)


FITS = {
    "critic": lambda z, **o: AttributeCritic.fit(z, **TINY, **SHORT, **o),
    "flow": lambda z, **o: FlowMatching.fit(z, **TINY, **SHORT, **o),
    "latent flow": lambda z, **o: LatentFlow.fit(z, **TINY, **SHORT, **o),
    "actor": lambda z, **o: Actor.fit(z, **TINY, **SHORT, **o),
    "updater": lambda z, **o: Updater.fit(
        z,
        teacher(z.names),
        attributes=teacher(z.names).attributes,
        requests=32,
        **TINY,
        **SHORT,
        **o,
    ),
    "distillation": lambda z, **o: distill(
        teacher(z.names).attributes, z, samples=32, samples_per_round=16, **TINY, **SHORT, **o
    ),
}


def teacher(names):
    torch.manual_seed(0)
    return Ascent(AttributeCritic((8,), list(names), **TINY), steps=2)


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path.name} did not come")


@pytest.mark.parametrize("kind", FITS)
def test_a_finished_run_is_resumed_only_on_its_own_decoder_and_data(kind, tmp_path):
    own, run = cached(tmp_path / "own"), tmp_path / "run"
    torch.manual_seed(0)
    FITS[kind](own, output_dir=run)
    FITS[kind](own, output_dir=run, resume_from_checkpoint="latest")
    again = Latents.load(tmp_path / "own")
    FITS[kind](again, output_dir=run, resume_from_checkpoint="latest")
    foreign = cached(tmp_path / "foreign", seed=1)
    assert foreign.fingerprint != own.fingerprint
    labels = own.labels.clone()
    labels[3, 1] = 1 - labels[3, 1]
    moved = own.mean.clone()
    moved[5, 2] += 1e-3
    others = {
        f"decoder was '{own.fingerprint[:16]}' and is now '{foreign.fingerprint[:16]}'": foreign,
        r"attributes was \['Smiling', 'Male', 'Hat'\] and is now \['Male'": own.select(
            ("Male", "Smiling", "Hat")
        ),
        "latents was '[0-9a-f]{16}' and is now '[0-9a-f]{16}'": own.with_labels(labels, NAMES),
        "decoder was '[0-9a-f]{16}' and is now ''": Latents(moved, own.std, own.labels, NAMES),
    }
    if kind not in ("updater", "distillation"):
        others["samples was 64 and is now 63"] = own[:63]
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for words, data in others.items():
        with pytest.raises(CheckpointError, match=words):
            FITS[kind](data, output_dir=run, resume_from_checkpoint="latest")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    print(f"{len(others)} resumes on other data were refused")


def small_fit(folder, data, **options):
    net = nn.Linear(2, 1)
    for weight in net.parameters():
        nn.init.zeros_(weight)

    def loss(batch, step):
        return (net(batch) - 1).square().mean(), {}

    player = Player("net", net, loss, torch.optim.SGD(net.parameters(), 0.1))
    options = {"max_train_steps": 6, "batch_size": 4, "checkpointing_steps": 2, **options}
    return fit(player, data, output_dir=folder, log_every=1, progress=False, **options)


def test_tensors_are_told_apart_and_what_they_were_derived_from(tmp_path):
    x = torch.randn(8, 2)
    small_fit(tmp_path / "plain", x)
    small_fit(tmp_path / "plain", x.clone(), resume_from_checkpoint="latest")
    with pytest.raises(CheckpointError, match="data was"):
        small_fit(tmp_path / "plain", x + 1, resume_from_checkpoint="latest")
    small_fit(tmp_path / "derived", x, derived_from=[x, nn.Linear(1, 1)])
    with pytest.raises(CheckpointError, match=r"Linear was '[0-9a-f]+' and is now '[0-9a-f]+'"):
        small_fit(
            tmp_path / "derived",
            x,
            derived_from=[x, nn.Linear(1, 1)],
            resume_from_checkpoint="latest",
        )


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(tmp_path):
    x, tried = torch.randn(8, 2), []

    def second(step):
        for resume in (None, "latest"):
            with pytest.raises(CheckpointError, match=f"in use: process {os.getpid()} on "):
                small_fit(tmp_path, x, resume_from_checkpoint=resume)
            tried.append(step)

    small_fit(tmp_path, x, on_step=second)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [1, 2, 3, 4, 5, 6] and len(tried) == 12
    assert not (tmp_path / ".lock").exists()
    small_fit(tmp_path, x, resume_from_checkpoint="latest")


def test_the_lock_of_a_killed_process_is_taken_over_beside_its_children(tmp_path):
    started, child = tmp_path / "started", os.fork()
    if child == 0:
        with held(tmp_path / "run"):
            grandchild = os.fork()  # such as a reader of batches
            if grandchild:
                (tmp_path / "partial").write_text(str(grandchild))
                (tmp_path / "partial").rename(started)
            time.sleep(60)
        os._exit(0)
    wait_for(started)
    with pytest.raises(CheckpointError, match=f"in use: process {child} on "):
        small_fit(tmp_path / "run", torch.randn(8, 2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "run" / ".lock").exists()
    small_fit(tmp_path / "run", torch.randn(8, 2))
    assert not (tmp_path / "run" / ".lock").exists()
    os.kill(int(started.read_text()), signal.SIGKILL)


def test_a_full_disk_at_any_log_line_is_a_clear_error_and_the_run_goes_on(tmp_path, monkeypatch):
    x, draw, tried = torch.randn(8, 2), random.Random(SEED), 0
    whole = small_fit(tmp_path / "whole", x, max_train_steps=6)
    expected = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    append = run_state.append_line
    for n in range(6):
        for code in draw.sample([errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], 2):
            folder, calls = tmp_path / f"{n}-{code}", []

            def full(path, line, n=n, calls=calls, code=code):
                calls.append(line)
                if len(calls) == n + 1:
                    append(path, line[: len(line) // 2])  # a part of the line is there
                    raise OSError(code, os.strerror(code))
                append(path, line)

            monkeypatch.setattr(run_state, "append_line", full)
            with pytest.raises(CheckpointError, match=rf"not written at step {n + 1}: .*resume"):
                small_fit(folder, x)
            monkeypatch.undo()
            again = small_fit(folder, x, resume_from_checkpoint="latest")
            assert (folder / "metrics.jsonl").read_bytes() == expected
            assert again.log == whole.log
            tried += 1
    print(f"{tried} log lines on a full disk")
    assert tried == 12


LAUNCHED = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("signals", sys.argv[2])  # without torch
signals = importlib.util.module_from_spec(spec)
spec.loader.exec_module(signals)
print(signals.end_with_launcher(), flush=True)
with signals.stop_on_signals() as received:
    Path(sys.argv[1], "started").touch()
    while not received:
        time.sleep(0.01)
    Path(sys.argv[1], "stopped").touch()
"""
LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, *sys.argv[2:]]).wait())  # argv[1] is "accelerate"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child")
def test_a_worker_ends_with_its_launcher(tmp_path):
    (tmp_path / "worker.py").write_text(LAUNCHED)
    command = [sys.executable, "-c", LAUNCHER, "accelerate"]
    with subprocess.Popen(
        [*command, str(tmp_path / "worker.py"), str(tmp_path), signals.__file__]
    ) as launcher:
        wait_for(tmp_path / "started")
        launcher.send_signal(signal.SIGTERM)
    wait_for(tmp_path / "stopped")
    plain = subprocess.run(
        [sys.executable, "-c", LAUNCHED.split("with sig")[0], "", signals.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    assert plain.stdout == "False\n"

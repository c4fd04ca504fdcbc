"""Untrusted folders: flipped bits, malformed manifests and configurations, no real files."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import NAMES, ToyVAE, toy_decoder, toy_latents
from faults import draws, mutated
from latentctl_adapters.conv_vae import ConvVAE
from latentctl_adapters.flow_decoder import PixelFlow
from latentctl_adapters.melody_vae import MelodyVAE

from latentctl import (
    Actor,
    AttributeCritic,
    Conditional,
    FlowMatching,
    LatentFlow,
    Latents,
    condition,
    encode_dataset,
)
from latentctl.controllers import Ascent, Transport, Updater
from latentctl.critics import RealismCritic
from latentctl.errors import CacheError, CheckpointError, LatentctlError
from latentctl.random import seeded
from latentctl.storage import load_folder, save_folder, verify_folder
from latentctl.storage.files import sealed
from latentctl.training import Player, fit

TINY = {"width": 8, "depth": 1}


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def judge():
    classifier = pytest.importorskip("latentctl_adapters.pixels.classifier")
    options = {"model_name": "resnet10t", "model_options": {"channels": (8, 8, 8, 8)}}
    return classifier.PixelClassifier(["Smiling", "Male"], resolution=32, **options)


def critic():
    return AttributeCritic((8,), NAMES, **TINY)


MAKERS = {
    "judge": judge,
    "model": lambda: ConvVAE(resolution=16, latent_size=4, width=4, sigma_x=0.2),
    "pixel flow": lambda: PixelFlow(resolution=8, channels=1, patch=4, width=8, blocks=1),
    "melody model": lambda: MelodyVAE(
        latent_size=4, embedding=4, encoder_size=4, decoder_size=4, by_position=False
    ),
    "critic": critic,
    "realism": lambda: RealismCritic((8,), NAMES, **TINY),
    "ascent": lambda: Ascent(critic(), RealismCritic((8,), **TINY)),
    "transport": lambda: Transport(critic(), RealismCritic((8,), **TINY)),
    "actor": lambda: Actor((8,), NAMES, **TINY),
    "updater": lambda: Updater((8,), NAMES, steps=2, **TINY),
    "flow matching": lambda: FlowMatching((8,), NAMES, **TINY),
    "latent flow": lambda: LatentFlow((8,), width=8),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One saved module of each kind, with its folder."""
    base = tmp_path_factory.mktemp("saved")
    with seeded(0):
        modules = {kind: make().eval() for kind, make in MAKERS.items()}
    return {kind: (module, module.save(base / kind)) for kind, module in modules.items()}


@pytest.mark.parametrize("kind", ["judge", "model", "pixel flow", "melody model"])
def test_every_flipped_bit_of_a_network_is_refused(kind, saved, tmp_path):
    module, folder = saved[kind]
    folder = Path(shutil.copytree(folder, tmp_path / "copy"))
    draw, tried = draws(f"bits {kind}"), 0
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for place in draw.sample(range(8 * len(data)), 40):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=f"{file.name} is truncated or corrupted"):
                type(module).load(folder)
            tried += 1
        file.write_bytes(data)
    type(module).load(folder)
    print(f"{tried} bits of a {kind} were flipped")
    assert tried == 120


def test_a_crash_at_any_operation_leaves_a_whole_judge(tmp_path, monkeypatch):
    with seeded(0):
        older, newer = judge().eval(), judge().eval()
    older.scores["accuracy"] = 0.1
    x, outcomes = torch.rand(2, 3, 32, 32), []
    expected = {0.1: older(x), None: newer(x)}
    for n in range(100):
        folder, count = tmp_path / str(n), 0
        older.save_pretrained(folder)

        def crash(name, function, n=n):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == n + 1:
                    raise KeyboardInterrupt(name)  # unlike an OSError, it cleans nothing up
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("open", "mkdir", "rename", "unlink", "rmdir", "fsync"):
                patch.setattr(os, name, crash(name, getattr(os, name)))
            try:
                newer.save_pretrained(folder)
            except KeyboardInterrupt:
                pass
            else:
                break
        found = type(newer).from_pretrained(folder)
        assert torch.equal(found(x), expected[found.scores.get("accuracy")])
        outcomes.append(found.scores.get("accuracy"))
    print(f"{len(outcomes)} crashes while a judge was saved")
    assert len(outcomes) > 12 and outcomes == sorted(outcomes, key=[0.1, None].index)
    assert set(outcomes) == {0.1, None}


def outcome(load):
    """How a load of something malformed ended: never with an error of another kind."""
    try:
        load()
    except LatentctlError as error:
        assert len(str(error)) < 5000
        return "refused"
    return "loaded"


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.filterwarnings("ignore")  # torch warns of layers without weights
def test_malformed_configurations_are_refused(kind, saved, tmp_path):
    module, folder = saved[kind]
    tensors, state = load_folder(folder)
    draw, found = draws(f"state {kind}"), Counter()
    for _ in range(30):
        save_folder(tmp_path / "copy", tensors, mutated(state, draw))
        found[outcome(lambda: type(module).load(tmp_path / "copy"))] += 1
    print(f"30 malformed configurations of a {kind}: {dict(found)}")
    assert found.total() == 30 and found["refused"] > 8


@pytest.mark.parametrize("key", ["depth", "width"])
def test_what_is_too_large_is_refused_before_it_is_built(key, saved, tmp_path):
    tried = 0
    for kind, (module, folder) in saved.items():
        for size in (30_000, 1_000_000, 10**7, 10**12):
            tensors, state = load_folder(folder)
            (entry,) = state["modules"].values()
            if key in entry["config"]:
                entry["config"][key] = size
                save_folder(tmp_path / kind, tensors, state)
                with pytest.raises(CheckpointError, match=r"asks for more than|is beyond"):
                    type(module).load(tmp_path / kind)
                tried += 1
    print(f"{tried} networks were too large")
    assert tried >= 20


@pytest.mark.filterwarnings("ignore")
def test_malformed_packs_are_refused(tmp_path):
    decoder = toy_decoder(ToyVAE())
    with seeded(0):
        pack = condition(decoder, critic()).save_pretrained(tmp_path / "pack")
    tensors, state = load_folder(pack)
    draw, found = draws("pack"), Counter()
    for _ in range(40):
        save_folder(pack, tensors, mutated(state, draw))
        found[outcome(lambda: Conditional.from_pretrained(pack, decoder))] += 1
    print(f"40 malformed packs: {dict(found)}")
    assert found.total() == 40 and found["refused"] > 8


def test_malformed_manifests_are_refused(saved, tmp_path):
    _, folder = saved["critic"]
    folder = Path(shutil.copytree(folder, tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    draw, found = draws("manifest"), Counter()
    for _ in range(100):
        (folder / "manifest.json").write_bytes(sealed(mutated(manifest, draw)))
        found[outcome(lambda: AttributeCritic.load(folder))] += 1
    print(f"100 malformed manifests: {dict(found)}")
    assert found.total() == 100 and found["refused"] > 60


def cache(folder):
    latents = toy_latents(40, seed=0)
    decoder = toy_decoder(ToyVAE())
    rows = list(zip(decoder.decode(latents.mean).detach(), latents.labels, strict=True))
    options = {"attributes": NAMES, "shard_size": 16, "progress": False}
    return lambda: encode_dataset(decoder, rows, folder, **options)


def test_malformed_caches_are_refused_or_encoded_again(tmp_path):
    again = cache(tmp_path / "cache")
    expected = again()
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    draw, found = draws("cache"), Counter()
    for _ in range(40):
        (tmp_path / "cache" / "manifest.json").write_bytes(sealed(mutated(manifest, draw)))
        found[outcome(lambda: Latents.load(tmp_path / "cache"))] += 1
        found[f"job {outcome(again)}"] += 1
        (tmp_path / "cache" / "manifest.json").write_bytes(sealed(manifest))
        assert torch.equal(again().mean, expected.mean)
    print(f"80 malformed caches: {dict(found)}")
    assert found.total() == 80 and found["refused"] > 20


def test_malformed_checkpoints_of_runs_are_refused(tmp_path):
    def run(resume):
        net = torch.nn.Linear(2, 1)
        adam = torch.optim.Adam(net.parameters(), 0.1)
        loss = lambda batch, step: (net(batch).square().mean(), {})  # noqa: E731
        options = {"max_train_steps": 2, "batch_size": 4, "checkpointing_steps": 2}
        fit(
            Player("net", net, loss, adam),
            torch.ones(8, 2),
            output_dir=tmp_path,
            progress=False,
            resume_from_checkpoint=resume,
            **options,
        )

    run(None)
    tensors, state = load_folder(tmp_path / "step-000002")
    draw, found = draws("checkpoint"), Counter()
    for _ in range(40):
        save_folder(tmp_path / "step-000002", tensors, mutated(state, draw))
        found[outcome(lambda: run("step-000002"))] += 1
    print(f"40 malformed checkpoints: {dict(found)}")
    assert found.total() == 40 and found["refused"] > 20


UNTRUSTED_NAMES = (
    *("../critic.safetensors", "/etc/passwd", "*", "*.safetensors", "a/b.safetensors", ".hidden"),
    *(
        "",
        ".",
        "..",
        "state.json/..",
        "x.bin",
        "\0.safetensors",
        "?.safetensors",
        "[a].safetensors",
    ),
    *(
        "c:\\x.safetensors",
        "..\\x.safetensors",
        "é.safetensors",
        "a\n.safetensors",
        "a .safetensors",
    ),
)


@pytest.mark.parametrize("kind", ["list", "extra"])
def test_names_that_lead_elsewhere_are_refused(kind, saved, tmp_path):
    _, folder = saved["critic"]
    folder = Path(shutil.copytree(folder, tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in UNTRUSTED_NAMES:
        entry = manifest["files"]["state.json"]
        files = {name: entry} if kind == "list" else {**manifest["files"], name: entry}
        (folder / "manifest.json").write_bytes(sealed({**manifest, "files": files}))
        with pytest.raises(CheckpointError, match="which is not the name"):
            verify_folder(folder)
    print(f"{len(UNTRUSTED_NAMES)} names were refused")


def replace(path, kind, tmp_path):
    data = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 40)  # takes no space


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_only_regular_files_of_the_listed_size_are_read(saved, tmp_path):
    tried = 0
    for kind in ("pipe", "link", "device", "folder", "loop", "huge"):
        (weights,) = saved["critic"][1].glob("*.safetensors")
        for name in ("manifest.json", "state.json", weights.name):
            folder = Path(shutil.copytree(saved["critic"][1], tmp_path / f"{kind} {name}"))
            replace(folder / name, kind, tmp_path)
            with pytest.raises(CheckpointError, match=f"{name} (cannot be read|is truncated)"):
                AttributeCritic.load(folder)
            tried += 1
        again = cache(tmp_path / f"cache {kind}")
        again()
        replace(tmp_path / f"cache {kind}" / "manifest.json", kind, tmp_path)
        with pytest.raises(CacheError, match="cannot be read"):
            Latents.load(tmp_path / f"cache {kind}")
        tried += 1
    print(f"{tried} files that are none were refused")
    assert tried == 24


def test_a_manifest_on_the_hub_cannot_ask_for_the_repository(saved, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    snapshot = tmp_path / "models--me--judge" / "snapshots" / "abc"
    shutil.copytree(saved["critic"][1], snapshot)
    manifest = json.loads((snapshot / "manifest.json").read_text())

    def download(repo_id, **options):
        asked.append(options["allow_patterns"])
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for name in UNTRUSTED_NAMES:
        files = {**manifest["files"], name: {"size": 1, "sha256": ""}}
        (snapshot / "manifest.json").write_bytes(sealed({**manifest, "files": files}))
        with pytest.raises(CheckpointError, match=r"which is not the name.*themselves|itself"):
            ConvVAE.from_pretrained("me/judge")
    assert asked == [["manifest.json"]] * len(UNTRUSTED_NAMES)

"""The recipes, run as a user runs them, at a budget of a few steps."""

from __future__ import annotations

import csv
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import RECIPES, done, launch, refused, run

import latentctl
from latentctl import FlowMatching
from latentctl.errors import CheckpointError, FingerprintError, InputError, UnknownNameError
from latentctl.random import generator

for package in ("tyro", "matplotlib", "timm", "datasets"):
    pytest.importorskip(package)
Image = pytest.importorskip("PIL.Image")

import celeba_attrs

NAMES = ("Black_Hair", "Male", "Smiling")
LITTLE = "--max_train_samples 256 --max_test_samples 48"
LITTLE += " --attributes " + " ".join(NAMES)
VAE = "--latent_size 16 --width 8 --vae_train_steps 6 --vae_batch_size 16"
GAME = "--preset small --train_batch_size 32 --critic_train_steps 10 --max_train_steps 6"
GAME += " --controller actor --realism_train_steps 6 --teachers 0 --num_edits 4"
TAUGHT = "--network_passes 1 --distillation_samples 64"
CLONED = "--flow_train_steps 6 --realism_teacher_train_steps 6 --demonstration_steps 4"
CLONED += " --critic_warmup_steps 2"
LEFT = ("report.html", "config.json", "metrics.jsonl", "results.json", "pack/manifest.json")
PICTURES = ("overview.png", "samples.png", "walk.png", "edits.png")
NO_BASE = {"pretrained_model_name_or_path": None}
PACK = "--pack out/pack --pretrained_model_name_or_path out/base"
WHERE = "(Smiling & Male) | ~Black_Hair"
PNG = b"\x89PNG\r\n\x1a\n"


def is_page(path):
    text = path.read_text(encoding="utf-8")
    return "data:image/png;base64," in text and text.rstrip().endswith("</html>")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """Networks of few units, in the runs that are in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(celeba_attrs.SIZES, "small", (32, 3))
        patch.setattr(FlowMatching, "fit", partial(FlowMatching.fit, width=32))
        yield


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """The folder in which the main job ran without any data, and its log."""
    folder = tmp_path_factory.mktemp("main")
    flags = ("--output_dir out --train_vae", LITTLE, VAE, GAME, CLONED)
    return folder, done(run("celeba_attrs.py", *flags, cwd=folder))


@pytest.fixture(scope="module")
def made(main_job):
    """The frozen base and the pack of the main job."""
    base = main_job[0] / "out" / "base"
    decoder = latentctl.load("conv-vae", pretrained_model_name_or_path=str(base))
    return decoder, latentctl.Conditional.from_pretrained(main_job[0] / "out" / "pack", decoder)


@pytest.fixture(scope="module")
def edited(main_job):
    """The folder of a run of edit_identity on drawn faces."""
    folder = main_job[0]
    flags = (PACK, "--output_dir edits --num_faces 3")
    done(run("edit_identity.py", *flags, cwd=folder))
    return folder / "edits"


@pytest.fixture(scope="module")
def evaluated(main_job):
    """The folder of a run with refinement, an evaluator, an expression, and several strengths."""
    from latentctl_adapters.pixels.classifier import PixelClassifier

    folder = main_job[0]
    # of more attributes than the pack, and in another order
    names = ("Smiling", "Young", *NAMES[:2])
    PixelClassifier(names, model_options={"channels": (8, 8, 8, 8)}).save_pretrained(
        folder / "network"
    )
    flags = (PACK, "--output_dir evaluated --num_faces 2 --attributes Smiling --hold Male Smiling")
    flags += ("--strength 0 0.5 1 --refine_with network --evaluator out/judge", ["--where", WHERE])
    done(run("edit_identity.py", *flags, cwd=folder))
    return folder / "evaluated"


def test_the_vae_is_trained_and_saved_and_never_resumed_from_nothing(tmp_path):
    flags = ("--output_dir vae", "--max_train_samples 256 --max_test_samples 48", VAE)
    flags += ("--vae_train_steps 4 --checkpointing_steps 2",)
    log = done(launch("pretrain_vae.py", *flags, cwd=tmp_path))
    assert "procedural" in log and "48 held-out faces" in log and "dB PSNR" in log
    folder = tmp_path / "vae"
    decoder = latentctl.load("conv-vae", pretrained_model_name_or_path=str(folder / "model"))
    assert decoder.latent_shape == (16,) and decoder.sample_shape == (3, 64, 64)
    assert (folder / "overview.png").read_bytes()[:8] == PNG
    assert json.loads((folder / "flags.json").read_text())["vae"]["vae_train_steps"] == 4
    assert lines(folder / "training" / "metrics.jsonl")[-1]["loss"] > 0
    # a checkpoint that is not there: the run says which are, and changes nothing
    before = (folder / "model" / "manifest.json").read_bytes()
    missing = "--resume_from_checkpoint vae/training/checkpoint-99"
    result = run("pretrain_vae.py", *flags, missing, cwd=tmp_path)
    refused(result, "checkpoint-99", "Usable checkpoints", "step-000002", "step-000004")
    assert (folder / "model" / "manifest.json").read_bytes() == before


def test_the_main_job_needs_no_data_and_leaves_everything(main_job):
    folder, log = main_job[0] / "out", main_job[1]
    assert "the embedded procedural set" in log and "report.html" in log
    for name in LEFT:
        assert (folder / name).stat().st_size > 0, name
    for name in PICTURES:
        assert (folder / name).read_bytes()[:8] == PNG, name
    assert is_page(folder / "report.html")
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["attributes"] == list(NAMES) and config["vae"]["width"] == 8
    parts = {line["part"] for line in lines(folder / "metrics.jsonl")}
    assert {
        "vae",
        "attributes",
        "flow_matching",
        "actor/demonstrations",
        "actor/game",
    } <= parts
    results = json.loads((folder / "results.json").read_text())
    assert any(row["name"] == "conditional: Actor" for row in results["samples"])
    assert all(0 <= row["success"] <= 1 for row in results["edits"])


def test_its_pack_samples_on_the_base_and_on_nothing_else(main_job, made):
    faces = made[1]
    assert faces.names == NAMES and faces.realism is not None
    out = faces.sample(5, Smiling=True, seed=3)
    assert out.x.shape == (5, 3, 64, 64) and out.x.min() >= 0 and out.x.max() <= 1
    assert torch.equal(out.x, faces.sample(5, Smiling=True, seed=3).x)
    other = latentctl.wrap(torch.nn.Linear(16, 12), decode="forward")
    with pytest.raises(FingerprintError):
        latentctl.Conditional.from_pretrained(main_job[0] / "out" / "pack", other)


def test_every_face_and_attribute_has_its_receipt(edited, made):
    rows = json.loads((edited / "receipts.json").read_text())
    assert [(row["attribute"], row["index"]) for row in rows] == [
        (name, index) for name in NAMES for index in range(3)
    ]
    for row in rows:
        assert row["requested"] == (row["probability_before"] <= 0.5)
        assert row["request"] == f"{row['attribute']} flipped"
        assert row["goal"] == f"{row['attribute']} → {'yes' if row['requested'] else 'no'}"
        assert row["most_leaked"] in set(NAMES) - {row["attribute"]}
        assert 0 <= row["leakage_mean"] <= row["leakage_max"] <= 1
        assert row["evaluations"] > 0 and row["shift"] > 0
        near = abs(row["probability_after"] - row["requested"])
        assert row["satisfied"] == (near <= 1 - made[1].threshold)
        assert row["unreachable"] == (near > 0.5)
        assert row["evaluated_by"] == "critic" and f"{row['goal']}: from" in row["words"]
        for when in ("before", "after"):
            assert row[f"probability_{when}"] == row[f"{when}_{row['attribute']}"]
            assert all(0 <= row[f"{when}_{name}"] <= 1 for name in NAMES)
        most = row["most_leaked"]
        assert row["leakage_max"] == pytest.approx(
            abs(row[f"after_{most}"] - row[f"before_{most}"]), abs=1e-6
        )
    with open(edited / "receipts.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["face"] for row in table] == [row["face"] for row in rows]
    assert table[0].keys() == rows[0].keys()
    assert is_page(edited / "report.html")
    assert "probabilities are those of the critic" in (edited / "report.html").read_text()
    assert (edited / "edits.png").read_bytes()[:8] == PNG
    assert len(list((edited / "faces").glob("*.png"))) == 3
    assert not (edited / "strengths").exists()
    assert json.loads((edited / "config.json").read_text())["model"]["pack"] == "out/pack"


def test_each_edit_is_saved_with_its_receipt(edited, evaluated, main_job):
    from latentctl.conditional import verify

    folder = str(main_job[0] / "out" / "base")
    decoder = latentctl.load("conv-vae", pretrained_model_name_or_path=folder)
    files = sorted((edited / "edited").rglob("*.png"))
    assert len(files) == 3 * len(NAMES) and len(list((evaluated / "edited").rglob("*.png"))) == 12
    for file in files[:2]:
        assert verify(file, edited / "pack", decoder).intact
    file = next((evaluated / "edited").rglob("*x0.5.png"))
    verdict = verify(file, evaluated / "pack", decoder)
    assert not verdict.changed and "evaluator=" in str(verdict)
    for name in ("edits.png", "faces/000_test_00000.png"):
        with Image.open(edited / name) as image:
            assert "Edited by AI" in image.text["Description"]


def test_an_evaluator_scores_and_a_move_can_be_made_in_parts(evaluated, main_job):
    rows = json.loads((evaluated / "receipts.json").read_text())
    assert [(row["request"], row["strength"], row["index"]) for row in rows] == [
        (request, strength, index)
        for request in ("Smiling flipped", WHERE)
        for strength in (0, 0.5, 1)
        for index in range(2)
    ]
    assert {row["evaluated_by"] for row in rows} == {"evaluator"}
    for row in rows:
        before = [row[f"before_{name}"] for name in NAMES]
        if row["strength"] == 0:
            assert row["shift"] == 0 and [row[f"after_{name}"] for name in NAMES] == before
        if row["strength"] < 1:
            assert not row["unreachable"]
        if row["attribute"] == "Smiling":  # what is asked is not held, and Black_Hair is free
            assert row["most_leaked"] == "Male"
        else:
            hair, male, smiling = before
            expected = 1 - (1 - smiling * male) * hair
            assert row["probability_before"] == pytest.approx(expected, abs=1e-4)
            assert row["most_leaked"] is None and row["requested"] == 1
    page = (evaluated / "report.html").read_text()
    assert "those of an independent evaluator" in page and "refined on 1 network" in page
    assert "200 labelled faces" in page and "those of the critic" not in page
    assert len(list((evaluated / "strengths").glob("*.png"))) == 2
    same = "--refine_with network out/judge --evaluator out/judge --output_dir refused"
    refused(run("edit_identity.py", PACK, same, cwd=main_job[0]), "must be independent")
    assert not (main_job[0] / "refused").exists()


@pytest.mark.slow
def test_the_main_job_by_its_defaults(tmp_path):
    flags = ("--output_dir out", LITTLE, GAME.replace("--teachers 0", "--teachers 1"), TAUGHT)
    flags += ("--realism_train_steps 0 --flow_train_steps 0",)
    log = done(run("celeba_attrs.py", *flags, cwd=tmp_path))
    assert "first.png" in log and "[3/5] teach the critic (about" in log
    folder = tmp_path / "out"
    for name in ("first.png", "truth.png", "samples.png", "edits.png"):
        assert (folder / name).read_bytes()[:8] == PNG, name
    parts = {line["part"] for line in lines(folder / "metrics.jsonl")}
    assert {"teach/distillation/round-0", "teach/distillation/round-1"} <= parts
    assert "attributes" not in parts and not (folder / "base").exists()
    decoder = latentctl.load("drawn-faces")
    taught = latentctl.Conditional.from_pretrained(folder / "pack", decoder)
    assert taught.names == NAMES and taught.critic.config["depth"] == 3
    page = (folder / "report.html").read_text()
    assert "was distilled from networks on pixels" in page
    # the pack is edited without naming the decoder that ships
    flags = ("--pack out/pack --output_dir edits --num_faces 1 --attributes Smiling",)
    done(run("edit_identity.py", *flags, cwd=tmp_path))
    assert len(json.loads((tmp_path / "edits" / "receipts.json").read_text())) == 1


def save_images(folder, images, names):
    folder.mkdir(parents=True)
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)


@pytest.mark.parametrize("kinds", [("without", "with"), ("before", "after")])
def test_an_attribute_is_learned_from_a_few_examples(main_job, tmp_path, kinds):
    from latentctl_adapters.embedded.drawn_faces import ProceduralFaces

    images, _ = ProceduralFaces.split("test", 6, 1, 64, ("Smiling",)).tensors()
    names = [f"{i}.png" for i in range(6)]
    bright = (images.int() + 60).clamp(0, 255).byte()
    save_images(tmp_path / "Bright" / kinds[0], images, names)
    save_images(tmp_path / "Bright" / kinds[1], bright, names)
    out, given = main_job[0] / "out", tmp_path / "Bright"
    flags = [["--pack", out / "pack", "--pretrained_model_name_or_path", out / "base"]]
    flags += [
        ["--images", given / kinds[0], "--from_examples", given, "--evaluator", out / "judge"]
    ]
    few = "--num_faces 2 --threshold 0.999 --output_dir edits"  # so that none has it already
    done(run("edit_identity.py", *flags, few, cwd=tmp_path))
    rows = json.loads((tmp_path / "edits" / "receipts.json").read_text())
    assert [row["request"] for row in rows] == ["Bright", "Bright"]
    for row in rows:  # the evaluator has no output for it
        assert row["evaluated_by"] == "critic" and row["most_leaked"] in NAMES
        assert row["probability_after"] > row["probability_before"] and row["shift"] > 0
    page = (tmp_path / "edits" / "report.html").read_text()
    assert "no output for <strong>Bright</strong>" in page
    assert "is not calibrated" in page  # drawn faces do not calibrate for photographs
    (given / kinds[1] / "0.png").rename(given / kinds[1] / "7.png")
    result = run("edit_identity.py", *flags, "--output_dir refused", cwd=tmp_path)
    if kinds[0] == "before":
        refused(result, "one of the same name in after/", "0.png, 7.png")
    else:
        done(result)


def test_photographs_of_any_size_are_cropped_and_bad_ones_named(main_job, tmp_path, made):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = torch.randint(0, 256, (218, 178, 3), generator=generator(0, purpose="photo"))
    photo = Image.fromarray(pixels.byte().numpy())
    photo.save(photos / "a_tall.png")
    photo.crop((15, 35, 163, 183)).save(photos / "b_square.png")
    (photos / "c_broken.jpg").write_bytes(b"\xff\xd8\xff no jpeg")
    photo.convert("L").resize((90, 40)).save(photos / "d_grey.png")
    (photos / "notes.txt").write_text("not an image")
    pack, base = main_job[0] / "out" / "pack", main_job[0] / "out" / "base"
    flags = [["--pack", pack, "--pretrained_model_name_or_path", base, "--images", photos]]
    flags += ["--attributes Smiling=0 Smiling=yes --controller pack --threshold 0.3 --strength 0"]
    refused(run("edit_identity.py", *flags, cwd=tmp_path), "c_broken.jpg", "--on_bad_sample skip")
    log = done(
        run("edit_identity.py", *flags, "--on_bad_sample skip --output_dir out", cwd=tmp_path)
    )
    assert "Skipped" in log and "3 of the 4 image files" in log
    rows = json.loads((tmp_path / "out" / "receipts.json").read_text())
    assert [row["face"] for row in rows[:3]] == ["a_tall.png", "b_square.png", "d_grey.png"]
    assert {row["request"] for row in rows} == {"Smiling → no", "Smiling → yes"}
    assert [row["requested"] for row in rows] == [0, 0, 0, 1, 1, 1]
    # the middle of the tall one is the square one, so they have the same receipts
    same = [{**row, "face": "", "index": 0} for row in rows]
    assert same[0] == same[1] and same[0] != same[2]
    assert all(row["shift"] == 0 and row["leakage_max"] == 0 for row in rows)
    # what the receipts speak of is what the library says of that square
    square = photo.crop((15, 35, 163, 183)).resize((64, 64), Image.Resampling.LANCZOS)
    x = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
    expected = made[1].score(x)[0, NAMES.index("Smiling")].item()
    assert rows[0]["probability_before"] == pytest.approx(expected, abs=1e-5)


GRID = """
import torch
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 32, stride=32)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(8, 3, 32, stride=32), nn.Sigmoid())

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)


def load():
    torch.manual_seed(0)
    return Autoencoder()
"""


def test_a_plain_autoencoder_whose_latents_are_grids(tmp_path):
    (tmp_path / "grid.py").write_text(GRID)
    model = "--decoder grid.py:load"
    some = GAME.replace("--num_edits 4", "--num_edits 2")
    log = done(run("celeba_attrs.py", model, LITTLE, some, CLONED, cwd=tmp_path))
    assert "latent (8, 2, 2)" in log
    folder = tmp_path / "outputs" / "celeba_attrs"
    assert is_page(folder / "report.html") and (folder / "walk.png").read_bytes()[:8] == PNG
    settings = json.loads((folder / "pack" / "manifest.json").read_text())
    assert "prior" in json.dumps(settings), "no VAE: the data's own Gaussian is in the pack"
    flags = (model, f"--pack {folder / 'pack'} --num_faces 2 --attributes Smiling")
    done(run("edit_identity.py", *flags, "--output_dir edits", cwd=tmp_path))
    assert len(json.loads((tmp_path / "edits" / "receipts.json").read_text())) == 2


@pytest.mark.data
def test_a_foreign_decoder_on_real_faces(tmp_path):
    data = os.environ.get("LATENTCTL_DATA")
    if not data:
        pytest.skip("LATENTCTL_DATA is not set: there are no real faces and no foreign decoder")
    faces = ["--train_data_dir", Path(data, "celeba64").resolve()]
    model = [
        "--decoder",
        f"{RECIPES.parent / 'benchmarks' / 'shared' / 'face_base.py'}:load_face_vae",
    ]
    flags = (faces, model, "--max_train_samples 200 --max_test_samples 24 --output_dir out", GAME)
    log = done(
        run(
            "celeba_attrs.py",
            *flags,
            "--flow_train_steps 0 --realism_teacher_train_steps 0 --num_edits 1",
            cwd=tmp_path,
        )
    )
    assert "the local folder" in log and "procedural" not in log
    folder = tmp_path / "out"
    assert not (folder / "base").exists() and is_page(folder / "report.html")
    config = json.loads((folder / "config.json").read_text())
    assert len(config["data"]["attributes"]) == 10
    flags = (faces, model, "--pack out/pack --num_faces 2 --attributes Smiling --output_dir edits")
    done(run("edit_identity.py", *flags, cwd=tmp_path))
    rows = json.loads((tmp_path / "edits" / "receipts.json").read_text())
    assert [row["face"] for row in rows] == ["test_00000", "test_00001"]


@pytest.mark.parametrize("recipe", ["pretrain_vae.py", "celeba_attrs.py", "edit_identity.py"])
def test_help_shows_the_flags_in_groups(recipe, tmp_path):
    text = done(run(recipe, "--help", cwd=tmp_path))
    groups = {
        "pretrain_vae.py": ["run options", "data options", "vae options", "--vae_train_steps"],
        "celeba_attrs.py": ["frozen options", "control options", "judges options", "--preset"],
        "edit_identity.py": ["model options", "edit options", "data options", "--on_bad_sample"],
    }
    for part in groups[recipe]:
        assert part in text


def test_an_unknown_attribute_is_answered_with_the_nearest(main_job):
    folder = main_job[0]
    result = run("celeba_attrs.py", "--attributes Smilng --max_train_samples 8", cwd=folder)
    refused(result, "'Smilng'", "Did you mean 'Smiling'")
    assert not (folder / "outputs" / "celeba_attrs" / "pack").exists()
    flags = "--pack out/pack --pretrained_model_name_or_path out/base --attributes Mal=1"
    result = run("edit_identity.py", flags, "--output_dir refused", cwd=folder)
    refused(result, "'Mal'", "Did you mean 'Male'")
    assert not (folder / "refused").exists()


OTHER = """
from latentctl_adapters.conv_vae import ConvVAE

def other():
    return ConvVAE(latent_size=16, width=8)

def grey():
    return ConvVAE(channels=1, latent_size=16, width=8)
"""


@pytest.mark.parametrize(
    ("model", "edit", "data", "error", "message"),
    [
        ({"pack": "nowhere"}, {}, {}, CheckpointError, "nowhere is missing"),
        ({"pretrained_model_name_or_path": None}, {}, {}, FingerprintError, "made for ConvVAE"),
        ({"decoder": "m.py:other"}, {}, {}, InputError, "not both"),
        ({"decoder": "m.py:other", **NO_BASE}, {}, {}, FingerprintError, "made for ConvVAE"),
        ({"decoder": "m.py:grey", **NO_BASE}, {}, {}, FingerprintError, "made for ConvVAE"),
        ({"decoder": "m.py:none", **NO_BASE}, {}, {}, InputError, "no function 'none'"),
        ({"decoder": "n.py:other", **NO_BASE}, {}, {}, InputError, "'?n.py'? is not a file"),
        ({}, {"attributes": ("Hat",)}, {}, UnknownNameError, "Known: Black_Hair"),
        ({}, {"num_faces": 0}, {}, InputError, "1 or more"),
        ({}, {"threshold": 1.0}, {}, InputError, "probability"),
        ({}, {"strength": (-1.0,)}, {}, InputError, "strength"),
        ({}, {"strength": ()}, {}, InputError, "at least one"),
        ({}, {"hold": ("Mal",)}, {}, UnknownNameError, "'Male'"),
        ({}, {"where": "Smiling & Mal"}, {}, UnknownNameError, "character 11.*'Male'"),
        ({}, {"where": "Smiling.real"}, {}, InputError, "character 1 "),
        ({}, {"from_examples": "."}, {}, InputError, "with/ and without/"),
        ({"refine_with": ("nowhere",)}, {}, {}, CheckpointError, "nowhere"),
        ({"evaluator": "nowhere"}, {}, {}, CheckpointError, "nowhere"),
        ({}, {}, {"images": "nowhere"}, InputError, "not a folder"),
        ({}, {}, {"images": "."}, InputError, "no image"),
        ({}, {}, {"train_data_dir": "nowhere"}, InputError, "not a folder"),
    ],
)
def test_bad_edits_are_refused(main_job, monkeypatch, model, edit, data, error, message):
    from edit_identity import EditFlags, FaceFlags, Flags, ModelFlags, main

    monkeypatch.chdir(main_job[0])
    Path("m.py").write_text(OTHER)
    model = {"pack": "out/pack", "pretrained_model_name_or_path": "out/base", **model}
    parts = {"edit": EditFlags(**edit), "data": FaceFlags(**data)}
    flags = Flags(model=ModelFlags(**model), **parts, output_dir="refused")
    with pytest.raises(error, match=message):
        main(flags)
    assert not Path("refused").exists()

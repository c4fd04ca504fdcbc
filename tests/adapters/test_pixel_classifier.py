from __future__ import annotations

import pytest
import torch

pytest.importorskip("timm")
from latentctl_adapters.pixels.classifier import PixelClassifier, augment_images

from latentctl.errors import CheckpointError, InputError, ShapeError
from latentctl.random import generator
from latentctl.storage import load_folder, save_folder
from latentctl.training import Step

NAMES = ["Bright", "Red", "Left"]
TINY = {"channels": (8, 16, 24, 32)}


def pictures(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey pictures with a bright or dark level, a red cast, and a stripe on the left or not."""
    draw = generator(seed)
    labels = (torch.rand(n, 3, generator=draw) < 0.5).float()
    x = 90 + 60 * labels[:, 0].view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    x = x + 20 * torch.randn(n, 3, 32, 32, generator=draw)
    x[:, 0] += 50 * labels[:, 1].view(-1, 1, 1)
    x[:, :, 8:24, 4:10] += 60 * labels[:, 2].view(-1, 1, 1, 1)
    return x.clamp(0, 255).byte(), labels


def fit(**change: object) -> PixelClassifier:
    images, labels = pictures(256)
    flags = {"model_options": TINY, "epochs": 12, "batch_size": 32, "learning_rate": 5e-3}
    return PixelClassifier.fit(images, labels, NAMES, **{**flags, **change})


@pytest.fixture(scope="module")
def judge() -> PixelClassifier:
    return fit()


def accuracy(judge: PixelClassifier, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return ((judge.probability(x) > 0.5) == (y > 0.5)).float().mean(0)


def test_learns_and_keeps_what_it_knows_on_blurred_pictures(judge: PixelClassifier) -> None:
    images, labels = pictures(200, seed=1)
    x = images.float() / 255
    soft = torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(x, 4), size=x.shape[-2:], mode="bilinear"
    )
    assert accuracy(judge, x, labels).min() > 0.9
    assert accuracy(judge, soft, labels).min() > 0.85
    shuffled = labels.roll(1, 0)
    assert accuracy(judge, x, shuffled).max() < 0.7  # the scores do depend on the pictures


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    a, b, c = (fit(epochs=1, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    x = pictures(8)[0].float() / 255
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))


def test_unknown_labels_do_not_reach_the_weights() -> None:
    images, labels = pictures(256)
    labels[64:, 2] = float("nan")
    judge = PixelClassifier.fit(images, labels, NAMES, model_options=TINY, epochs=2, batch_size=32)
    assert all(torch.isfinite(p).all() for p in judge.parameters())


def test_time_limit_ends_an_endless_schedule() -> None:
    judge = fit(epochs=100_000, max_train_seconds=1.0)
    assert not judge.training


def test_features_are_what_the_last_layer_reads(judge: PixelClassifier) -> None:
    x = pictures(5)[0].float() / 255
    with torch.no_grad():
        features = judge.features(x)
        assert features.shape == (5, 32)
        torch.testing.assert_close(judge.net.get_classifier()(features), judge(x))


def test_save_and_load_give_the_same_answers(judge: PixelClassifier, tmp_path) -> None:
    judge.scores["accuracy"] = 0.9
    judge.save_pretrained(tmp_path / "judge")
    again = PixelClassifier.from_pretrained(tmp_path / "judge")
    x = pictures(5)[0].float() / 255
    assert torch.equal(again(x), judge(x))
    assert again.names == tuple(NAMES) and again.scores == {"accuracy": 0.9}
    assert not again.training


def test_damaged_folders_are_refused(judge: PixelClassifier, tmp_path) -> None:
    judge.save_pretrained(tmp_path)
    weights = tmp_path / "pixel-classifier.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or corrupted"):
        PixelClassifier.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    configured(tmp_path, names=["one"])
    with pytest.raises(CheckpointError, match="does not fit"):
        PixelClassifier.from_pretrained(tmp_path)
    (tmp_path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state.json is missing"):
        PixelClassifier.from_pretrained(tmp_path)


def configured(folder, **changes) -> None:
    """Changes the saved configuration, and seals it anew."""
    tensors, state = load_folder(folder)
    state["modules"]["pixel-classifier"]["config"].update(changes)
    save_folder(folder, tensors, state)


def test_an_untrusted_network_gives_timm_only_sizes(judge: PixelClassifier, tmp_path) -> None:
    judge.save_pretrained(tmp_path)
    whole = load_folder(tmp_path)
    options = judge.config["model_options"]
    tried = 0
    for name in ("hf-hub:me/judge", "local-dir:/tmp", "timm/resnet18", "no_such_network", "", 3):
        save_folder(tmp_path, *whole)
        configured(tmp_path, model_name=name)
        with pytest.raises(CheckpointError, match=r"architecture|malformed"):
            PixelClassifier.from_pretrained(tmp_path)
        tried += 1
    for option, value in [
        ("checkpoint_path", "/tmp/evil.pt"),
        ("pretrained", True),
        ("pretrained_cfg", {"file": "/tmp/evil.pt"}),
        ("pretrained_cfg_overlay", {"url": "http://example.org/evil.pt"}),
        ("cache_dir", "/tmp"),
        ("norm_layer", "os.system"),
        ("channels", {"file": "/tmp/evil.pt"}),
        ("act_layer", ["gelu"]),
        ("act_layer", "/tmp/evil.pt"),
        ("channels", [[8, 8], [8, 8]]),
    ]:
        save_folder(tmp_path, *whole)
        configured(tmp_path, model_options={**options, option: value})
        with pytest.raises(CheckpointError, match=f"{option}"):
            PixelClassifier.from_pretrained(tmp_path)
        tried += 1
    for changes in (
        {"channels": 30000},
        {"model_options": {"channels": [30000] * 4}},
        {"model_options": {**options, "layers": [10**7, 1, 1, 1]}},
        {"names": ["n"] * 60000},
        {"model_name": "vit_giant_patch14_224", "model_options": {}},
    ):
        save_folder(tmp_path, *whole)
        configured(tmp_path, **changes)
        with pytest.raises(CheckpointError, match=r"asks for more than|names|is beyond"):
            PixelClassifier.from_pretrained(tmp_path)
        tried += 1
    print(f"{tried} untrusted networks were refused")
    assert tried == 21


def test_wrong_input_is_named(judge: PixelClassifier) -> None:
    images, labels = pictures(16)
    with pytest.raises(ShapeError, match="found \\(2, 3, 64, 64\\)"):
        judge(torch.rand(2, 3, 64, 64))
    with pytest.raises(InputError, match="uint8"):
        PixelClassifier.fit(images.float(), labels, NAMES)
    with pytest.raises(ShapeError, match="3 names"):
        PixelClassifier.fit(images, labels[:, :2], NAMES)
    labels[:, 1] = 1
    with pytest.raises(InputError, match="'Red' has one class only"):
        PixelClassifier.fit(images, labels, NAMES)


def test_augmentation_stays_in_range_repeats_and_softens() -> None:
    x = torch.rand(64, 3, 32, 32, generator=generator(0))
    a, b, c = (augment_images(x, Step(0, index, 0, 64, 64)) for index in (1, 1, 2))
    part = augment_images(x[24:40], Step(0, 1, 24, 16, 64))  # on one of several processes
    assert torch.allclose(part, a[24:40], atol=1e-5)
    assert a.shape == x.shape and a.min() >= 0 and a.max() <= 1
    assert torch.equal(a, b) and not torch.equal(a, c)
    step = (a[..., 1:] - a[..., :-1]).abs().mean((1, 2, 3))
    before = (x[..., 1:] - x[..., :-1]).abs().mean()
    assert (step < 0.5 * before).float().mean() > 0.3  # many are made much smoother
    assert (step > 0.7 * before).float().mean() > 0.1  # and some are left sharp

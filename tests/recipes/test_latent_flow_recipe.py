"""The latent flow recipe, run for real in each of its four ways at a budget of a few steps."""

import gzip
import json

import pytest
import torch
from command_line import run

import latentctl
from latentctl import LatentFlow
from latentctl.errors import InputError, UnknownNameError
from latentctl.random import generator

for package in ("tyro", "datasets", "PIL"):
    pytest.importorskip(package)


from latent_flow import main
from latentctl_adapters.conv_vae import ConvAE
from support.images import ImageFlags, load_images
from support.latent_flow.flags import AutoencoderFlags, Flags, FlowFlags, check
from support.latent_flow.training import (
    Pair,
    joint,
    perceptual_network,
    reconstruction,
    regularised,
)
from support.run import RunFlags

from latentctl.training import Step

PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = ("samples.png", "reconstructions.png", "interpolation.png")
SIDE, TRAIN, TEST = 16, 160, 40


def bars(count, seed):
    """Grey squares with one bright bar each, bytes `(count, SIDE, SIDE)`, and its orientation."""
    place = torch.randint(2, SIDE - 3, (count,), generator=generator(seed, purpose="place"))
    upright = torch.arange(count) % 2
    images = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    for image, start, stands in zip(images, place.tolist(), upright.tolist(), strict=True):
        (image.T if stands else image)[start : start + 3] = 230
    return images, upright


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local folder of parquet files, as `datasets` writes them."""
    import datasets
    from PIL import Image

    path = tmp_path_factory.mktemp("bars")
    for split, count in (("train", TRAIN), ("test", TEST)):
        images, kinds = bars(count, seed=len(split))
        table = datasets.Dataset.from_dict(
            {"picture": [Image.fromarray(x.numpy()) for x in images], "kind": kinds.tolist()}
        )
        table.to_parquet(str(path / f"{split}-00000-of-00001.parquet"))
    return path


def source(folder, **options):
    return ImageFlags(train_data_dir=str(folder), cache_dir=str(folder.parent / "cache"), **options)


def flags(folder, output_dir, training="post-hoc", *, flow=None, **base):
    sizes = {"latent_size": 6, "width": 4, "max_train_steps": 12, "train_batch_size": 32}
    few = {"flow_width": 16, "blocks": 2, "flow_train_steps": 12, "flow_batch_size": 32}
    return Flags(
        run=RunFlags(output_dir=str(output_dir), num_threads=1),
        data=source(folder),
        base=AutoencoderFlags(**{**sizes, **base}),
        flow=FlowFlags(training=training, **{**few, **(flow or {})}),
    )


def is_whole(output_dir, images):
    """What the run left works together, and reconstructs through the flow as without it."""
    decoder = latentctl.load(
        "conv-vae", pretrained_model_name_or_path=str(output_dir / "autoencoder")
    )
    results = json.loads((output_dir / "results.json").read_text())
    assert results["decoder_fingerprint"] == decoder.fingerprint()
    flow = LatentFlow.load(output_dir / "flow")
    through = decoder.through(flow)
    plain = decoder.decode(decoder.encode(images).mean)
    bent = through.decode(through.encode(images).mean)
    assert (bent - plain).abs().max() < 1e-4
    # and not because nothing happens on the way: the noise is not the latent
    assert (through.encode(images).mean - decoder.encode(images).mean).abs().max() > 0.1
    assert all((output_dir / name).read_bytes()[:8] == PNG for name in PICTURES)
    page = (output_dir / "report.html").read_text()
    assert page.count("data:image/png") == len(PICTURES)
    for name in ("reconstructions", "samples_of_the_flow", "samples_of_a_gaussian"):
        assert results[f"frechet_distance_of_{name}"] > 0
        assert f"<td>{name.replace('_', ' ').replace('gaussian', 'Gaussian')}</td>" in page
    saved = json.loads((output_dir / "config.json").read_text())
    assert saved["base"]["latent_size"] == 6
    lines = (output_dir / "training" / "autoencoder" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 10]
    return results, flow


@pytest.mark.parametrize("training", ["post-hoc", "joint", "regularised", "vae-flow"])
def test_each_way_of_training_leaves_an_autoencoder_and_its_flow(folder, tmp_path, training):
    results = main(flags(folder, tmp_path, training))
    images = load_images(source(folder))["test"].pixels()
    found, flow = is_whole(tmp_path, images)
    assert found == results
    assert found["largest_change_of_a_pixel"] < 1e-4 and found["seconds"] > 0
    change = found["reconstruction_error_through_the_flow"] / found["reconstruction_error"]
    assert change == pytest.approx(1, abs=1e-4)
    # the flow stands where the latents are, also where they moved while it learned
    model = latentctl.load("conv-vae", pretrained_model_name_or_path=str(tmp_path / "autoencoder"))
    z = model.encode(images).sample(torch.randn(TEST, 6, generator=generator(0)))
    base = flow.to_base(z)
    assert base.mean().abs() < 1 and 0.2 < base.std() < 3
    assert ((tmp_path / "training" / "flow").exists()) == (training == "post-hoc")


def test_its_command_line_takes_a_decoder_of_the_user(folder, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from latentctl_adapters.conv_vae import ConvVAE\n"
        "def vae():\n"
        "    torch.manual_seed(0)\n"
        f"    return ConvVAE(resolution={SIDE}, channels=1, latent_size=6, width=4)\n"
    )
    words = "--decoder mine.py:vae --kind spline --flow_width 16 --blocks 1 --flow_train_steps 8"
    words += " --flow_batch_size 32 --output_dir out --max_test_samples 20"
    words += " --cache_dir cache --train_data_dir"
    result = run("latent_flow.py", words, [folder], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"the local folder {folder}" in result.stderr and "20 test images" in result.stderr
    assert "nats per dimension" in result.stdout
    out = tmp_path / "out"
    assert not (out / "autoencoder").exists()  # it is the user's, and stays there
    assert LatentFlow.load(out / "flow").kind == "spline"


def test_the_gradient_of_the_flow_stops_at_the_latents_in_one_loss_only():
    pair = Pair(ConvAE(SIDE, 1, 6, 4), LatentFlow((6,), width=16, blocks=1))
    x = bars(32, 0)[0][:, None].float() / 255
    step = Step(seed=0, index=0, start=0, count=32, total=32)
    weights = list(pair.autoencoder.encoder.parameters())

    def encoder_gradient(loss):
        none = lambda model, x, z: (0 * z).sum()  # noqa: E731, the flow's loss alone
        total = loss(pair, x, step, none, 1.0)
        found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
        return max(float(g.abs().max()) for g in found)

    assert encoder_gradient(joint) == 0
    assert encoder_gradient(regularised) > 1e-3


def test_the_moments_of_a_flow_follow_the_latents():
    pair = Pair(ConvAE(SIDE, 1, 6, 4), LatentFlow((6,), width=16, blocks=1))
    mix = torch.randn(6, 6, generator=generator(0))
    for index in range(400):
        z = 5 + torch.randn(64, 6, generator=generator(1, index)) @ mix
        loss = pair.nll(z, Step(0, index, 0, 64, 64))
    exact = torch.distributions.MultivariateNormal(torch.full((6,), 5.0), mix.T @ mix)
    assert float(loss.detach()) == pytest.approx(-exact.log_prob(z).mean().item(), abs=0.3)


def test_a_perceptual_network_adds_to_the_error_and_says_when_it_cannot_be_loaded(
    tmp_path, monkeypatch
):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    file = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("resnet10t", pretrained=False).state_dict(), str(file))
    network = perceptual_network("resnet10t", str(file))
    model, x = ConvAE(SIDE, 1, 6, 4), torch.rand(2, 1, SIDE, SIDE, generator=generator(0))
    z = model.encode(x)
    plain, more = (reconstruction(n)(model, x, z) for n in (None, network))
    assert more > plain > 0
    assert torch.allclose(plain, (model.decode(z) - x).square().sum() / 2)
    with pytest.raises(InputError, match=r"cannot be loaded.*--perceptual_weights"):
        perceptual_network("resnet10t", str(tmp_path / "missing.safetensors"))
    with pytest.raises(InputError, match=r"no_such_net.*cannot be loaded"):
        perceptual_network("no_such_net")


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.numpy().tobytes()


def test_idx_files_are_read_compressed_or_not_and_truncated_ones_refused(tmp_path):
    images, kinds = bars(30, 0)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(kinds.byte())))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[:7]))
    with pytest.raises(InputError, match="but no t10k-labels"):
        load_images(ImageFlags(train_data_dir=str(tmp_path)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(kinds[:7].byte()))
    splits = load_images(ImageFlags(train_data_dir=str(tmp_path), max_test_samples=5))
    assert torch.equal(splits["train"].images, images[:, None])
    assert torch.equal(splits["train"].labels, kinds) and len(splits["test"]) == 5
    assert splits["test"].pixels().max() == pytest.approx(230 / 255)
    larger = load_images(ImageFlags(train_data_dir=str(tmp_path), resolution=20))
    assert larger["train"].images.shape == (30, 1, 20, 20)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[:7])[:-9])
    with pytest.raises(InputError, match="is truncated"):
        load_images(ImageFlags(train_data_dir=str(tmp_path)))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot be decompressed"):
        load_images(ImageFlags(train_data_dir=str(tmp_path)))


def test_some_images_are_drawn_by_the_seed(folder):
    few = source(folder, max_train_samples=20)
    first, again, other = (load_images(few, seed)["train"] for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert len(first) == 20 and set(first.labels.tolist()) == {-1}  # `kind` is no known name
    named = load_images(source(folder, label_column="kind"))["train"]
    assert set(named.labels.tolist()) == {0, 1}


def test_bad_sources_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"--dataset_name ylecun/mnist .* or --train_data_dir"):
        load_images(ImageFlags())
    with pytest.raises(InputError, match="is not a folder"):
        load_images(ImageFlags(train_data_dir=str(tmp_path / "nowhere")))
    with pytest.raises(UnknownNameError, match=r"pictur.*Did you mean 'picture'"):
        load_images(source(folder, image_column="pictur"))


@pytest.mark.parametrize(
    ("training", "options", "words"),
    [
        ("jiont", {}, "Did you mean 'joint'"),
        ("post-hoc", {"autoencoder": "gan"}, "Known: ae, vae"),
        ("joint", {"decoder": "mine.py:vae"}, "leave out"),
        ("vae-flow", {"autoencoder": "vae"}, "leave out"),
        ("joint", {"flow": {"kind": "matching"}}, "coupling or spline"),
        ("post-hoc", {"perceptual_weights": "x"}, "name it with --perceptual"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(folder, tmp_path, training, options, words):
    with pytest.raises(InputError, match=words):
        check(flags(folder, tmp_path, training, **options))
    check(flags(folder, tmp_path))  # and those of a plain run are not

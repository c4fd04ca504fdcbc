"""Ways to sample an autoencoder: its prior, a Gaussian, mixtures, flows, and pythae's samplers.

    python benchmarks/latent_flows.py --data mnist --data_dir MNIST --seed 0
    python benchmarks/latent_flows.py --data faces --seed 0

`mnist` stands for any labelled set of small images in a folder that `recipes/image_data.py` reads.
Every autoencoder is trained here, on the same images for the same number of steps, and every
density over latents is fitted on the latents of one autoencoder. `faces` has a frozen base, and
reads `LATENTCTL_DATA` and `LATENTCTL_JUDGE` as `benchmarks/faces.py` does.

Each contender draws the same number of images. They are measured in the features of a classifier
that had no part in the training: Frechet distance to the test images, and precision, recall,
density and coverage of at most 5,000 of them (5 neighbours). Nothing that a decoder draws can be
much nearer to the test images than their own reconstructions, which are the floor; `excess` is the
share of the prior's distance above the floor that a contender leaves. NLL is in nats per dimension
of the first held-out latents (1,000 of 20 dimensions, 78 of 256), `variance` that of the samples in
units of the training latents' own. Seconds are CPU seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import latentctl
from benchmarks.flows.measure import (
    Bench,
    compare_priors,
    decode,
    encodings,
    reconstruct,
    table,
    timed,
)
from benchmarks.flows.two_stage_vae import SecondStage
from benchmarks.shared.digit_judge import DigitJudge
from latentctl.errors import InputError
from latentctl.random import generator, permutation
from recipes.latent_flow import train_autoencoder
from recipes.pretrain_vae import RunFlags
from recipes.support.images import ImageFlags, Images, load_images
from recipes.support.latent_flow.flags import AutoencoderFlags, FlowFlags

SIZES: dict[str, dict[str, dict[str, int]]] = {  # one to three minutes of one core each
    "small images": {
        "coupling": {"width": 256, "max_train_steps": 1500},
        "spline": {"width": 256, "max_train_steps": 1000},
        "matching": {"width": 512, "max_train_steps": 1300},
    },
    "faces": {
        "coupling": {"width": 256, "max_train_steps": 800},
        "spline": {"width": 128, "blocks": 2, "max_train_steps": 400},
        "matching": {"width": 512, "max_train_steps": 2500},
    },
}


@dataclass
class Flags:
    data: str = "mnist"
    """The name of the run: faces, or what the images in data_dir are called."""
    data_dir: str | None = None
    """A folder of images, where `data` is not faces."""
    seed: int = 0
    samples: int | None = None
    """Images of each contender: 10,000, of faces 4,000."""
    pythae: tuple[str, ...] = ("GMM", "MAF", "TwoStage", "IAF")
    """Samplers of pythae; none, where it is not installed."""
    pythae_train_steps: int = 1100
    iaf_train_steps: int = 400
    """Of pythae's IAF, which passes through all dimensions in turn when it is trained."""
    vae_train_steps: int = 1500
    """Steps of each autoencoder of small images."""
    second_train_steps: int = 2500
    """Steps of the second VAE of two stages."""
    max_train_samples: int = 20000
    threads: int = 1
    output_dir: Path = Path("outputs/latent_flows")

    def pythae_steps(self) -> dict[str, int]:
        """Sampler -> steps of training."""
        steps = {"IAF": self.iaf_train_steps}
        return {name: steps.get(name, self.pythae_train_steps) for name in self.pythae}


def faces(flags: Flags) -> Bench:
    """Post hoc, on a frozen autoencoder of faces."""
    from benchmarks.shared.face_base import data_folder, load_face_vae
    from benchmarks.shared.face_judge import load_judge
    from recipes.support.faces import DataFlags, load_faces

    flags.samples = flags.samples or 4000
    sets = load_faces(DataFlags(train_data_dir=str(data_folder() / "celeba64")))
    decoder = latentctl.wrap(load_face_vae())
    before = decoder.fingerprint()
    cache = flags.output_dir / "cache"
    train = latentctl.encode_dataset(decoder, sets["train"].mirrored(), cache, batch_size=128)[:]
    x = sets["test"].pixels()
    bench = Bench(load_judge().features, x, flags.output_dir, f"faces-{flags.seed}")
    bench.measure("reconstructions of the test set", reconstruct(decoder, x))
    others = generator(0, purpose="others")
    rows = torch.randperm(len(train), generator=others)[: flags.samples]
    bench.measure("reconstructions of training images", decode(decoder, train[rows].mean))
    prior = decoder.prior.sample(flags.samples, seed=flags.seed + 1)
    bench.measure("the prior", decode(decoder, prior))
    compare_priors(
        bench,
        decoder,
        train,
        x,
        count=flags.samples,
        seed=flags.seed,
        sizes=SIZES["faces"],
        pythae=flags.pythae_steps(),
    )
    if decoder.fingerprint() != before:
        raise latentctl.errors.FingerprintError("The frozen decoder has changed.")
    return bench


def small_images(flags: Flags) -> Bench:
    """Autoencoders of four kinds, trained here; every density on the latents of the plain one."""
    if flags.data_dir is None:
        raise InputError(f"--data {flags.data}: pass --data_dir, the folder of its images.")
    flags.samples = flags.samples or 10000
    sets = load_images(ImageFlags(train_data_dir=flags.data_dir))
    judge = DigitJudge.fit(
        sets["train"].images, sets["train"].labels, flags.output_dir / f"{flags.data}-judge"
    )
    accuracy = judge.accuracy(sets["test"].images, sets["test"].labels)
    print(f"Accuracy of the judge on test images: {accuracy:.4f}", flush=True)
    x = sets["test"].pixels()
    bench = Bench(judge.features, x, flags.output_dir, f"{flags.data}-{flags.seed}")
    some = permutation(len(sets["train"]), seed=flags.seed, epoch=0)[: flags.max_train_samples]
    train = Images(sets["train"].images[some], sets["train"].labels[some])
    del sets

    def trained(training: str, **base: Any) -> tuple[latentctl.Decoder, Any, float]:
        run = RunFlags(
            output_dir=str(flags.output_dir / "runs" / f"{flags.data}-{training}"),
            seed=flags.seed,
            num_threads=flags.threads,
        )
        settings = AutoencoderFlags(max_train_steps=flags.vae_train_steps, **base)
        flow = FlowFlags(training=training)
        began = time.process_time()
        model, prior = train_autoencoder(train, settings, flow, run, run.accelerator("bench"))
        return latentctl.wrap(model), prior, time.process_time() - began

    def measure(name: str, decoder: latentctl.Decoder, prior: Any, seconds: float) -> None:
        drawn = decode(decoder, prior.sample(flags.samples, seed=flags.seed + 1))
        bench.measure(name, drawn, seconds, floor=bench.distance(reconstruct(decoder, x)))

    decoder, _, seconds = trained("post-hoc")
    bench.measure("AE: reconstructions of the test set", reconstruct(decoder, x), seconds)
    latents = encodings(decoder, train.pixels())
    bench.measure("AE: reconstructions of training images", decode(decoder, latents[:10000].mean))
    compare_priors(
        bench,
        decoder,
        latents,
        x,
        count=flags.samples,
        seed=flags.seed,
        sizes=SIZES["small images"],
        pythae=flags.pythae_steps(),
    )
    for sigma_x in (0.3, 0.05):
        decoder, _, seconds = trained("post-hoc", autoencoder="vae", sigma_x=sigma_x)
        measure(f"VAE, sigma_x {sigma_x:g}", decoder, decoder.prior, seconds)
    latents = encodings(decoder, train.pixels())
    fit_second = partial(
        SecondStage.fit, latents, max_train_steps=flags.second_train_steps, seed=flags.seed
    )
    second, more = timed(fit_second)
    measure("two-stage VAE, sigma_x 0.05", decoder, second, seconds + more)
    for training, name in (("joint", "GLF, joint"), ("vae-flow", "VAE with a flow prior")):
        decoder, flow, seconds = trained(training)
        measure(name, decoder, flow, seconds)
    return bench


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    began = time.monotonic()
    bench = faces(flags) if flags.data == "faces" else small_images(flags)
    print(f"{flags.samples} samples, {time.monotonic() - began:.0f} s")
    print(table(bench.rows))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

"""Ways to sample an autoencoder: its prior, a Gaussian, mixtures, flows, and pythae's samplers.

    python -m benchmarks.flows.run --data mnist --data_dir MNIST --seed 0
    python -m benchmarks.flows.run --data faces --seed 0

`mnist` stands for any labelled set of small images in a folder that `recipes/support/images.py`
reads. Every autoencoder is trained here, on the same images for the same number of steps, and
every density over latents is fitted on the latents of one autoencoder. `faces` has a frozen base,
and reads `LATENTCTL_DATA` and `LATENTCTL_NETWORKS` as `benchmarks/faces/conditional.py` does.

Each contender draws the same number of images. They are measured in the features of a classifier
that is not part of the training: Frechet distance to the test images, and precision, recall,
density and coverage of at most 5,000 of them (5 neighbours). Nothing that a decoder draws can be
much nearer to the test images than their own reconstructions, which are the floor; `excess` is the
share of the prior's distance above the floor that a contender leaves. NLL is in nats per dimension
of the first held-out latents (1,000 of 20 dimensions, 78 of 256), `variance` that of the samples in
units of the training latents' own. Seconds are CPU seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import latentctl
from benchmarks.flows.measure import Bench, compare_priors
from benchmarks.flows.two_stage_vae import SecondStage
from benchmarks.shared.base import decode, encode, reconstruct, unchanged
from benchmarks.shared.digits import DigitJudge
from benchmarks.shared.face_base import encoded_faces
from benchmarks.shared.face_networks import load_judges
from benchmarks.shared.run import SeededFlags, run, timed
from latentctl.errors import InputError
from latentctl.random import generator, permutation
from recipes.support.images import ImageFlags, Images, load_images
from recipes.support.latent_flow.flags import AutoencoderFlags, FlowFlags
from recipes.support.latent_flow.training import train_autoencoder
from recipes.support.run import RunFlags

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
class Flags(SeededFlags):
    data: str = "mnist"  # The name of the run: faces, or what the images in data_dir are called.
    data_dir: str | None = None  # A folder of images, where `data` is not faces.
    samples: int | None = None  # Images of each contender: 10,000, of faces 4,000.
    pythae: tuple[str, ...] = ("GMM", "MAF", "TwoStage", "IAF")
    """Samplers of pythae; none, where it is not installed."""
    pythae_train_steps: int = 1100
    iaf_train_steps: int = 400
    """Of pythae's IAF, which passes through all dimensions in turn when it is trained."""
    vae_train_steps: int = 1500  # Steps of each autoencoder of small images.
    second_train_steps: int = 2500  # Steps of the second VAE of two stages.
    max_train_samples: int = 20000
    output_dir: Path = Path("outputs/latent_flows")

    def flow_sizes(self) -> dict[str, dict[str, int]]:
        """Kind of flow -> arguments of its fit."""
        return SIZES["faces" if self.data == "faces" else "small images"]

    def pythae_steps(self) -> dict[str, int]:
        """Sampler of pythae -> steps of training."""
        steps = {"IAF": self.iaf_train_steps}
        return {name: steps.get(name, self.pythae_train_steps) for name in self.pythae}


def faces(flags: Flags) -> Bench:
    """Post hoc, on a frozen autoencoder of faces."""
    flags.samples = flags.samples or 4000
    decoder, train, test = encoded_faces(flags.output_dir / "cache")
    x = test.pixels()
    with unchanged(decoder):
        features = load_judges().attributes.features
        bench = Bench(features, x, flags.output_dir, f"faces-{flags.seed}")
        bench.measure("reconstructions of the test set", reconstruct(decoder, x))
        others = generator(0, purpose="others")
        rows = torch.randperm(len(train), generator=others)[: flags.samples]
        bench.measure("reconstructions of training images", decode(decoder, train[rows].mean))
        prior = decoder.prior.sample(flags.samples, seed=flags.seed + 1)
        bench.measure("the prior", decode(decoder, prior))
        compare_priors(bench, decoder, train, x, flags)
    return bench


def small_images(flags: Flags) -> Bench:
    """Autoencoders of four kinds, trained here; every density on the latents of the plain one."""
    if flags.data_dir is None:
        raise InputError(f"--data {flags.data}: pass --data_dir, the folder of its images.")
    flags.samples = flags.samples or 10000
    sets = load_images(ImageFlags(train_data_dir=flags.data_dir))
    train, test = sets["train"], sets["test"]
    judge = DigitJudge.fit(train.images, train.labels, flags.output_dir / f"{flags.data}-judge")
    accuracy = judge.accuracy(test.images, test.labels)
    print(f"Accuracy of the judge on test images: {accuracy:.4f}", flush=True)
    x = test.pixels()
    bench = Bench(judge.features, x, flags.output_dir, f"{flags.data}-{flags.seed}")
    some = permutation(len(train), seed=flags.seed, epoch=0)[: flags.max_train_samples]
    train = Images(train.images[some], train.labels[some])
    del sets

    def trained(training: str, **base: Any) -> tuple[latentctl.Decoder, Any, float]:
        run = RunFlags(
            output_dir=str(flags.output_dir / "runs" / f"{flags.data}-{training}"),
            seed=flags.seed,
            num_threads=flags.num_threads,
        )
        settings = AutoencoderFlags(max_train_steps=flags.vae_train_steps, **base)
        flow = FlowFlags(training=training)
        accelerator = run.accelerator("bench")
        (model, prior), seconds = timed(train_autoencoder, train, settings, flow, run, accelerator)
        return latentctl.wrap(model), prior, seconds

    def measure(name: str, decoder: latentctl.Decoder, prior: Any, seconds: float) -> None:
        drawn = decode(decoder, prior.sample(flags.samples, seed=flags.seed + 1))
        bench.measure(name, drawn, seconds, floor=bench.distance(reconstruct(decoder, x)))

    decoder, _, seconds = trained("post-hoc")
    bench.measure("AE: reconstructions of the test set", reconstruct(decoder, x), seconds)
    latents = encode(decoder, train.images)
    bench.measure("AE: reconstructions of training images", decode(decoder, latents[:10000].mean))
    compare_priors(bench, decoder, latents, x, flags)
    for sigma_x in (0.3, 0.05):
        decoder, _, seconds = trained("post-hoc", autoencoder="vae", sigma_x=sigma_x)
        measure(f"VAE, sigma_x {sigma_x:g}", decoder, decoder.prior, seconds)
    latents, steps = encode(decoder, train.images), flags.second_train_steps
    second, more = timed(SecondStage.fit, latents, max_train_steps=steps, seed=flags.seed)
    measure("two-stage VAE, sigma_x 0.05", decoder, second, seconds + more)
    for training, name in (("joint", "GLF, joint"), ("vae-flow", "VAE with a flow prior")):
        decoder, flow, seconds = trained(training)
        measure(name, decoder, flow, seconds)
    return bench


def main(flags: Flags) -> None:
    began = time.monotonic()
    bench = faces(flags) if flags.data == "faces" else small_images(flags)
    print(f"{flags.samples} samples, {time.monotonic() - began:.0f} s")
    print(bench.table())


if __name__ == "__main__":
    run(main, Flags)

"""The evaluation of `latent_flow`, its pictures and its report."""

from __future__ import annotations

__all__ = ["evaluate", "frechet", "pictures", "write_report"]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import latentctl
from latentctl import Latents
from latentctl.decoder import Gaussian
from latentctl.display.picture import grid, png
from latentctl.evaluation import frechet_distance
from latentctl.priors import LatentFlow
from latentctl.random import noise

from ..models import load_network
from ..report import Report

SCORED = {"coupling": 2000, "spline": 2000, "matching": 64}  # latents with a density
BATCH = 256  # images at once
THUMBNAIL = 8  # pixels across the thumbnails whose distance is computed without a judge
MOST = 2000  # images of a Frechet distance, on each side


@torch.no_grad()
def evaluate(decoder: latentctl.Decoder, flow: LatentFlow, x: Tensor) -> dict[str, float]:
    """Held-out density, and whether the decoder reconstructs the same through the flow."""
    through = decoder.through(flow)
    q = decoder.encode(x, batch_size=BATCH)
    plain = decoder.decode(q.mean, batch_size=BATCH).cpu()
    e = through.encode(x, batch_size=BATCH).mean
    bent = through.decode(e, batch_size=BATCH).cpu()
    z = mean = q.mean[: SCORED[flow.kind]]
    if q.std is not None:
        eps = noise(0, len(mean), mean.shape[1:], seed=0).to(mean.device)
        z = mean + q.std[: len(mean)] * eps
    gaussian = Gaussian(decoder.latent_shape, z.mean(0), z.std(0)).to(z.device)
    size = z[0].numel()
    return {
        "nats_per_dimension": -flow.log_prob(z).mean().item() / size,
        "nats_per_dimension_of_a_gaussian": -gaussian.log_prob(z).mean().item() / size,
        "reconstruction_error": (plain - x.cpu()).square().mean().item(),
        "reconstruction_error_through_the_flow": (bent - x.cpu()).square().mean().item(),
        "largest_change_of_a_pixel": (bent - plain).abs().max().item(),
        "largest_round_trip_error": flow.check_invertible(mean),
    }


@torch.no_grad()
def pictures(
    decoder: latentctl.Decoder, flow: LatentFlow, latents: Latents, x: Tensor, *, seed: int = 0
) -> dict[str, bytes]:
    """Reconstructions; samples without and with the flow; interpolations in base noise."""
    through, limits = decoder.through(flow), decoder.value_range
    few = x[:10].to(decoder.device)
    rows = [few, decoder.decode(decoder.encode(few).mean)]
    rows.append(through.decode(through.encode(few).mean))
    plain = decoder.prior if latents.std is not None else Gaussian.fit(latents)
    samples = [decoder.decode(prior.sample(64, seed=seed)) for prior in (plain, flow)]
    left, right = (grid(sample, columns=8, value_range=limits) for sample in samples)
    gap = torch.full((left.shape[0], 12, 3), 255, dtype=torch.uint8)
    ends = through.encode(x[: 2 * min(8, len(x) // 2)]).mean
    start, end = ends[::2, None], ends[1::2, None]
    t = torch.linspace(0, 1, 10, device=ends.device).view(1, -1, *[1] * (ends.ndim - 1))
    lines = torch.lerp(start, end, t).flatten(0, 1)
    return {
        "reconstructions.png": png(grid(torch.cat(rows), columns=len(few), value_range=limits)),
        "samples.png": png(torch.cat([left, gap, right], 1)),
        "interpolation.png": png(grid(through.decode(lines), columns=10, value_range=limits)),
    }


def features_of(judge: str | None) -> tuple[Callable[[Tensor], Tensor], str]:
    """What the Frechet distance is computed in, of images in [0, 1], and its name."""
    if judge is not None:
        return load_network(judge).features, f"features of the network at `{judge}`"

    def thumbnails(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, THUMBNAIL).flatten(1)

    return thumbnails, f"pixels of thumbnails, {THUMBNAIL} x {THUMBNAIL}"


@torch.no_grad()
def frechet(
    decoder: latentctl.Decoder, flow: LatentFlow, latents: Latents, x: Tensor, judge: str | None
) -> dict[str, float]:
    """Frechet distances of images to as many test images `x (N, C, h, w)`, in [0, 1]."""
    features, _ = features_of(judge)
    x = x[:MOST]
    low, high = decoder.value_range or (0.0, 1.0)

    def judged(images: Tensor) -> Tensor:
        unit = ((images.cpu() - low) / (high - low)).clamp(0, 1)
        return torch.cat([features(part) for part in unit.split(BATCH)])

    real = judged(x)
    gaussian = Gaussian.fit(latents)
    made = {
        "reconstructions": decoder.encode(x, batch_size=BATCH).mean,
        "samples_of_the_flow": flow.sample(len(x), seed=1),
        "samples_of_a_gaussian": gaussian.sample(len(x), seed=1),
    }
    return {
        f"frechet_distance_of_{name}": frechet_distance(
            judged(decoder.decode(z, batch_size=BATCH)), real
        )
        for name, z in made.items()
    }


CAPTIONS = {
    "samples.png": "Left: the decoder's samples without the flow; right: with it. They are drawn "
    "with one seed and not selected.",
    "reconstructions.png": "Test images, their reconstructions, and those through the flow.",
    "interpolation.png": "Between two test images, along a line in the flow's base noise.",
}


def write_report(
    folder: Path,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    shown: Mapping[str, bytes],
    judge: str | None,
) -> Path:
    """Writes `report.html` and the pictures into a folder; `results` are those of the run."""
    report = Report(
        "A flow as the prior of an autoencoder",
        f"Generative Latent Flow, trained {config['flow']['training']}, a "
        f"{config['flow']['kind']} flow.",
    )
    report.section(
        "Frechet distance",
        f"Of decoded images to the test images, in {features_of(judge)[1]}. Lower is better; "
        f"reconstructions are the best that the decoder can do. The Gaussian has the mean and the "
        f"variances of the latents. Values of other features or of other counts of images are not "
        f"comparable; there are at most {MOST} of these.",
    )
    names = [name for name in results if name.startswith("frechet_distance_of_")]
    report.table(
        ["images", "Frechet distance"],
        [[_words(name.removeprefix("frechet_distance_of_")), results[name]] for name in names],
    )
    report.section("Density and reconstruction", "Of held-out images.")
    others = [name for name, value in results.items() if isinstance(value, float)]
    rows = [[_words(name), results[name]] for name in others if name not in names]
    report.table(["measure", "value"], rows)
    report.section("Pictures")
    for name, picture in shown.items():
        (folder / name).write_bytes(picture)
        report.picture(picture, CAPTIONS[name])
    report.section("Settings")
    report.settings(config)
    return report.save(folder / "report.html")


def _words(name: str) -> str:
    return name.replace("_", " ").replace("gaussian", "Gaussian")

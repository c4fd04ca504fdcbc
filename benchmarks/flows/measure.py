"""What the contenders of `latent_flows.py` are measured by, and those that share one decoder."""

from __future__ import annotations

__all__ = ["Bench", "compare_priors", "decode", "encodings", "reconstruct", "table", "timed"]

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
from latentctl import Latents
from latentctl.conditional.picture import grid, png
from latentctl.decoder import Gaussian
from latentctl.errors import NonFiniteError
from latentctl.evaluation import density_coverage, frechet_distance, precision_recall
from latentctl.priors import GaussianMixture, LatentFlow
from latentctl.priors.whitening import Whitening
from latentctl.random import generator

NEIGHBOURS_OF = 5000  # samples, at most
GUIDANCE = 2.0  # of a second row of a matching flow, trained once
SCORED = 20000  # numbers in the latents whose density is taken, which of a matching flow is slow


class Bench:
    """Measures images against the test images, in the features of the judge."""

    def __init__(
        self, features: Callable[[Tensor], Tensor], test: Tensor, folder: Path, name: str
    ) -> None:
        self.features, self.folder, self.name = features, folder, name
        self.rows: list[dict[str, Any]] = []
        self.real = self.judge(test)
        folder.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def judge(self, x: Tensor) -> Tensor:
        return torch.cat([self.features(part.clamp(0, 1)) for part in x.split(250)])

    def distance(self, x: Tensor) -> float:
        """The Frechet distance of images to the test images."""
        return frechet_distance(self.judge(x), self.real)

    def measure(self, name: str, x: Tensor, seconds: float = 0.0, **more: Any) -> None:
        """A row of the table, written at once, and a picture of the first 64 images."""
        fake = self.judge(x)
        few, near = fake[:NEIGHBOURS_OF], self.real[:NEIGHBOURS_OF]
        quality, cover = precision_recall(near, few), density_coverage(near, few)
        row = {
            "name": name,
            "frechet": frechet_distance(fake, self.real),
            "precision": quality.precision,
            "recall": quality.recall,
            "density": cover.density,
            "coverage": cover.coverage,
            "seconds": seconds,
            **more,
        }
        self.rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        word = "".join(c if c.isalnum() else "_" for c in name)
        picture = self.folder / f"{self.name}-{word}.png"
        picture.write_bytes(png(grid(x[:64])))
        (self.folder / f"{self.name}.json").write_text(json.dumps(self.rows, indent=2))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and its CPU seconds."""
    started = time.process_time()
    return work(), time.process_time() - started


@torch.no_grad()
def decode(decoder: latentctl.Decoder, z: Tensor) -> Tensor:
    return torch.cat([decoder.decode(part) for part in z.split(250)]).clamp(0, 1)


@torch.no_grad()
def reconstruct(decoder: latentctl.Decoder, x: Tensor) -> Tensor:
    return torch.cat([decoder.decode(decoder.encode(p).mean) for p in x.split(250)]).clamp(0, 1)


def nats(prior: Any, latents: Latents) -> float:
    """Nats per dimension of the first latents, the same ones for every prior; lower is better."""
    size = latents[0].mean.numel()
    rows = latents[: min(1000, SCORED // size)]
    z = rows.sample(torch.randn(rows.mean.shape, generator=generator(0, purpose="held out")))
    with torch.no_grad():
        value: float = -prior.log_prob(z).mean().item() / size
    return value


def compare_priors(
    bench: Bench,
    decoder: latentctl.Decoder,
    train: Latents,
    x: Tensor,
    *,
    count: int,
    seed: int,
    sizes: dict[str, dict[str, int]],
    pythae: dict[str, int],
) -> None:
    """Every density over the latents of one decoder.

    Arguments:
        bench: Gets the rows.
        decoder: The frozen autoencoder.
        train: Latents that are fitted.
        x: Test images.
        count: Samples of each.
        seed: Of all fits and samples.
        sizes: Kind of flow -> arguments of its fit.
        pythae: Sampler of pythae -> steps of training.
    """
    plain = reconstruct(decoder, x[:256])
    test, white = encodings(decoder, x), Whitening.fit(train)
    kinds: dict[str, Callable[[], Any]] = {
        "Gaussian, independent": lambda: Gaussian.fit(train),
        "Gaussian, full covariance": lambda: GaussianMixture.fit(train, 1, seed=seed),
        "GMM-10": lambda: GaussianMixture.fit(train, 10, seed=seed),
        **{
            f"flow, {kind}": lambda kind=kind, size=size: LatentFlow.fit(
                train, kind, seed=seed, **size
            )
            for kind, size in sizes.items()
        },
    }

    def measure(name: str, prior: Any, seconds: float) -> None:
        more: dict[str, Any] = {
            "nats_per_dimension": inverted(lambda: nats(prior, test)),
            "nats_per_dimension_of_training": inverted(lambda: nats(prior, train)),
        }
        if isinstance(prior, LatentFlow):
            through = inverted(lambda: reconstruct(decoder.through(prior), x[:256]))
            if through is not None:
                more["change_of_reconstructions"] = (through - plain).abs().max().item()
            more["round_trip"] = inverted(lambda: prior.check_invertible(test[:256].mean))
        z, drawing = timed(lambda: prior.sample(count, seed=seed + 1))
        more |= {"sampling_seconds": drawing, "variance": white(z).var(0).mean().item()}
        bench.measure(name, decode(decoder, z), seconds, **more)

    for name, fit in kinds.items():
        prior, seconds = timed(fit)
        measure(name, prior, seconds)
        if isinstance(prior, LatentFlow) and prior.kind == "matching":
            guided = LatentFlow(**{**prior.config, "guidance": GUIDANCE})
            guided.load_state_dict(prior.state_dict())
            measure(f"{name}, guidance {GUIDANCE:g}", guided.eval(), seconds)

    drawn = train.sample(torch.randn(train.mean.shape, generator=generator(seed, purpose="pythae")))
    for name, steps in pythae.items():
        from benchmarks.flows.pythae_baselines import pythae_samples

        z, seconds = timed(
            lambda name=name, steps=steps: pythae_samples(
                name, drawn, count, train_steps=steps, seed=seed
            )
        )
        spread = white(z).var(0).mean().item()
        bench.measure(f"pythae {name}", decode(decoder, z), seconds, variance=spread)


def inverted(work: Callable[[], Any]) -> Any:
    """What `work` returns; None where a flow cannot be inverted, as a guided one at times."""
    try:
        return work()
    except NonFiniteError as error:
        print(error, flush=True)
        return None


@torch.no_grad()
def encodings(decoder: latentctl.Decoder, x: Tensor) -> Latents:
    """The posteriors of images."""
    posteriors = [decoder.encode(part) for part in x.split(250)]
    stds = [p.std for p in posteriors if p.std is not None]
    return Latents(torch.cat([p.mean for p in posteriors]), torch.cat(stds) if stds else None)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with the share of the prior's excess that is left."""
    found = {row["name"]: row["frechet"] for row in rows}
    floor, prior = rows[0]["frechet"], found.get("the prior")
    columns = ("frechet", "precision", "recall", "density", "coverage")
    columns += ("nats_per_dimension", "variance")
    titles = ("", "Frechet", "excess", *columns[1:5], "NLL", "variance", "own floor", "fit, s")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = ["" if row.get(c) is None else f"{row[c]:.3f}" for c in columns]
        excess = "" if prior is None else f"{(row['frechet'] - floor) / (prior - floor):.2f}"
        own = "" if "floor" not in row else f"{row['floor']:.3f}"
        cells = [row["name"], cells[0], excess, *cells[1:], own, f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

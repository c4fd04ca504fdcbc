"""What the contenders of `benchmarks/flows/run.py` are measured by; those that share a decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import latentctl
from benchmarks.flows.pythae_baselines import pythae_samples
from benchmarks.shared.base import BATCH, decode, encode, nats, reconstruct
from benchmarks.shared.run import Row, report, table, timed, write
from latentctl import Latents
from latentctl.decoder import Gaussian
from latentctl.display.picture import grid, png
from latentctl.errors import NonFiniteError
from latentctl.evaluation import density_coverage, frechet_distance, precision_recall
from latentctl.priors import GaussianMixture, LatentFlow
from latentctl.priors.whitening import Whitening
from latentctl.random import generator

NEIGHBOURS_OF = 5000  # samples, at most
GUIDANCE = 2.0  # of a second row of a matching flow, trained once
SCORED = 20000  # numbers in the latents whose density is taken, which of a matching flow is slow
COLUMNS = {
    **{"name": "", "frechet": "Frechet", "excess": "excess"},
    **{key: key for key in ("precision", "recall", "density", "coverage")},
    **{"nats_per_dimension": "NLL", "variance": "variance"},
    **{"floor": "own floor", "seconds": "fit, s"},
}


class Bench:
    """Measures images against the test images, in the features of the judge."""

    def __init__(
        self, features: Callable[[Tensor], Tensor], test: Tensor, folder: Path, name: str
    ) -> None:
        self.features, self.folder, self.name = features, folder, name
        self.rows: list[Row] = []
        self.real = self.judge(test)

    @torch.no_grad()
    def judge(self, x: Tensor) -> Tensor:
        return torch.cat([self.features(part.clamp(0, 1)) for part in x.split(BATCH)])

    def distance(self, x: Tensor) -> float:
        """The Frechet distance of images to the test images."""
        return frechet_distance(self.judge(x), self.real)

    def measure(self, name: str, x: Tensor, seconds: float = 0.0, **more: Any) -> None:
        """A row of the table, written at once, and a picture of the first 64 images."""
        fake = self.judge(x)
        few, near = fake[:NEIGHBOURS_OF], self.real[:NEIGHBOURS_OF]
        row = {"name": name, "frechet": frechet_distance(fake, self.real)}
        row |= vars(precision_recall(near, few)) | vars(density_coverage(near, few))
        self.rows.append(report({**row, "seconds": seconds, **more}))
        word = "".join(c if c.isalnum() else "_" for c in name)
        (self.folder / f"{self.name}-{word}.png").write_bytes(png(grid(x[:64])))
        write(self.folder / f"{self.name}.json", self.rows)

    def table(self) -> str:
        """The rows as Markdown, with the share of the prior's excess that is left."""
        found = {row["name"]: row["frechet"] for row in self.rows}
        if "the prior" in found:
            floor = self.rows[0]["frechet"]
            for row in self.rows:
                row["excess"] = (row["frechet"] - floor) / (found["the prior"] - floor)
        return table(self.rows, COLUMNS)


def held_out_nats(prior: Any, latents: Latents) -> float:
    """Nats per dimension of the first latents, the same ones for every prior; lower is better."""
    rows = latents[: min(1000, SCORED // latents[0].mean.numel())]
    noise = torch.randn(rows.mean.shape, generator=generator(0, purpose="held out"))
    return nats(prior, rows.sample(noise))


def inverted(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call; None where a flow cannot be inverted, as a guided one at times."""
    try:
        return work(*arguments)
    except NonFiniteError as error:
        print(error, flush=True)
        return None


def compare_priors(
    bench: Bench, decoder: latentctl.Decoder, train: Latents, x: Tensor, flags: Any
) -> None:
    """Every density over the latents of one decoder, fitted on `train`; `x` are test images."""
    count, seed = flags.samples, flags.seed
    plain = reconstruct(decoder, x[:256])
    test, whitening = encode(decoder, x), Whitening.fit(train)

    def spread(z: Tensor) -> float:
        """Variance in units of the training latents' own."""
        return whitening(z).var(0).mean().item()

    def measure(name: str, prior: Any, seconds: float) -> None:
        more: dict[str, Any] = {
            "nats_per_dimension": inverted(held_out_nats, prior, test),
            "nats_per_dimension_of_training": inverted(held_out_nats, prior, train),
        }
        if isinstance(prior, LatentFlow):
            through = inverted(lambda: reconstruct(decoder.through(prior), x[:256]))
            if through is not None:
                more["change_of_reconstructions"] = (through - plain).abs().max().item()
            more["round_trip"] = inverted(prior.check_invertible, test[:256].mean)
        z, drawing = timed(prior.sample, count, seed=seed + 1)
        more |= {"sampling_seconds": drawing, "variance": spread(z)}
        bench.measure(name, decode(decoder, z), seconds, **more)

    measure("Gaussian, independent", *timed(Gaussian.fit, train))
    for name, parts in {"Gaussian, full covariance": 1, "GMM-10": 10}.items():
        measure(name, *timed(GaussianMixture.fit, train, parts, seed=seed))
    for kind, size in flags.flow_sizes().items():
        flow, seconds = timed(LatentFlow.fit, train, kind, seed=seed, **size)
        measure(f"flow, {kind}", flow, seconds)
        if kind == "matching":
            guided = LatentFlow(**{**flow.config, "guidance": GUIDANCE})
            guided.load_state_dict(flow.state_dict())
            measure(f"flow, {kind}, guidance {GUIDANCE:g}", guided.eval(), seconds)
    drawn = train.sample(torch.randn(train.mean.shape, generator=generator(seed, purpose="pythae")))
    for name, steps in flags.pythae_steps().items():
        z, seconds = timed(pythae_samples, name, drawn, count, train_steps=steps, seed=seed)
        bench.measure(f"pythae {name}", decode(decoder, z), seconds, variance=spread(z))

"""What a flow over latents costs: ours beside zuko's, nflows', normflows' and a mixture.

    LATENTCTL_DATA=... python benchmarks/flow_cost.py

Latents are the 64 and 128 most used dimensions of the face VAE. All flows get the same number of
steps, batch and learning rate on the same samples; the likelihood is of held-out people. Training
steps are timed in turns, and sampling too; figures are medians of CPU time on one thread.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zuko
from torch import Tensor, nn

import latentctl
from benchmarks.shared.face_base import load_face_vae, load_faces
from latentctl import LatentFlow, Latents
from latentctl.priors import GaussianMixture
from latentctl.priors.whitening import Whitening
from latentctl.random import generator, permutation, seeded

BATCH, SAMPLES = 256, 1024


@dataclass
class Flags:
    seed: int = 0
    steps: int = 800
    rounds: int = 5
    learning_rate: float = 1e-3
    width: int = 256
    output_dir: Path = Path("outputs/flow_cost")


@dataclass
class Contender:
    """A density with what it is trained and timed by."""

    name: str
    module: nn.Module
    loss: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[], Any]
    scored: int = 1004


def contenders(latents: Latents, flags: Flags) -> list[Contender]:
    import nflows.distributions
    import nflows.flows
    import nflows.transforms
    import normflows

    size, white = latents.mean.shape[1], Whitening.fit(latents)
    found = []

    def ours(kind: str, **sizes: Any) -> None:
        flow = LatentFlow((size,), kind, width=flags.width, **sizes)
        flow.map.white = white

        def loss(z: Tensor) -> Tensor:
            if kind != "matching":
                return -flow.log_prob(z).mean()
            time = torch.rand(len(z), 1, generator=clock)
            return flow.map.loss(torch.randn(z.shape, generator=clock), z, time)

        clock = generator(flags.seed, purpose=kind)
        scored = 64 if kind == "matching" else 1004

        def sample() -> Tensor:
            return flow.sample(SAMPLES)

        found.append(Contender(f"ours, {kind}", flow, loss, flow.log_prob, sample, scored))

    def theirs(name: str, module: nn.Module, log_prob: Any, sample: Any) -> None:
        # every contender sees white latents, so that only the flows differ
        def density(z: Tensor) -> Tensor:
            return log_prob(white(z)) + white.log_det

        found.append(Contender(name, module, lambda z: -density(z).mean(), density, sample))

    with seeded(flags.seed, "contenders"):
        ours("coupling")
        ours("spline", blocks=3)
        ours("matching", depth=4)
        hidden = [flags.width] * 2
        for name, passes in (("zuko NSF, autoregressive", None), ("zuko NSF, passes=2", 2)):
            flow = zuko.flows.NSF(size, transforms=3, bins=8, hidden_features=hidden, passes=passes)
            theirs(
                name,
                flow,
                lambda z, flow=flow: flow().log_prob(z),
                lambda flow=flow: flow().sample((SAMPLES,)),
            )
        layers = []
        for k in range(6):
            layers += [
                nflows.transforms.PiecewiseRationalQuadraticCouplingTransform(
                    torch.arange(size) % 2 if k % 2 else (torch.arange(size) + 1) % 2,
                    lambda inputs, outputs: _net(inputs, outputs, flags.width),
                    num_bins=8,
                    tails="linear",
                    tail_bound=6.0,
                ),
                nflows.transforms.RandomPermutation(size),
            ]
        rq = nflows.flows.Flow(
            nflows.transforms.CompositeTransform(layers),
            nflows.distributions.StandardNormal([size]),
        )
        theirs("nflows RQ-NSF, coupling", rq, rq.log_prob, lambda: rq.sample(SAMPLES))
        blocks = []
        for k in range(8):
            mask = (torch.arange(size) + k) % 2
            nets = [normflows.nets.MLP([size, *hidden, size], init_zeros=True) for _ in range(2)]
            blocks.append(normflows.flows.MaskedAffineFlow(mask.float(), *nets))
        real = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(size, False), blocks)
        theirs("normflows RealNVP", real, real.log_prob, lambda: real.sample(SAMPLES))
    return found


class _net(nn.Sequential):
    """The network that nflows asks for, of the same size as the others'."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, outputs),
        )  # fmt: skip

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        out: Tensor = super().forward(z)
        return out


def main(flags: Flags) -> None:
    torch.set_num_threads(1)
    decoder = latentctl.wrap(load_face_vae())
    train, test = (encoded(decoder, split) for split in ("train", "test"))
    used = train.posterior_std().argsort()
    results = {}
    for size in (64, 128):
        part, held_out = (
            Latents(x.mean[:, used[:size]], x.std[:, used[:size]]) for x in (train, test)
        )
        results[size] = measure(part, held_out, flags)
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    file = flags.output_dir / f"flow-cost-{flags.seed}.json"
    file.write_text(json.dumps(results, indent=2))
    for size, rows in results.items():
        print(f"\nD = {size}\n\n| flow | nats a dimension | step, ms | sampling 1,024, ms |")
        print("|---|---|---|---|")
        for row in rows:
            step, sample = (f"{1e3 * row[key]:.0f}" for key in ("step", "sampling"))
            print(f"| {row['name']} | {row['nats']:.3f} | {step} | {sample} |")


def measure(train: Latents, test: Latents, flags: Flags) -> list[dict[str, Any]]:
    size = train.mean.shape[1]
    real = test.sample(torch.randn(test.mean.shape, generator=generator(flags.seed, purpose="eps")))
    found = contenders(train, flags)
    players = [torch.optim.Adam(c.module.parameters(), lr=flags.learning_rate) for c in found]
    spent: list[list[float]] = [[] for _ in found]
    order = torch.cat([permutation(len(train), seed=flags.seed, epoch=e) for e in range(50)])
    noise = generator(flags.seed, purpose="posterior")
    for step in range(flags.steps):
        batch = train[order[step * BATCH : (step + 1) * BATCH]]
        z = batch.sample(torch.randn(batch.mean.shape, generator=noise))
        for contender, optimizer, times in zip(found, players, spent, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = flags.learning_rate * (1 - step / flags.steps)
            started = time.process_time()
            loss = contender.loss(z)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(contender.module.parameters(), 5.0 * size)
            optimizer.step()
            times.append(time.process_time() - started)
    rows = []
    sampling: list[list[float]] = [[] for _ in found]
    with torch.no_grad():
        for _ in range(flags.rounds):
            for contender, times in zip(found, sampling, strict=True):
                started = time.process_time()
                contender.sample()
                times.append(time.process_time() - started)
        for k, c in enumerate(found):
            nats = float(-c.log_prob(real[: c.scored]).mean()) / size
            costs = {"step": spent[k], "sampling": sampling[k]}
            medians = {name: statistics.median(times) for name, times in costs.items()}
            rows.append({"name": c.name, "nats": nats, "scored": c.scored, **medians})
            print(rows[-1], flush=True)
    started = time.process_time()
    mixture = GaussianMixture.fit(train, 10, seed=flags.seed)
    fitted = time.process_time() - started
    started = time.process_time()
    mixture.sample(SAMPLES)
    cost = {"step": 0.0, "sampling": time.process_time() - started}
    nats = float(-mixture.log_prob(real).mean()) / size
    name = f"GMM-10, fitted in {fitted:.0f} s"
    rows.append({"name": name, "nats": nats, "scored": len(real), **cost})
    return rows


def encoded(decoder: latentctl.Decoder, split: str) -> Latents:
    images, _, _ = load_faces(split)
    x = images.float() / 255
    posteriors = [decoder.encode(part) for part in torch.cat([x, x.flip(3)]).split(128)]
    stds = [p.std for p in posteriors if p.std is not None]
    return Latents(torch.cat([p.mean for p in posteriors]), torch.cat(stds))


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))

"""What a flow over latents costs: ours beside zuko's, nflows', normflows' and a mixture.

    LATENTCTL_DATA=... python -m benchmarks.flows.cost

Latents are the 64 and 128 most used dimensions of the face VAE. All flows get the same number of
steps, batch and learning rate on the same samples; the likelihood is of held-out people. Training
steps are timed in turns, and sampling too; figures are medians of CPU time on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import zuko
from torch import Tensor, nn

from benchmarks.shared.base import encode, nats
from benchmarks.shared.face_base import face_decoder, load_faces
from benchmarks.shared.run import Row, SeededFlags, in_turns, report, run, table, timed, write
from latentctl import LatentFlow, Latents
from latentctl.priors import GaussianMixture
from latentctl.priors.whitening import Whitening
from latentctl.random import generator, permutation, seeded

BATCH, SAMPLES = 256, 1024


@dataclass
class Flags(SeededFlags):
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

    size, whitening = latents.mean.shape[1], Whitening.fit(latents)
    found = []

    def ours(kind: str, **sizes: Any) -> None:
        flow = LatentFlow((size,), kind, width=flags.width, **sizes)
        flow.map.white = whitening

        def loss(z: Tensor) -> Tensor:
            if kind != "matching":
                return -flow.log_prob(z).mean()
            time = torch.rand(len(z), 1, generator=clock)
            return flow.map.loss(torch.randn(z.shape, generator=clock), z, time)

        clock = generator(flags.seed, purpose=kind)
        scored = 64 if kind == "matching" else 1004

        sample = partial(flow.sample, SAMPLES)
        found.append(Contender(f"ours, {kind}", flow, loss, flow.log_prob, sample, scored))

    def theirs(name: str, module: nn.Module, log_prob: Any, sample: Any) -> None:
        # every contender gets whitened latents, so that only the flows differ
        def density(z: Tensor) -> Tensor:
            return log_prob(whitening(z)) + whitening.log_det

        found.append(Contender(name, module, lambda z: -density(z).mean(), density, sample))

    with seeded(flags.seed, "contenders"):
        ours("coupling")
        ours("spline", blocks=3)
        ours("matching", depth=4)
        hidden = [flags.width] * 2
        for name, passes in (("zuko NSF, autoregressive", None), ("zuko NSF, passes=2", 2)):
            flow = zuko.flows.NSF(size, transforms=3, bins=8, hidden_features=hidden, passes=passes)
            theirs(
                name, flow, lambda z, f=flow: f().log_prob(z), lambda f=flow: f().sample((SAMPLES,))
            )
        layers = []
        for k in range(6):
            layers += [
                nflows.transforms.PiecewiseRationalQuadraticCouplingTransform(
                    torch.arange(size) % 2 if k % 2 else (torch.arange(size) + 1) % 2,
                    lambda inputs, outputs: Network(inputs, outputs, flags.width),
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
        theirs("nflows RQ-NSF, coupling", rq, rq.log_prob, partial(rq.sample, SAMPLES))
        blocks = []
        for k in range(8):
            mask = (torch.arange(size) + k) % 2
            nets = [normflows.nets.MLP([size, *hidden, size], init_zeros=True) for _ in range(2)]
            blocks.append(normflows.flows.MaskedAffineFlow(mask.float(), *nets))
        real = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(size, False), blocks)
        theirs("normflows RealNVP", real, real.log_prob, partial(real.sample, SAMPLES))
    return found


class Network(nn.Module):
    """The network in the form that nflows requires, of the same size as the others'."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        hidden = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        self.layers = nn.Sequential(*hidden, nn.Linear(width, outputs))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(z)


def main(flags: Flags) -> None:
    decoder = face_decoder()
    images = [load_faces(split)[0] for split in ("train", "test")]
    train, test = (encode(decoder, torch.cat([x, x.flip(3)])) for x in images)
    used = train.posterior_std().argsort()
    results = {}
    for size in (64, 128):
        kept = used[:size]
        parts = (Latents(x.mean[:, kept], x.std[:, kept]) for x in (train, test))
        results[size] = measure(*parts, flags)
    write(flags.output_dir / f"flow-cost-{flags.seed}.json", results)
    for size, rows in results.items():
        print(f"\nD = {size}\n\n{table(rows)}")


def fit(found: list[Contender], train: Latents, flags: Flags) -> dict[str, float]:
    """Trains all contenders in turns on the same samples; median milliseconds of a step of each."""
    size = train.mean.shape[1]
    optimizers = [torch.optim.Adam(c.module.parameters(), lr=flags.learning_rate) for c in found]
    spent: dict[str, list[float]] = {c.name: [] for c in found}
    order = torch.cat([permutation(len(train), seed=flags.seed, epoch=e) for e in range(50)])
    noise = generator(flags.seed, purpose="posterior")

    def update(contender: Contender, optimizer: torch.optim.Optimizer, z: Tensor) -> None:
        loss = contender.loss(z)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(contender.module.parameters(), 5.0 * size)
        optimizer.step()

    for step in range(flags.steps):
        batch = train[order[step * BATCH : (step + 1) * BATCH]]
        z = batch.sample(torch.randn(batch.mean.shape, generator=noise))
        for contender, optimizer in zip(found, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = flags.learning_rate * (1 - step / flags.steps)
            spent[contender.name].append(timed(update, contender, optimizer, z)[1])
    return {name: 1000 * median(times) for name, times in spent.items()}


def measure(train: Latents, test: Latents, flags: Flags) -> list[Row]:
    real = test.sample(torch.randn(test.mean.shape, generator=generator(flags.seed, purpose="eps")))
    found = contenders(train, flags)
    steps = fit(found, train, flags)
    with torch.no_grad():
        _, sampling = in_turns({c.name: c.sample for c in found}, flags.rounds)
    rows = []
    for c in found:
        row = {"name": c.name, "nats a dimension": nats(c, real[: c.scored]), "scored": c.scored}
        drawing = 1000 * median(cpu for cpu, _ in sampling[c.name])
        rows.append(report({**row, "step, ms": steps[c.name], f"{SAMPLES} samples, ms": drawing}))
    mixture, fitted = timed(GaussianMixture.fit, train, 10, seed=flags.seed)
    _, drawing = timed(mixture.sample, SAMPLES)
    row = {"name": f"GMM-10, fitted in {fitted:.0f} s", "nats a dimension": nats(mixture, real)}
    return [*rows, {**row, "scored": len(real), f"{SAMPLES} samples, ms": 1000 * drawing}]


if __name__ == "__main__":
    run(main, Flags)

"""Digits on demand, on a pretrained VAE and judged by a pretrained LeNet of others.

    LATENTCTL_DATA=... python -m benchmarks.digits.conditional --baselines
    LATENTCTL_DATA=... python -m benchmarks.digits.conditional --seeds 0 1 2

Labels are MNIST's own, of its training images. The LeNet is the judge: nothing here is trained on
it or ascends it. Ascent follows a small network trained here on training digits and on the VAE's
samples of them. Diversity is the mean distance of two samples in the 84 features of LeNet's last
hidden layer, as a share of that of real test digits, and of their reconstructions, which bound what
this decoder can draw; coverage is of 440 real test digits of the class. Writes a JSON file and a
picture for each seed, and prints the table of all that is in the folder. `--baselines` runs other
controllers instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latentctl
from benchmarks.shared.base import load_weights, reconstruct
from benchmarks.shared.digits import DigitJudge, LeNet, load_mnist, mnist_decoder
from benchmarks.shared.run import BaseFlags, Row, Seconds, by_name, read, report, run, table, write
from latentctl import Actor, Ascent, AttributeCritic, FlowMatching, Gaussian
from latentctl.controllers import Refined
from latentctl.display.picture import grid, png
from latentctl.evaluation import density_coverage

NAMES = [f"digit_{digit}" for digit in range(10)]
HALF = 440  # test digits of a class that samples are compared with; the floor is as many others
WIDE = 1.15  # standard deviation of the noise that the flow starts from
HIGH, LOW = 0.99, 0.97  # probabilities by the network that is ascended
BY_DIGIT = ("accuracy", "of real", "of rec.", "coverage")
MEASURES = ("name", "accuracy", "least accuracy", *BY_DIGIT[1:], "satisfied", "calls")


@dataclass
class Flags(BaseFlags):
    seeds: tuple[int, ...] = (0,)
    baselines: bool = False  # Run other controllers instead.
    count: int = 500  # Samples of each digit.
    max_train_steps: int = 3000
    demonstration_steps: int = 1000
    columns: int = 20
    output_dir: Path = Path("outputs/digits")


class OneOfTen(nn.Module):
    """The log-odds of each digit, of a network that ends in a softmax."""

    names = NAMES

    def __init__(self, network: DigitJudge) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        rest = [[k for k in range(10) if k != digit] for digit in range(10)]
        return logits - torch.stack([logits[:, others].logsumexp(1) for others in rest], 1)


class Bench:
    """The decoder, the data and the judge, once for all seeds."""

    def __init__(self, output_dir: Path) -> None:
        self.judge, self.seconds = load_weights(LeNet(), "mnist_lenet"), Seconds()
        sets = load_mnist()
        train, test = sets["train"], sets["test"]
        self.decoder = mnist_decoder()
        redrawn = reconstruct(self.decoder, test.images)
        with torch.no_grad():
            posterior = self.decoder.encode(train.pixels())
            noise = torch.randn(posterior.mean.shape, generator=latentctl.random.generator(0))
            drawn = (self.decoder.decode(posterior.sample(noise)) * 255).byte()
        labels = F.one_hot(train.labels, 10).float()
        self.latents = latentctl.Latents(posterior.mean, posterior.std, labels, NAMES)
        both = torch.cat([train.images, drawn]), train.labels.repeat(2)
        network = DigitJudge.fit(*both, output_dir / "network.safetensors", epochs=1)
        self.network = latentctl.PixelCritic(self.decoder, OneOfTen(network))
        bytes_of_redrawn = (redrawn * 255).byte()
        self.known = {
            "LeNet on real test digits": self._accuracy(test.pixels(), test.labels),
            "LeNet on their reconstructions": self._accuracy(redrawn, test.labels),
            "own network on real test digits": network.accuracy(test.images, test.labels),
            "own network on their reconstructions": network.accuracy(bytes_of_redrawn, test.labels),
        }
        self.real = [self.judge.features(test.pixels(test.labels == d)) for d in range(10)]
        self.redrawn = [redrawn[test.labels == d] for d in range(10)]
        self.spread = [
            [torch.pdist(features).mean().item() for features in sets]
            for sets in (self.real, [self.judge.features(x) for x in self.redrawn])
        ]

    def _accuracy(self, x: Tensor, labels: Tensor) -> float:
        return (self.judge.digits(self.judge.features(x)) == labels).float().mean().item()

    def measure(self, name: str, samples: Iterable[Tensor], **more: Any) -> Row:
        """A row of the table, of samples of each digit."""
        rows: dict[str, list[float]] = {key: [] for key in BY_DIGIT}
        for digit, x in enumerate(samples):
            found, real = self.judge.features(x), self.real[digit]
            spread = torch.pdist(found).mean().item()
            rows["accuracy"].append((self.judge.digits(found) == digit).float().mean().item())
            rows["of real"].append(spread / self.spread[0][digit])
            rows["of rec."].append(spread / self.spread[1][digit])
            rows["coverage"].append(density_coverage(real[:HALF], found[:HALF]).coverage)
        means = {key: fmean(values) for key, values in rows.items()}
        row = {"name": name, **means, "least accuracy": min(rows["accuracy"]), **more}
        return report({**row, "digits": rows})

    def sample(
        self, name: str, digits: latentctl.Conditional, count: int, seed: int
    ) -> tuple[Row, Tensor]:
        """Samples of each digit, `(10, count, 1, 28, 28)`, and their row."""
        y = torch.eye(10).repeat_interleave(count, 0)
        out = self.seconds.measure(name, digits.sample, len(y), y=y, seed=seed)
        more = {"satisfied": out.satisfied.float().mean().item(), "seconds": self.seconds[name]}
        more["calls"] = out.evaluations.float().mean().item()
        samples = out.x.unflatten(0, (10, count))
        return self.measure(name, samples, **more), samples


def run_seed(bench: Bench, flags: Flags, seed: int) -> dict[str, Any]:
    """The rows of one seed, and a picture."""
    latents, network, seconds = bench.latents, bench.network, bench.seconds
    quick = {"width": 256, "seed": seed}
    steps = flags.max_train_steps
    flow = seconds.measure(
        "flow", FlowMatching.fit, latents, guidance=1.0, max_train_steps=steps, **quick
    )
    climb = {"steps": 30, "learning_rate": 0.1, "continue_after_threshold": False}
    climb["shift_weight"] = 0.0
    refined = Refined(flow, network, **climb)
    controllers: dict[str, tuple[Any, ...]] = {
        "FlowMatching": (flow, network, HIGH),
        f"the same, refined to {HIGH:g}": (refined, network, HIGH),
        f"the same, refined to {LOW:g}": (refined, network, LOW),
        f"refined to {HIGH:g}, {WIDE:g} times as wide a start": (refined, network, HIGH, WIDE),
    }
    if flags.baselines:
        critic = seconds.measure(
            "critic", AttributeCritic.fit, latents, max_train_steps=1500, **quick
        )
        actor = seconds.measure(
            "actor",
            Actor.fit,
            latents,
            teacher=flow,
            demonstration_steps=flags.demonstration_steps,
            critic_warmup_steps=0,
            max_train_steps=0,
            **quick,
        )
        guided = FlowMatching(**{**flow.config, "guidance": 1.5})
        guided.load_state_dict(flow.state_dict())
        controllers = {
            "Ascent on a latent critic": (Ascent(critic), critic, HIGH),
            "FlowMatching, guidance 1.5": (guided.eval(), network, HIGH),
            "Actor cloned from FlowMatching": (actor, network, HIGH),
            "the same, refined": (Refined(actor, network, **climb), network, HIGH),
        }
    rows = []
    for name, (controller, critic, threshold, *wide) in controllers.items():
        prior = Gaussian(latents.latent_shape, std=wide[0] if wide else 1.0)
        options = {"prior": prior, "threshold": threshold}
        digits = latentctl.condition(bench.decoder, critic, controller, **options)
        row, samples = bench.sample(name, digits, flags.count, seed)
        rows.append(row)
    if not flags.baselines:
        picture = samples[:, : flags.columns].flatten(0, 1)
        file = flags.output_dir / f"digits{f'-{seed}' if seed else ''}.png"
        file.write_bytes(png(grid(picture, columns=flags.columns)))
    return {"seed": seed, "rows": rows, "seconds": seconds}


def main(flags: Flags) -> None:
    bench = Bench(flags.output_dir)
    report(bench.known)
    floors = [
        bench.measure("reconstructions of test digits", [x[:HALF] for x in bench.redrawn]),
        bench.measure("reconstructions of others", [x[HALF : 2 * HALF] for x in bench.redrawn]),
    ]
    for seed in flags.seeds:
        found = {"known": bench.known, "floors": floors, **run_seed(bench, flags, seed)}
        kind = "baselines" if flags.baselines else "seed"
        write(flags.output_dir / f"{kind}-{seed}.json", found)
    runs = read(flags.output_dir, "*-*.json")
    rows = by_name([floors, *(run["rows"] for run in runs)])
    print(table(rows, MEASURES))
    for row in rows[-3:]:
        each = {key: zip(*(run[key] for run in row["digits"]), strict=True) for key in BY_DIGIT}
        digits = [
            {"name": key, **{str(digit): fmean(values) for digit, values in enumerate(found)}}
            for key, found in each.items()
        ]
        print(f"\n{row['name']}\n\n{table(digits)}")


if __name__ == "__main__":
    run(main, Flags)

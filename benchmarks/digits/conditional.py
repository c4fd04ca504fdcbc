"""Digits on demand, on a VAE and under a judge that others trained.

    LATENTCTL_DATA=... python benchmarks/digits.py --rivals
    LATENTCTL_DATA=... python benchmarks/digits.py --seeds 0 1 2

Labels are MNIST's own, of its training images. The LeNet judges; nothing here learned from it or
climbed it. What is climbed is a small network trained here on training digits and on what the VAE
makes of them. Diversity is the mean distance of two samples in the 84 features that LeNet's last
layer reads, as a share of that of real test digits, and of their reconstructions, which are all
that this decoder draws of them; coverage is of 440 real test digits of the class. Writes a
JSON file and a picture a seed, and prints the table of all that is in the folder. `--rivals` runs
other controllers instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latentctl
from benchmarks.shared.digit_judge import DigitJudge
from benchmarks.shared.face_base import data_folder
from benchmarks.shared.mnist_base import load_mnist_vae
from latentctl.conditional.picture import grid, png
from latentctl.controllers.refined import Refined
from latentctl.evaluation import density_coverage
from recipes.support.images import ImageFlags, load_images

NAMES = [f"digit_{digit}" for digit in range(10)]
HALF = 440  # test digits of a class that samples are compared with; the floor is as many others
WIDE = 1.15  # standard deviation of the noise that the flow starts from
THRESHOLDS = (0.99, 0.97)  # probabilities by the network that is climbed
MEASURES = ("accuracy", "least accuracy", "of real", "of rec.", "coverage", "satisfied", "calls")


class LeNet(nn.Module):
    """Somebody else's LeNet-5, from `LATENTCTL_DATA/../weights/mnist_lenet`: the judge."""

    def __init__(self) -> None:
        from safetensors.torch import load_file

        super().__init__()
        sizes = {"c1": (1, 6), "c3": (6, 16), "c5": (16, 120)}
        self.convnet = nn.ModuleDict({k: nn.Conv2d(a, b, 5) for k, (a, b) in sizes.items()})
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})
        folder = data_folder().parent / "weights" / "mnist_lenet"
        self.load_state_dict(load_file(str(folder / "model.safetensors")))
        self.eval()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """`(B, 84)` of images `(B, 1, 28, 28)` in [0, 1]."""
        x = F.interpolate(x, size=32, mode="bilinear")
        for name in ("c1", "c3"):
            x = F.max_pool2d(self.convnet[name](x).relu(), 2)
        out: Tensor = self.fc["f6"](self.convnet["c5"](x).relu().flatten(1)).relu()
        return out

    @torch.no_grad()
    def digits(self, features: Tensor) -> Tensor:
        out: Tensor = self.fc["f7"](features).argmax(1)
        return out


class OneOfTen(nn.Module):
    """The log-odds of each digit, of a network that ends in a softmax."""

    names = NAMES

    def __init__(self, network: DigitJudge) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        said = self.network.head(self.network.body(x))
        rest = [[k for k in range(10) if k != digit] for digit in range(10)]
        return said - torch.stack([said[:, others].logsumexp(1) for others in rest], 1)


def spread(features: Tensor) -> float:
    """Mean distance of two different rows."""
    return torch.nn.functional.pdist(features).mean().item()


class Bench:
    """The decoder, the data and the judge, once for all seeds."""

    def __init__(self, output_dir: Path) -> None:
        self.judge = LeNet()
        sets = load_images(ImageFlags(str(data_folder() / "mnist")))
        train, test = sets["train"], sets["test"]
        self.decoder = latentctl.wrap(load_mnist_vae(), value_range=(0.0, 1.0))
        with torch.no_grad():
            posterior = self.decoder.encode(train.pixels())
            redrawn = self.decoder.decode(self.decoder.encode(test.pixels()).mean)
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
        self.redrawn_features = [self.judge.features(x) for x in self.redrawn]

    def _accuracy(self, x: Tensor, labels: Tensor) -> float:
        return (self.judge.digits(self.judge.features(x)) == labels).float().mean().item()

    def measure(self, name: str, samples: list[Tensor], **more: Any) -> dict[str, Any]:
        rows: dict[str, list[float]] = {"accuracy": [], "of real": [], "of rec.": []}
        rows["coverage"] = []
        for digit, x in enumerate(samples):
            found, real = self.judge.features(x), self.real[digit]
            right = self.judge.digits(found) == digit
            rows["accuracy"].append(right.float().mean().item())
            rows["of real"].append(spread(found) / spread(real))
            rows["of rec."].append(spread(found) / spread(self.redrawn_features[digit]))
            rows["coverage"].append(density_coverage(real[:HALF], found[:HALF]).coverage)
        means = {key: statistics.fmean(values) for key, values in rows.items()}
        row = {"name": name, **means, "least accuracy": min(rows["accuracy"]), **more}
        print(name, {k: round(v, 3) for k, v in row.items() if k != "name"}, flush=True)
        return {**row, "digits": rows}

    def sample(
        self,
        name: str,
        controller: latentctl.controllers.Controller,
        critic: Any,
        threshold: float,
        count: int,
        seed: int,
        std: float = 1.0,
    ) -> tuple[dict[str, Any], list[Tensor]]:
        prior = latentctl.Gaussian(self.decoder.latent_shape, std=std)
        digits = latentctl.condition(
            self.decoder, critic, controller, prior=prior, threshold=threshold
        )
        start = time.monotonic()
        wanted = F.one_hot(torch.arange(10), 10).float()
        outs = [
            digits.sample(count, y=wanted[d : d + 1], seed=seed, start=d * count) for d in range(10)
        ]
        seconds = time.monotonic() - start
        satisfied = statistics.fmean(out.satisfied.float().mean().item() for out in outs)
        calls = statistics.fmean(out.evaluations.float().mean().item() for out in outs)
        samples = [out.x for out in outs]
        more = {"satisfied": satisfied, "calls": calls, "seconds": seconds}
        return self.measure(name, samples, **more), samples


def run(bench: Bench, flags: argparse.Namespace, seed: int) -> dict[str, Any]:
    quick = {"width": 256, "seed": seed}
    seconds = {}
    start = time.monotonic()
    flow = latentctl.FlowMatching.fit(
        bench.latents, guidance=1.0, max_train_steps=flags.max_train_steps, **quick
    )
    seconds["flow"] = time.monotonic() - start
    climb = {
        "steps": 30,
        "learning_rate": 0.1,
        "shift_weight": 0.0,
        "continue_after_threshold": False,
    }
    network = bench.network
    controllers: dict[str, tuple[Any, ...]] = {}
    high, low = THRESHOLDS
    if flags.rivals:
        start = time.monotonic()
        critic = latentctl.AttributeCritic.fit(bench.latents, max_train_steps=1500, **quick)
        seconds["critic"] = time.monotonic() - start
        start = time.monotonic()
        actor = latentctl.Actor.fit(
            bench.latents,
            teacher=flow,
            lessons=flags.lessons,
            head_start=0,
            max_train_steps=0,
            **quick,
        )
        seconds["actor"] = time.monotonic() - start
        guided = latentctl.FlowMatching(bench.latents.latent_shape, NAMES, width=256, guidance=1.5)
        guided.net.white = flow.net.white
        guided.load_state_dict(flow.state_dict())
        controllers = {
            "Ascent on a latent critic": (latentctl.Ascent(critic), critic, high),
            "FlowMatching, guidance 1.5": (guided.eval(), network, high),
            "Actor taught by FlowMatching": (actor, network, high),
            "the same, refined": (Refined(actor, network, **climb), network, high),
        }
    else:
        refined = Refined(flow, network, **climb)
        controllers = {
            "FlowMatching": (flow, network, high),
            f"the same, refined to {high:g}": (refined, network, high),
            f"the same, refined to {low:g}": (refined, network, low),
            f"refined to {high:g}, {WIDE:g} times as wide a start": (refined, network, high, WIDE),
        }
    rows = []
    for name, chosen in controllers.items():
        controller, critic, threshold, *wide = chosen
        row, samples = bench.sample(name, controller, critic, threshold, flags.count, seed, *wide)
        rows.append(row)
    if not flags.rivals:
        picture = torch.cat([x[: flags.columns] for x in samples])
        file = flags.output_dir / f"digits{f'-{seed}' if seed else ''}.png"
        file.write_bytes(png(grid(picture, columns=flags.columns)))
    return {"seed": seed, "rows": rows, "seconds": seconds}


def table(floors: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    lines = [f"| | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    grouped = [[row] for row in floors]
    for name in dict.fromkeys(row["name"] for run in runs for row in run["rows"]):
        grouped.append([row for run in runs for row in run["rows"] if row["name"] == name])
    for rows in grouped:
        cells = []
        for key in MEASURES:
            values = [row[key] for row in rows if key in row]
            text = f"{statistics.fmean(values):.3f}" if values else ""
            if values and max(values) - min(values) >= 0.001:
                text += f" ({min(values):.3f}-{max(values):.3f})"
            cells.append(text)
        lines.append(f"| {rows[0]['name']} | {' | '.join(cells)} |")
    for rows in grouped[-3:]:
        lines += ["", f"| {rows[0]['name']} | " + " | ".join(map(str, range(10))) + " |"]
        lines.append("|---" * 11 + "|")
        for key in ("accuracy", "of real", "of rec.", "coverage"):
            each = [
                statistics.fmean(v) for v in zip(*(r["digits"][key] for r in rows), strict=True)
            ]
            lines.append(f"| {key} | " + " | ".join(f"{v:.3f}" for v in each) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--count", type=int, default=500, help="samples of each digit")
    parser.add_argument("--max_train_steps", type=int, default=3000)
    parser.add_argument("--lessons", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/digits"))
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    flags.output_dir.mkdir(parents=True, exist_ok=True)
    bench = Bench(flags.output_dir)
    print(bench.known, flush=True)
    floors = [
        bench.measure("reconstructions of test digits", [x[:HALF] for x in bench.redrawn]),
        bench.measure("reconstructions of others", [x[HALF : 2 * HALF] for x in bench.redrawn]),
    ]
    for seed in flags.seeds:
        found = run(bench, flags, seed)
        report = json.dumps({"known": bench.known, "floors": floors, **found}, indent=1)
        kind = "rivals" if flags.rivals else "seed"
        (flags.output_dir / f"{kind}-{seed}.json").write_text(report + "\n")
    files = [
        f for kind in ("rivals", "seed") for f in sorted(flags.output_dir.glob(f"{kind}-*.json"))
    ]
    print(table(floors, [json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()

"""Digits on demand from a flow-matching pipeline without conditions, judged by a LeNet of others.

    accelerate launch recipes/pretrain_diffusion.py --train_data_dir MNIST \
        --diffusion_train_steps 2800 --output_dir outputs/diffusion-digits
    LATENTCTL_DATA=... python -m benchmarks.diffusion.digits --seeds 0 1 2

The latent is the starting noise. A small network that is trained here on training digits is what
every method follows; the LeNet is the judge, and nothing follows it. The budget is one number of
evaluations of the sampler for all: a gradient counts as three, as its passes do. Diversity is the
mean distance of two samples of a digit in the 84 features of LeNet's last hidden layer, as a share
of that of the sampler's own samples of that digit. Whiteness is the share of latents whose
`typicality` is at least 0.01; shared is the p-value that the latents of a digit share no pattern,
the least of the ten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from latentctl_adapters.diffusers_pipeline import PipelineDecoder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import latentctl
from benchmarks.diffusion.baselines import GRADIENT, BestOf, Dno, HyperNoise, Reno, Then
from benchmarks.digits.conditional import NAMES
from benchmarks.shared.base import load_weights, pixels
from benchmarks.shared.digits import DigitJudge, LeNet, load_mnist
from benchmarks.shared.run import BaseFlags, Row, Seconds, by_name, read, report, run, table, write
from latentctl import Ascent, PixelCritic
from latentctl.controllers import Controller, Rejection, SphericalAscent
from latentctl.display.picture import grid, png
from latentctl.latents import shared_pattern, typicality
from latentctl.random import seeded
from latentctl.training import Step, train

OWN = 1000  # samples of the generator itself, for its accuracy and diversity
SHOWN = 10
APART = 1.0  # price of a pattern that results share


@dataclass
class Flags(BaseFlags):
    pipeline: Path = Path("outputs/diffusion-digits/pipeline")
    steps: int = 4  # Of the sampler.
    seeds: tuple[int, ...] = (0,)
    count: int = 20  # Samples of each digit.
    budget: int = 60  # Evaluations of the sampler for each sample.
    only: tuple[str, ...] = ()  # Names of methods; all of them if not given.
    output_dir: Path = Path("outputs/diffusion-digits")


class Digits(nn.Module):
    """Log-odds of each digit, trained with broken digits as examples of none.

    A network that saw whole digits alone is sure of fragments and of two digits at once, which a
    small sampler draws often.
    """

    names = NAMES

    def __init__(self) -> None:
        super().__init__()
        with seeded(0, "digits"):
            self.body = DigitJudge(1, 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    @classmethod
    def fit(cls, images: Tensor, labels: Tensor, file: Path) -> Digits:
        """The network of a file if there is one, or a new one, which is written there."""
        network = cls()
        if file.is_file():
            network.load_state_dict(load_file(str(file)))
            return network.eval()

        def loss(rows: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = pixels(images[rows]), F.one_hot(labels[rows], 10).float()
            x = torch.cat([x, _broken(x, step)])
            y = torch.cat([y, torch.zeros_like(y)])
            spread = 0.2 * step.uniform(1, 1, 1, purpose="spread").repeat(2, 1, 1, 1)
            x = (x + spread * step.normal(2, 28, 28).transpose(0, 1).flatten(0, 1)[:, None]).clamp(
                0, 1
            )
            return F.binary_cross_entropy_with_logits(network(x), y), {}

        rows = torch.arange(len(images))
        steps = {"max_train_steps": 1400, "batch_size": 64, "lr_scheduler": "cosine"}
        train(network, loss, rows, name="digits", learning_rate=2e-3, **steps)
        save_file(network.state_dict(), str(file))
        return network


def _broken(x: Tensor, step: Step) -> Tensor:
    """Digits `(B, 1, 28, 28)` of which a part is another one's, or both, or missing."""
    other, kind = x.roll(1, 0), step.uniform(1, 1, 1, purpose="kind")
    across, place = step.uniform(1, 1, 1, purpose="across") < 0.5, torch.arange(28.0)
    cut = 10 + 8 * step.uniform(1, 1, 1, purpose="cut")
    side = torch.where(across, place.view(1, 1, 1, 28), place.view(1, 1, 28, 1)) < cut
    rest = torch.where(kind < 0.7, other, torch.zeros_like(other))
    return torch.where(kind < 0.4, torch.maximum(x, other), torch.where(side, x, rest))


class Bench:
    """A generator, the networks and the diversity of the generator's own samples."""

    def __init__(
        self, decoder: latentctl.Decoder, count: int, output_dir: Path, own: int = OWN
    ) -> None:
        self.decoder, self.count, self.output_dir = decoder, count, output_dir
        self.seconds = Seconds()
        self.judge = load_weights(LeNet(), "mnist_lenet")
        train = load_mnist()["train"]
        file = output_dir / "network.safetensors"
        network = Digits.fit(train.images, train.labels, file)
        self.critic = PixelCritic(self.decoder, network)
        self.own, self.known = self._own(own)

    def _own(self, count: int) -> tuple[list[float], Row]:
        """Mean distances within each digit of the generator's own samples, and what they are."""
        z = self.decoder.prior.sample(count, seed=1000)
        x = self.decoder.decode(z, batch_size=100)
        features = self.judge.features((x + 1) / 2)
        digits, called = self.judge.digits(features), self.critic.score_samples(x).argmax(1)
        spread = [torch.pdist(features[digits == d]).mean().item() for d in range(10)]
        agree = (digits == called).float().mean().item()
        share = [(digits == d).float().mean().item() for d in range(10)]
        return spread, {"the two networks agree": agree, "least share of a digit": min(share)}

    def measure(self, name: str, controller: Controller | None, seed: int) -> Row:
        count = self.count
        digits = latentctl.condition(self.decoder, self.critic, controller)
        y = torch.eye(10).repeat_interleave(count, 0)
        out = self.seconds.measure(name, digits.sample, len(y), y=y, seed=seed)
        wanted = torch.arange(10).repeat_interleave(count)
        features = self.judge.features((out.x + 1) / 2)
        climbed = (out.probability.argmax(1) == wanted).float().mean().item()
        groups = features.unflatten(0, (10, count))
        spread = [torch.pdist(g).mean().item() / own for g, own in zip(groups, self.own)]  # noqa: B905
        accuracy = (self.judge.digits(features) == wanted).float().mean().item()
        self._save(f"{name.replace(' ', '-')}-{seed}", out.x, count)
        return report(
            {
                "name": name,
                "accuracy": accuracy,
                "gap": climbed - accuracy,
                **self._rendered(out.z, wanted),
                "diversity": fmean(spread),
                "least diversity": min(spread),
                "white": (typicality(out.z) >= 0.01).float().mean().item(),
                "shared": min(shared_pattern(z) for z in out.z.unflatten(0, (10, count))),
                "evaluations": out.evaluations.float().mean().item(),
                "seconds a sample": self.seconds[name] / len(y),
            }
        )

    def _rendered(self, z: Tensor, wanted: Tensor) -> Row:
        """The accuracy of the same noise in 20 steps, of a pipeline."""
        if not isinstance(self.decoder, PipelineDecoder):
            return {}
        fine = self.decoder.render(z, 20, batch_size=100)
        finer = self.judge.digits(self.judge.features((fine + 1) / 2))
        return {"in 20 steps": (finer == wanted).float().mean().item()}

    def _save(self, name: str, x: Tensor, count: int) -> None:
        some = x.unflatten(0, (10, count))[:, :SHOWN].flatten(0, 1)
        picture = png(grid(some, columns=min(SHOWN, count), value_range=(-1.0, 1.0)))
        (self.output_dir / f"{name}.png").write_bytes(picture)


def methods(bench: Bench, flags: Flags) -> dict[str, Callable[[], Controller | None]]:
    """The controllers at one number of evaluations, those of training included."""
    critic, budget = bench.critic, flags.budget
    steps = budget // GRADIENT
    every = steps * 10 * flags.count * len(flags.seeds)  # gradients of all samples
    hyper = functools.cache(lambda: HyperNoise.fit(critic, every))
    actor = functools.cache(lambda: HyperNoise.fit(critic, every, apart=APART))
    half = SphericalAscent(critic, steps=steps // 2)
    return {
        "best of N": lambda: BestOf(critic, budget),
        "ReNO": lambda: Reno(critic, steps),
        "DNO": lambda: Dno(critic, steps, learning_rate=0.03),
        "HyperNoise's objective": hyper,
        "actor on the sphere, apart": actor,
        "the same, then 3 steps": lambda: Then(actor(), SphericalAscent(critic, steps=3)),
        "3 steps on the sphere": lambda: SphericalAscent(critic, steps=3),
        "ascent by Adam": lambda: Ascent.for_edits(critic, steps=steps, shift_weight=0.005),
        "rejection": lambda: Rejection(critic, candidates=budget),
        "rejection, then the sphere": lambda: Rejection(
            critic, candidates=budget // 2, otherwise=half
        ),
        "the default, on the sphere": lambda: SphericalAscent(critic, steps=steps),
    }


def main(flags: Flags) -> None:
    where = {"pretrained_model_name_or_path": flags.pipeline, "steps": flags.steps}
    decoder = latentctl.load("diffusers-pipeline", **where, checkpointing=False)
    bench = Bench(decoder, flags.count, flags.output_dir)
    report({"name": "the pipeline", **bench.known})
    made = methods(bench, flags)
    for seed in flags.seeds:
        rows = [
            bench.measure(name, make(), seed)
            for name, make in made.items()
            if not flags.only or name in flags.only
        ]
        write(flags.output_dir / f"digits-{seed}.json", {"rows": rows, "known": bench.known})
    runs = [result["rows"] for result in read(flags.output_dir, "digits-*.json")]
    print(table(by_name(runs)))


if __name__ == "__main__":
    run(main, Flags)

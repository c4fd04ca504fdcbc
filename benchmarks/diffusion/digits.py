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

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import latentctl
from benchmarks.digits.conditional import NAMES
from benchmarks.shared.base import load_weights, pixels
from benchmarks.shared.digits import DigitJudge, LeNet, load_mnist
from benchmarks.shared.run import BaseFlags, Row, Seconds, by_name, read, report, run, table, write
from latentctl import Ascent, PixelCritic
from latentctl.controllers import Controller, Move, Rejection, Request, SphericalAscent
from latentctl.display.picture import grid, png
from latentctl.latents import shared_pattern, typicality
from latentctl.random import seeded
from latentctl.training import Step, train

OWN = 1000  # samples of the pipeline itself, for its accuracy and diversity
SHOWN = 10
GRADIENT = 3  # evaluations that a gradient counts as


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


class BestOf(Controller):
    """The likeliest of several prior samples."""

    def __init__(self, critic: PixelCritic, count: int) -> None:
        super().__init__()
        self.attributes = critic
        self.draw = Rejection(critic, candidates=count)

    def search(self, z: Tensor, request: Request) -> Move:
        never = Request(**{**vars(request), "threshold": 1 + 1e-9})
        return self.draw.search(z, never)


class Reno(Controller):
    """ReNO's loop: SGD with a clipped gradient, a price on the norm, and the best iterate."""

    def __init__(self, critic: PixelCritic, steps: int) -> None:
        super().__init__()
        self.attributes, self.steps = critic, steps

    def search(self, z: Tensor, request: Request) -> Move:
        noise = z.clone().requires_grad_()
        optimizer = torch.optim.SGD([noise], lr=5.0, momentum=0.9, nesterov=True)
        best, least = z.clone(), torch.full((len(z),), torch.inf)
        for _ in range(self.steps):
            with torch.enable_grad():
                assert self.attributes is not None and request.target is not None
                logits, wanted = self.attributes(noise), request.target
                reward = F.logsigmoid(torch.where(wanted > 0.5, logits, -logits))
                size = noise.flatten(1).norm(dim=1)
                norm = size.square() / 2 - (noise[0].numel() - 1) * size.log()
                loss = -reward.nan_to_num().where(~wanted.isnan(), 0).sum(1) + 0.01 * norm
                optimizer.zero_grad()
                loss.sum().backward()
            better = loss.detach() < least
            best[better], least[better] = noise.detach()[better], loss.detach()[better]
            each = noise.grad.flatten(1).norm(dim=1).clamp_min(1e-9)  # type: ignore[union-attr]
            noise.grad *= (0.1 / each).clamp(max=1).view(-1, 1, 1, 1)  # type: ignore[operator]
            optimizer.step()
        return Move(best, torch.full((len(z),), self.steps, dtype=torch.long))


class Bench:
    """The pipeline, the networks and the diversity of the pipeline's own samples."""

    def __init__(self, flags: Flags) -> None:
        self.flags, self.seconds = flags, Seconds()
        where = {"pretrained_model_name_or_path": flags.pipeline, "steps": flags.steps}
        self.decoder = latentctl.load("diffusers-pipeline", **where, checkpointing=False)
        self.judge = load_weights(LeNet(), "mnist_lenet")
        train = load_mnist()["train"]
        file = flags.output_dir / "network.safetensors"
        network = Digits.fit(train.images, train.labels, file)
        self.critic = PixelCritic(self.decoder, network)
        self.own, self.known = self._own()

    def _own(self) -> tuple[list[float], Row]:
        """Mean distances within each digit of the pipeline's own samples, and what they are."""
        z = self.decoder.prior.sample(OWN, seed=1000)
        x = self.decoder.decode(z, batch_size=100)
        features = self.judge.features((x + 1) / 2)
        digits, called = self.judge.digits(features), self.critic.score_samples(x).argmax(1)
        spread = [torch.pdist(features[digits == d]).mean().item() for d in range(10)]
        agree = (digits == called).float().mean().item()
        share = [(digits == d).float().mean().item() for d in range(10)]
        return spread, {"the two networks agree": agree, "least share of a digit": min(share)}

    def measure(self, name: str, controller: Controller | None, seed: int) -> Row:
        count = self.flags.count
        digits = latentctl.condition(self.decoder, self.critic, controller)
        y = torch.eye(10).repeat_interleave(count, 0)
        out = self.seconds.measure(name, digits.sample, len(y), y=y, seed=seed)
        wanted = torch.arange(10).repeat_interleave(count)
        features = self.judge.features((out.x + 1) / 2)
        climbed = (out.probability.argmax(1) == wanted).float().mean().item()
        groups = features.unflatten(0, (10, count))
        spread = [torch.pdist(g).mean().item() / own for g, own in zip(groups, self.own)]  # noqa: B905
        accuracy = (self.judge.digits(features) == wanted).float().mean().item()
        fine = self.decoder.render(out.z, 20, batch_size=100)
        finer = self.judge.digits(self.judge.features((fine + 1) / 2))
        self._save(f"{name.replace(' ', '-')}-{seed}", out.x, count)
        return report(
            {
                "name": name,
                "accuracy": accuracy,
                "gap": climbed - accuracy,
                "in 20 steps": (finer == wanted).float().mean().item(),
                "diversity": fmean(spread),
                "least diversity": min(spread),
                "white": (typicality(out.z) >= 0.01).float().mean().item(),
                "shared": min(shared_pattern(z) for z in out.z.unflatten(0, (10, count))),
                "evaluations": out.evaluations.float().mean().item(),
                "seconds a sample": self.seconds[name] / len(y),
            }
        )

    def _save(self, name: str, x: Tensor, count: int) -> None:
        some = x.unflatten(0, (10, count))[:, :SHOWN].flatten(0, 1)
        picture = png(grid(some, columns=min(SHOWN, count), value_range=(-1.0, 1.0)))
        (self.flags.output_dir / f"{name}.png").write_bytes(picture)


def methods(critic: PixelCritic, budget: int) -> dict[str, Callable[[], Controller | None]]:
    """The controllers at one number of evaluations."""
    steps = budget // GRADIENT
    half = SphericalAscent(critic, steps=steps // 2)
    return {
        "best of N": lambda: BestOf(critic, budget),
        "ReNO": lambda: Reno(critic, steps),
        "ascent by Adam": lambda: Ascent.for_edits(critic, steps=steps, shift_weight=0.005),
        "rejection": lambda: Rejection(critic, candidates=budget),
        "rejection, then the sphere": lambda: Rejection(
            critic, candidates=budget // 2, otherwise=half
        ),
        "the default, on the sphere": lambda: SphericalAscent(critic, steps=steps),
    }


def main(flags: Flags) -> None:
    bench = Bench(flags)
    report({"name": "the pipeline", **bench.known})
    for seed in flags.seeds:
        made = methods(bench.critic, flags.budget)
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

"""What `knowledge` measures and draws at the end, with the paper's figures beside ours."""

from __future__ import annotations

__all__ = ["answers", "measure", "pictures", "same", "write"]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.flow_decoder import PixelFlow
from torch import Tensor

from latentctl import KnowledgeBase
from latentctl.conditional.picture import grid, png
from latentctl.random import noise

from ..report import Report

PAPER = {  # Livne & Fleet (2018), table of figure 3, in bits per dimension
    "prior": (5.14, 5.14),
    "data set": (3.56, 3.75),
    "digit": (2.34, None),
}
OTHERS = {"NICE": 4.39, "RealNVP": 1.94, "MAF MoG": 1.51, "MADE MoG": 1.39}  # quoted there
WALKED = (3, 4, 7)  # digits whose characteristic is walked
REACH = 2.0  # of the walk, in standard deviations of p(C)
TILES = 16
BATCH = 500


def answers(base: KnowledgeBase, z: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Everything that each knowledge says of `z`, and its samples at fixed seeds."""
    with torch.no_grad():
        return {k.name: (k(z), k.log_prob(z), k.code(z), k.sample(4)) for k in base}


def same(before: Mapping[str, tuple[Tensor, ...]], after: Mapping[str, tuple[Tensor, ...]]) -> bool:
    """Whether all older answers are what they were, bit for bit."""
    pairs = ((a, b) for name in before for a, b in zip(before[name], after[name], strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


@torch.no_grad()
def measure(
    model: PixelFlow, base: KnowledgeBase, x: Tensor, labels: Tensor, seed: int
) -> dict[str, Any]:
    """Bits per dimension and accuracy on test images.

    Arguments:
        model: The prior.
        base: All knowledge.
        x: Images in bytes.
        labels: One column for each knowledge, in the order of `base.names`.
        seed: Of the uniform draw in each bin.
    """
    x = x.float() / 255
    u = noise(0, len(x), model.sample_shape, seed=seed, purpose="test grids", uniform=True).to(x)
    prior = model.bits_per_dimension(x, u).cpu()
    odds = torch.cat([base(model.dequantise(x[i], u[i])) for i in _parts(len(x))]).cpu()
    rows: dict[str, Tensor] = {}
    for i, name in enumerate(base.names):
        chosen = (labels[:, i] > 0.5).nonzero()[:, 0]
        rows[name] = chosen
        at = chosen.to(x.device)
        if len(at):
            rows[f"{name} bits"] = model.bits_per_dimension(x[at], u[at], base[name].log_prob).cpu()
    digits = [name for name in base.names if name.startswith("digit_")]
    first = base.names.index(digits[0])
    mnist, omniglot = rows["mnist"], rows["omniglot"]
    own = torch.cat([rows[f"{name} bits"] for name in digits if f"{name} bits" in rows])
    guess = odds[mnist, first : first + 10].argmax(1)
    truth = labels[mnist, first : first + 10].argmax(1)
    right = ((odds > 0) == (labels > 0.5)).float().mean(0)
    sizes = {"mnist": len(mnist), "omniglot": len(omniglot)}
    return {
        "test_images": sizes,
        "bits_per_dimension": {
            "prior_mnist": prior[mnist].mean().item(),
            "prior_omniglot": prior[omniglot].mean().item(),
            "data_set_mnist": rows["mnist bits"].mean().item(),
            "data_set_omniglot": rows["omniglot bits"].mean().item(),
            "digit_mnist": own.mean().item(),
            "pixel_histogram_mnist": _histogram(model, x[mnist.to(x.device)]),
            "pixel_histogram_omniglot": _histogram(model, x[omniglot.to(x.device)]),
        },
        "bits_per_dimension_of_each_digit": {
            name: rows[f"{name} bits"].mean().item() for name in digits if f"{name} bits" in rows
        },
        "accuracy_of_ten_digits": (guess == truth).float().mean().item(),
        "accuracy": dict(zip(base.names, right.tolist(), strict=True)),
    }


def _parts(count: int) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def _histogram(model: PixelFlow, x: Tensor) -> float:
    """What the histogram of the training pixels alone costs, each pixel coded by itself."""
    share = model.levels.double() / model.levels.double().sum()
    return -share[(255 * x).round().long()].log2().mean().item()


@torch.no_grad()
def pictures(model: PixelFlow, base: KnowledgeBase, seed: int) -> dict[str, tuple[bytes, str]]:
    """Sheets of samples as PNG, and what each shows."""
    digits = [name for name in base.names if name.startswith("digit_")]

    def sheet(z: Tensor, columns: int) -> bytes:
        x = torch.nn.functional.interpolate(model.image(z), scale_factor=2)
        return png(grid(x, columns=columns, margin=1))

    def asked(present: list[str], absent: list[str] | None = None) -> bytes:
        return sheet(base.sample(TILES, present=present, absent=absent or [], seed=seed), 8)

    columns = [base[name].sample(8, seed=seed) for name in digits]
    shown = {
        "prior": (sheet(model.flow.sample(2 * TILES, seed=seed), 8), "The frozen prior."),
        "mnist": (sheet(base["mnist"].sample(2 * TILES, seed=seed), 8), "`mnist` present."),
        "omniglot": (
            sheet(base["omniglot"].sample(2 * TILES, seed=seed), 8),
            "`omniglot` present, added last.",
        ),
        "digits": (
            sheet(torch.stack(columns, 1).flatten(0, 1), len(digits)),
            "Each digit's knowledge, 0 to 9 from left to right; 9 was added later.",
        ),
        "two": (asked(["mnist", "digit_3"]), "`mnist` and `digit_3` present."),
        "absence": (
            asked(["mnist"], digits[:5]),
            "`mnist` present, and the digits 0 to 4 absent.",
        ),
    }
    size = base["mnist"].density.size
    steps = torch.linspace(-REACH, REACH, 9)
    for digit in WALKED:
        rows = []
        for axis in range(size):
            for step in steps:
                c = torch.zeros(1, size)
                c[0, axis] = step
                rows.append(base[f"digit_{digit}"].sample(1, seed=seed, c=c))
        shown[f"walk_{digit}"] = (
            sheet(torch.cat(rows), len(steps)),
            f"`digit_{digit}`: each row walks one dimension of C from {-REACH:g} to {REACH:g}, the "
            f"noise being the same.",
        )
    return shown


def write(
    path: Path, results: dict[str, Any], shown: Mapping[str, tuple[bytes, str]], flags: Any
) -> None:
    """The report, one file that loads nothing."""
    bits, sizes = results["bits_per_dimension"], results["test_images"]
    report = Report(
        "Knowledge over a frozen flow of pixels",
        "MNIST and Omniglot, 32 x 32: one prior, twelve knowledge types added to it one at a time.",
    )
    report.section(
        "Bits per dimension",
        f"Lower is better. {sizes['mnist']:,} MNIST and {sizes['omniglot']:,} Omniglot test "
        f"images, padded with black, dequantised by one uniform draw. The data set's and the "
        f"digit's rows give each image to its own knowledge, whose likelihood is a lower bound, "
        f"so that its bits are an upper bound. The padding is counted, as in the paper, and is "
        f"cheap: of 28 x 28 images in 32 x 32, bits for each inner pixel are up to 1.31 times as "
        f"many. The rivals' figures may be of images without padding.\n\nA perfect prior of both "
        f"data sets would gain about log2(20) / 1024 = {math.log2(20) / 1024:.4f} bits per "
        f"dimension from the label of a digit. **Whatever is gained beyond that was missing in the "
        f"prior**, and is model that the knowledge adds.",
    )
    ours = {
        "prior": ("prior_mnist", "prior_omniglot"),
        "data set": ("data_set_mnist", "data_set_omniglot"),
        "digit": ("digit_mnist", ""),
    }
    rows: list[list[object]] = [
        [f"TzK, {name}", bits[keys[0]], bits.get(keys[1]), *PAPER[name]]
        for name, keys in ours.items()
    ]
    rows += [[name, None, None, value, None] for name, value in OTHERS.items()]
    alone = [bits["pixel_histogram_mnist"], bits["pixel_histogram_omniglot"]]
    rows.append(["histogram of pixels alone", *alone, None, None])
    gains = {name: bits["prior_mnist"] - bits[keys[0]] for name, keys in ours.items()}
    report.table(
        ["model", "MNIST", "Omniglot", "paper, MNIST", "paper, Omniglot"],
        rows,
        caption=f"Gain over the frozen prior on MNIST: {gains['data set']:.3f} by the data set "
        f"(paper 1.58), {gains['digit']:.3f} by the digit (paper 2.80); on Omniglot "
        f"{bits['prior_omniglot'] - bits['data_set_omniglot']:.3f} (paper 1.39). NICE, RealNVP, "
        f"MAF and MADE are quoted from the paper's table.",
    )
    report.section(
        "Presence",
        f"The digit of the highest log-odds is right in "
        f"{100 * results['accuracy_of_ten_digits']:.1f} % of MNIST's test images.",
    )
    each, seconds = results["bits_per_dimension_of_each_digit"], results["seconds_to_add"]
    report.table(
        ["knowledge", "accuracy", "bits per dimension", "seconds to add"],
        [
            [name, value, each.get(name), seconds[name]]
            for name, value in results["accuracy"].items()
        ],
    )
    report.section(
        "Online",
        "Two were added to a base that was in use. Log-odds, likelihoods, code_size and "
        "samples of every older knowledge, before and after:",
    )
    unchanged = results["older_answers_bit_identical"]
    report.table(
        ["added", "older answers bit-identical"],
        [[name, "met" if value else "missed"] for name, value in unchanged.items()],
    )
    report.section("Samples", "Drawn with a fixed seed, not chosen.")
    for picture, caption in shown.values():
        report.picture(picture, caption)
    report.settings(flags)
    report.save(path)

"""Samples with and without classes that exclude each other, by knowledge over a frozen VAE.

    python -m benchmarks.digits.classes --data_dir FASHION --seed 0
    LATENTCTL_DATA=... python -m benchmarks.digits.classes --seed 0

`--data_dir` is a folder of labelled images of 28 x 28 in ten classes, such as Fashion-MNIST as
Debian's package `dataset-fashion-mnist` has it (/usr/share/datasets/fashion-mnist): a small VAE and
a classifier, the judge, are trained on it here, once for all seeds. Without it the base is the
pretrained VAE of MNIST digits, and the judge the pretrained LeNet (`LATENTCTL_DATA`).

Ten knowledge types are added to a coupling flow with the default settings, from 20,000 encodings,
and sampled twice: as independent types over the plain prior, and declared exclusive and exhaustive,
with the ratio of the data's density to the prior's. Judged are samples of each class, and samples
without 2, 5 and 8 random classes (ten requests each): the share called one of the absent classes,
and the effective number of the other classes, exp(entropy), as a share of all the others. The rows
of test images are the judge's own errors at requests of the same classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import latentctl
from benchmarks.shared.base import decode, encode, load_weights
from benchmarks.shared.digits import DigitJudge, LeNet, MnistVAE, load_mnist, mnist_decoder
from benchmarks.shared.run import Row, SeededFlags, report, run, timed, write
from latentctl import KnowledgeBase, LatentFlow
from latentctl.random import generator, permutation, seeded
from latentctl.training import Step, train
from recipes.support.images import ImageFlags, Images, load_images

NAMES = tuple(f"class_{n}" for n in range(10))
ABSENT = (2, 5, 8)
REQUESTS = 10  # of each size
JUDGED = 3000  # test images

Judge = Callable[[Tensor], Tensor]


@dataclass
class Flags(SeededFlags):
    data_dir: str | None = None  # A folder of labelled images; MNIST and others' networks if not.
    vae_train_steps: int = 2000  # Steps of the VAE, where one is trained.
    train_samples: int = 20000  # Images whose encodings are learned from.
    flow_train_steps: int = 600
    count: int = 100  # Samples of each request.
    output_dir: Path = Path("outputs/classes")


def digits() -> tuple[latentctl.Decoder, Judge, dict[str, Images]]:
    """The pretrained networks of others."""
    lenet = load_weights(LeNet(), "mnist_lenet")
    return mnist_decoder(), lambda x: lenet.digits(lenet.features(x)), load_mnist()


def trained(flags: Flags) -> tuple[latentctl.Decoder, Judge, dict[str, Images]]:
    """A VAE and a judge of these images, trained here if the folder does not hold them."""
    sets = load_images(ImageFlags(train_data_dir=flags.data_dir))
    train, folder = sets["train"], flags.output_dir
    judge = DigitJudge.fit(train.images, train.labels, folder / "judge.safetensors")
    vae = fit_vae(train, folder / "vae.safetensors", flags.vae_train_steps)

    @torch.no_grad()
    def classes(x: Tensor) -> Tensor:
        return torch.cat([judge(part).argmax(1) for part in x.split(500)])

    return latentctl.wrap(vae, latent_shape=(20,), value_range=(0.0, 1.0)), classes, sets


def fit_vae(images: Images, file: Path, steps: int) -> MnistVAE:
    """The VAE of `file` if there is one, or a new one, which is written there."""
    with seeded(0, "vae"):
        vae = MnistVAE()

    def loss(rows: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x = images.pixels(rows)
        q = vae.encode(x)
        redrawn = vae.decode(q.mean + q.stddev * step.normal(20))
        divergence = 0.5 * (q.mean**2 + q.stddev**2 - 1) - q.stddev.log()
        return F.binary_cross_entropy(redrawn, x) * 784 + divergence.sum(1).mean(), {}

    if file.is_file():
        vae.load_state_dict(load_file(str(file)))
        return vae
    options = {"max_train_steps": steps, "batch_size": 128, "learning_rate": 2e-3}
    rows = torch.arange(len(images))
    train(vae, loss, rows, name="vae", lr_scheduler="cosine", **options)
    save_file(vae.state_dict(), str(file))
    return vae


def share(found: Tensor, classes: list[int]) -> float:
    """The share of judged samples that are of these classes."""
    return torch.isin(found, torch.tensor(classes)).float().mean().item()


def requests(size: int, seed: int) -> list[list[int]]:
    """The absent classes of each request."""
    orders = (permutation(10, seed=seed, epoch=n, purpose="absent") for n in range(REQUESTS))
    return [order[:size].tolist() for order in orders]


def of_test_images(name: str, found: Tensor, truth: Tensor, seed: int) -> Row:
    """The judge's errors on images that have what is asked."""
    row: Row = {"name": name, "right": (found == truth).float().mean().item()}
    for size in ABSENT:
        kept = [(found[~torch.isin(truth, torch.tensor(a))], a) for a in requests(size, seed)]
        row[f"{size} absent"] = fmean(share(rows, absent) for rows, absent in kept)
    return row


def of_samples(name: str, base: KnowledgeBase, draw: Judge, flags: Flags) -> Row:
    """The same of samples, and how evenly they are of the classes that were not excluded."""
    options = {"count": flags.count, "seed": flags.seed}
    each = [draw(base.sample(present=[one], **options)) for one in NAMES]
    row: Row = {"name": name, "right": fmean(share(x, [k]) for k, x in enumerate(each))}
    for size in ABSENT:
        shares, effective = [], []
        for absent in requests(size, flags.seed):
            found = draw(base.sample(absent=[NAMES[k] for k in absent], **options))
            shares.append(share(found, absent))
            others = [k for k in range(10) if k not in absent]
            p = torch.bincount(found, minlength=10)[others].float()
            entropy = torch.distributions.Categorical(p + 1e-6).entropy()
            effective.append(entropy.exp().item() / len(others))
        row[f"{size} absent"], row[f"others of {size}"] = fmean(shares), fmean(effective)
    return row


def main(flags: Flags) -> None:
    decoder, judge, sets = trained(flags) if flags.data_dir else digits()
    some = permutation(len(sets["train"]), seed=flags.seed, epoch=0)[: flags.train_samples]
    labels = F.one_hot(sets["train"].labels[some], 10).float()
    latents = encode(decoder, sets["train"].images[some], labels, NAMES)
    test = Images(sets["test"].images[:JUDGED], sets["test"].labels[:JUDGED])

    def draw(z: Tensor) -> Tensor:
        return judge(decode(decoder, z))

    q = encode(decoder, test.images)
    eps = torch.randn(q.mean.shape, generator=generator(flags.seed, purpose="eps"))
    found = {"images": judge(test.pixels()), "reconstructions": draw(q.mean)}
    found["samples of posteriors"] = draw(q.sample(eps))
    rows = [of_test_images(n, x, test.labels, flags.seed) for n, x in found.items()]
    for row in rows:
        report(row)
    sizes = {"width": 256, "max_train_steps": flags.flow_train_steps}
    base = KnowledgeBase(LatentFlow.fit(latents, **sizes, seed=flags.seed), decoder.latent_shape)
    seconds = fmean(timed(base.add, name, latents, seed=flags.seed)[1] for name in NAMES)
    alone = [draw(base[name].sample(flags.count, seed=flags.seed)) for name in NAMES]
    right = fmean(share(x, [k]) for k, x in enumerate(alone))
    rows.append(report({"name": "Knowledge.sample", "right": right, "seconds": seconds}))
    realism, base.realism = base.realism, None
    rows.append(report(of_samples("independent, plain prior", base, draw, flags)))
    base.realism = realism
    base.declare_exclusive(NAMES, exhaustive=True)
    rows.append(report(of_samples("exclusive, with the ratio", base, draw, flags)))
    write(flags.output_dir / f"{flags.seed}.json", rows)


if __name__ == "__main__":
    run(main, Flags)

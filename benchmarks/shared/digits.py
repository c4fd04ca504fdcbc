"""MNIST, a pretrained VAE and a pretrained classifier of it by others, and a classifier of our own.

The VAE is a frozen base. The classifiers give the features in which samples of small images are
measured.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Normal

import latentctl
from benchmarks.shared.base import data_folder, load_weights, pixels
from latentctl.random import seeded
from latentctl.training import Step, train
from recipes.support.images import ImageFlags, Images, load_images


class MnistVAE(nn.Module):
    """784-400-20, images and samples in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def encode(self, x: Tensor) -> Normal:
        """The posterior `q(z | x)`, a Normal over `(B, 20)`."""
        h = self.fc1(x.flatten(1)).relu()
        return Normal(self.fc21(h), (0.5 * self.fc22(h)).exp())

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, 1, 28, 28)` of latents `(B, 20)`."""
        return torch.sigmoid(self.fc4(self.fc3(z).relu())).unflatten(1, (1, 28, 28))


def mnist_decoder() -> latentctl.Decoder:
    """The pretrained autoencoder of digits, wrapped and frozen."""
    model = load_weights(MnistVAE(), "mnist_vae")
    return latentctl.wrap(model, latent_shape=(20,), value_range=(0.0, 1.0))


def load_mnist() -> dict[str, Images]:
    """The splits `train` and `test`."""
    return load_images(ImageFlags(str(data_folder() / "mnist")))


class LeNet(nn.Module):
    """LeNet-5, with pretrained weights from `LATENTCTL_DATA/../weights/mnist_lenet`: the judge."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"c1": (1, 6), "c3": (6, 16), "c5": (16, 120)}
        self.convnet = nn.ModuleDict({k: nn.Conv2d(a, b, 5) for k, (a, b) in sizes.items()})
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})

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


class DigitJudge(nn.Module):
    """Two convolutions and two linear layers; `features (B, 128)` are what the last one reads."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU()),
        )
        self.head = nn.Linear(128, classes)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out

    @classmethod
    def fit(cls, images: Tensor, labels: Tensor, file: Path, *, epochs: int = 2) -> DigitJudge:
        """The judge of `file` if there is one, or a new one, which is written there."""
        with seeded(0, "judge"):
            judge = cls(images.shape[1], images.shape[2], int(labels.max()) + 1)
        if file.is_file():
            judge.load_state_dict(load_file(str(file)))
            return judge.eval()

        def loss(rows: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            return F.cross_entropy(judge(pixels(images[rows])), labels[rows]), {}

        train(
            judge,
            loss,
            torch.arange(len(images)),
            name="judge",
            learning_rate=2e-3,
            max_train_steps=epochs * len(images) // 128,
            batch_size=128,
            lr_scheduler="cosine",
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(judge.state_dict(), str(file))
        return judge

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images, bytes or floats in [0, 1], whose class is found."""
        found = [self(pixels(x)).argmax(1) for x in images.split(500)]
        return (torch.cat(found) == labels).float().mean().item()

"""The frozen base of the face benchmarks, and the real faces that they are measured on.

The variational autoencoder is a pretrained network of others (64x64 faces, latent 256, pixel
likelihood N(x; decode(z), 0.1)). It is rebuilt here only so that its weights can be loaded: the
library itself treats it as any foreign module with `encode` and `decode`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Normal

import latentctl
from benchmarks.shared.base import data_folder, load_weights
from recipes.support.faces import PAPER_ATTRIBUTES as ATTRIBUTES
from recipes.support.faces import Faces


class Residual(nn.Module):
    """`x + Conv3x3(SiLU(GroupNorm(x)))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.n = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.n(x)


class FaceVAE(nn.Module):
    """Convolutional autoencoder `(B, 3, 64, 64)` in [0, 1] to a Gaussian over `(B, 256)`."""

    def __init__(self) -> None:
        super().__init__()
        sizes = list(itertools.pairwise((3, 32, 64, 128, 256)))
        down = [(nn.Conv2d(a, b, 4, 2, 1), Residual(b)) for a, b in sizes]
        up = [(nn.ConvTranspose2d(b, a, 4, 2, 1), Residual(a)) for a, b in sizes[:0:-1]]
        self.encoder = nn.Sequential(
            *itertools.chain(*down),
            *(nn.GroupNorm(8, 256), nn.SiLU(), nn.Flatten(), nn.Linear(4096, 512)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(256, 4096), nn.Unflatten(1, (256, 4, 4)), Residual(256)),
            *itertools.chain(*up),
            *(nn.GroupNorm(8, 32), nn.SiLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)),
        )

    def encode(self, x: Tensor) -> Normal:
        """The posterior `q(z | x)`, a Normal over `(B, 256)`."""
        mean, raw = self.encoder(x).chunk(2, dim=1)
        return Normal(mean, nn.functional.softplus(raw) + 1e-4)

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, 3, 64, 64)` in [0, 1] of latents `(B, 256)`."""
        return torch.sigmoid(self.decoder(z))


def load_face_vae() -> FaceVAE:
    """The pretrained face autoencoder."""
    return load_weights(FaceVAE(), "face_vae")


def face_decoder() -> latentctl.Decoder:
    """The pretrained face autoencoder, wrapped."""
    return latentctl.wrap(load_face_vae())


@functools.cache
def columns_of(split: str) -> dict[str, Tensor]:
    """Images, identity numbers and all labels of one split, held in memory."""
    import datasets  # not by benchmarks that need the networks alone

    realigned = split == "realigned"
    folder = data_folder() / ("celeba64_realigned_test" if realigned else "celeba64")
    rows = datasets.load_dataset(str(folder), split="test" if realigned else split)
    rows = rows.with_format("torch")
    return {key: values for key, values in rows[:].items() if key != "file_name"}


def load_faces(split: str, attributes: Sequence[str] = ATTRIBUTES) -> tuple[Tensor, Tensor, Tensor]:
    """Real faces: bytes `(N, 3, 64, 64)`, labels `(N, K)` in {0, 1}, identity numbers `(N,)`.

    Splits are `train`, `validation`, `test` (no person is in two of them) and `realigned`, the
    re-aligned crops of other people. The images are shared between calls: do not write into them.
    """
    columns = columns_of(split)
    labels = torch.stack([columns[name].float() for name in attributes], dim=1)
    return columns["image"], labels, columns["identity"]


def encoded_faces(cache: Path) -> tuple[latentctl.Decoder, latentctl.Latents, Faces]:
    """The decoder, encodings of the training faces and their mirror images, and the test faces."""
    train, test = (Faces(*load_faces(split)[:2], ATTRIBUTES) for split in ("train", "test"))
    decoder = face_decoder()
    latents = latentctl.encode_dataset(
        decoder, train.mirrored(), cache, attributes=ATTRIBUTES, batch_size=128
    )
    return decoder, latents[:], test  # 14,150 x 256 numbers, in memory

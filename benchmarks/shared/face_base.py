"""The frozen base of the face benchmarks and the real faces that they are measured on.

The variational autoencoder is somebody else's pretrained network (64x64 faces, latent 256,
pixel likelihood N(x; decode(z), 0.1)). It is rebuilt here only so that its weights can be loaded:
the library itself treats it as any foreign module with `encode` and `decode`.

Data and weights are read from the folder in the environment variable `LATENTCTL_DATA`
(`celeba64/`, `celeba64_realigned_test/`, ...; the weights lie in `../weights` of it). CelebA is
for non-commercial research only, so neither images nor weights are part of this project.
"""

from __future__ import annotations

__all__ = ["ATTRIBUTES", "FaceVAE", "data_folder", "load_face_vae", "load_faces", "reconstruct"]

import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from latentctl.errors import InputError, UnknownNameError

ATTRIBUTES = (
    "Bald",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Eyeglasses",
    "Male",
    "No_Beard",
    "Smiling",
    "Wearing_Hat",
    "Young",
)
SPLITS = {
    "train": "celeba64/train",
    "validation": "celeba64/validation",
    "test": "celeba64/test",
    "realigned": "celeba64_realigned_test/test",
}


def data_folder() -> Path:
    """The folder named by `LATENTCTL_DATA`."""
    value = os.environ.get("LATENTCTL_DATA")
    if not value or not Path(value).is_dir():
        raise InputError(
            f"LATENTCTL_DATA should name the folder that holds celeba64/, found {value!r}. "
            "Set it to your copy of the data and run again."
        )
    return Path(value)


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

    def __init__(self, width: int = 32, latent: int = 256) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width]
        encoder: list[nn.Module] = []
        for before, after in zip([3, *sizes[:-1]], sizes, strict=True):
            encoder += [nn.Conv2d(before, after, 4, 2, 1), Residual(after)]
        self.encoder = nn.Sequential(
            *encoder,
            nn.GroupNorm(8, sizes[-1]),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * sizes[-1], 2 * latent),
        )
        decoder: list[nn.Module] = [
            nn.Linear(latent, 16 * sizes[-1]),
            nn.Unflatten(1, (sizes[-1], 4, 4)),
            Residual(sizes[-1]),
        ]
        for before, after in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
            decoder += [nn.ConvTranspose2d(before, after, 4, 2, 1), Residual(after)]
        self.decoder = nn.Sequential(
            *decoder, nn.GroupNorm(8, width), nn.SiLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1)
        )

    def encode(self, x: Tensor) -> Normal:
        """The posterior `q(z | x)`, a Normal over `(B, 256)`."""
        mean, raw = self.encoder(x).chunk(2, dim=1)
        return Normal(mean, nn.functional.softplus(raw) + 1e-4)

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, 3, 64, 64)` in [0, 1] of latents `(B, 256)`."""
        return torch.sigmoid(self.decoder(z))


def load_face_vae(path: str | Path | None = None) -> FaceVAE:
    """The pretrained face autoencoder, float32, in eval mode.

    Arguments:
        path: Folder with `model.safetensors`; `LATENTCTL_DATA/../weights/face_vae` by default.
    """
    from safetensors.torch import load_file

    folder = Path(path) if path is not None else data_folder().parent / "weights" / "face_vae"
    vae = FaceVAE()
    state = load_file(str(folder / "model.safetensors"))
    vae.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    return vae.eval().requires_grad_(False)


@functools.cache
def _table(split: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Decoded images and all label columns of one split, held in memory."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    if split not in SPLITS:
        raise UnknownNameError("split of faces", split, SPLITS)
    folder, prefix = SPLITS[split].split("/")
    files = sorted((data_folder() / folder).glob(f"{prefix}-*.parquet"))
    if not files:
        raise InputError(f"No file {prefix}-*.parquet was found in LATENTCTL_DATA/{folder}.")
    images: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {}
    for file in files:
        table = pq.read_table(file)
        for cell in table.column("image").to_pylist():
            images.append(np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")))
        for name in table.column_names:
            if name not in ("image", "file_name"):
                column = table.column(name).to_numpy(zero_copy_only=False)
                columns.setdefault(name, []).append(column)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, {k: torch.from_numpy(np.concatenate(v)) for k, v in columns.items()}


def load_faces(split: str, attributes: Sequence[str] = ATTRIBUTES) -> tuple[Tensor, Tensor, Tensor]:
    """Real faces of one split.

    Arguments:
        split: `train`, `validation`, `test` (no person is in two of them) or `realigned`, the
            re-aligned crops of other people.
        attributes: CelebA's attribute names, in the order wanted.

    Returns:
        uint8 images `(N, 3, 64, 64)`, float labels `(N, K)` in {0, 1}, identity numbers `(N,)`.
        The images are shared between calls: do not write into them.
    """
    pixels, columns = _table(split)
    known = [name for name in columns if columns[name].dtype == torch.bool]
    for name in attributes:
        if name not in known:
            raise UnknownNameError("attribute", name, known)
    labels = torch.stack([columns[name].float() for name in attributes], dim=1)
    return pixels, labels, columns["identity"].long()


@torch.no_grad()
def reconstruct(vae: FaceVAE, images: Tensor, batch_size: int = 128) -> Tensor:
    """`decode(encode(x).mean)` of uint8 images, float `(N, 3, 64, 64)` in [0, 1]."""
    parts = [vae.decode(vae.encode(x.float() / 255).mean) for x in images.split(batch_size)]
    return torch.cat(parts)

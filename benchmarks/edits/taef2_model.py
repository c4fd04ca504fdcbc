"""A pretrained tiny autoencoder as its user would bring it: a plain module with two methods.

TAEF2 is deterministic, downsamples eight times, has 32 latent channels and 2.7 million weights. It
is rebuilt here only so that its weights can be loaded; `latentctl.wrap` treats it as any foreign
module. Its latents are a grid, `(32, 8, 8)` for faces of 64 pixels, and follow no known prior.

    LATENTCTL_DATA=... python -m benchmarks.edits.taef2_model

prints the reconstruction error on real faces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import latentctl
from benchmarks.shared.base import encode, load_weights, pixels, reconstruct
from benchmarks.shared.face_base import load_faces
from latentctl.decoder import Decoder

WIDTH, LATENT, DOWN = 64, 32, 8


def conv(stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, stride=stride, padding=1, bias=bias)


class Block(nn.Module):
    """`relu(conv(relu(conv(relu(conv(x))))) + x)`, after a normalised bottleneck if `pool`."""

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
        self.pool = None
        if pool:
            wide = nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False), nn.GroupNorm(4, 4 * WIDTH)
            self.pool = nn.Sequential(*wide, nn.ReLU(), nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """`3 tanh(z / 3)`."""

    def forward(self, z: Tensor) -> Tensor:
        return 3 * torch.tanh(z / 3)


class TinyAutoencoder(nn.Module):
    """Images `(B, 3, 8 h, 8 w)` in [0, 1] to latents `(B, 32, h, w)` and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, WIDTH, 3, padding=1), Block()),
            *(conv(2, False), Block(), Block(), Block()),
            *(conv(2, False), Block(), Block(), Block()),
            *(conv(2, False), Block(True), Block(True), Block(True)),
            nn.Conv2d(WIDTH, LATENT, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            *(SoftClamp(), nn.Conv2d(LATENT, WIDTH, 3, padding=1), nn.ReLU()),
            *(Block(True), Block(True), Block(True), nn.Upsample(scale_factor=2), conv(1, False)),
            *(Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(1, False)),
            *(Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(1, False)),
            *(Block(), nn.Conv2d(WIDTH, 3, 3, padding=1)),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Latents `(B, 32, h, w)`."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Images in [0, 1]; the network itself overshoots a little."""
        return self.decoder(z).clamp(0, 1)


def load_taef2() -> TinyAutoencoder:
    """The pretrained autoencoder, float32, frozen."""
    return load_weights(TinyAutoencoder(), "taef2")


def wrap_taef2(side: int = 64) -> Decoder:
    """The frozen decoder of faces of `side` pixels, a multiple of 8."""
    shape = (LATENT, side // DOWN, side // DOWN)
    return latentctl.wrap(load_taef2(), latent_shape=shape, value_range=(0.0, 1.0))


def faces(count: int, side: int = 64, split: str = "test") -> Tensor:
    """The first real faces of a split in [0, 1], enlarged to `side` pixels."""
    x = pixels(load_faces(split)[0][:count])
    if side == x.shape[-1]:
        return x
    size = (side, side)
    return nn.functional.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)


def psnr(found: Tensor, x: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], averaged over them."""
    return float((-10 * torch.log10((found - x).square().flatten(1).mean(1))).mean())


if __name__ == "__main__":
    for side in (64, 128):
        decoder = wrap_taef2(side)
        x = faces(200, side)
        z = encode(decoder, x[:100]).mean
        print(
            f"{side} px: latent {decoder.latent_shape}, mean {z.mean():.3f}, std {z.std():.3f}, "
            f"PSNR {psnr(reconstruct(decoder, x), x):.2f} dB on {len(x)} test faces"
        )

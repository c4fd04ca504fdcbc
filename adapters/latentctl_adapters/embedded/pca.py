"""Principal components as an autoencoder: a small model for examples, fitted in a second."""

from __future__ import annotations

__all__ = ["PCA"]

import math

import torch
from torch import Tensor, nn


class PCA(nn.Module):
    """A linear autoencoder of images, whose latents have mean 0 and variance 1 over the data.

    Arguments:
        shape: Shape of an image, `(C, H, W)`.
        size: Number of components.
    """

    def __init__(self, shape: tuple[int, ...], size: int) -> None:
        super().__init__()
        pixels = math.prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, size))
        layers = nn.Linear(size, pixels), nn.Hardtanh(0, 1), nn.Unflatten(1, shape)
        self.decoder = nn.Sequential(*layers)

    @classmethod
    @torch.no_grad()
    def fit(cls, images: Tensor, size: int = 64) -> PCA:
        """The leading components of images.

        Arguments:
            images: `(N, C, H, W)`, more than `size`: bytes, or floats in [0, 1].
            size: Number of components.

        Example:
            >>> images = torch.rand(20, 3, 8, 8)
            >>> model = PCA.fit(images, 4)
            >>> model.encode(images).shape, model.decode(torch.zeros(2, 4)).shape
            (torch.Size([20, 4]), torch.Size([2, 3, 8, 8]))
        """
        x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        flat = x.flatten(1)
        mean = flat.mean(0)
        _, scale, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        basis, std = basis[:size], scale[:size] / len(x) ** 0.5
        model = cls(tuple(images.shape[1:]), size)
        values = {
            "encoder.1.weight": basis / std[:, None],
            "encoder.1.bias": -(basis @ mean) / std,
            "decoder.0.weight": (basis * std[:, None]).T.contiguous(),
            "decoder.0.bias": mean,
        }
        model.load_state_dict(values)
        return model

    def encode(self, x: Tensor) -> Tensor:
        """The latents `(B, size)` of images `(B, C, H, W)` in [0, 1]."""
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] of latents `(B, size)`."""
        x: Tensor = self.decoder(z)
        return x

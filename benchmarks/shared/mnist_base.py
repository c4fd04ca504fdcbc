"""Somebody else's VAE for MNIST, as a frozen base: its weights are read, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.shared.face_base import data_folder


class MnistVAE(nn.Module):
    """784-400-20, images and samples in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, `(B, 20)` each."""
        h = self.fc1(x.flatten(1)).relu()
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        """Images `(B, 1, 28, 28)` of latents `(B, 20)`."""
        return torch.sigmoid(self.fc4(self.fc3(z).relu())).unflatten(1, (1, 28, 28))


def load_mnist_vae() -> MnistVAE:
    """With the weights in `LATENTCTL_DATA/../weights/mnist_vae`, in evaluation mode."""
    from safetensors.torch import load_file

    model = MnistVAE()
    folder = data_folder().parent / "weights" / "mnist_vae"
    model.load_state_dict(load_file(str(folder / "model.safetensors")))
    return model.eval()

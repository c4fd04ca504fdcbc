"""A small classifier of small images: the feature space in which samples of them are measured."""

from __future__ import annotations

__all__ = ["DigitJudge"]

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentctl.random import seeded
from latentctl.training import Player, Step, fit


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

    def loss(self, rows: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = self.images[rows].float() / 255, self.labels[rows]
        return F.cross_entropy(self.head(self.body(x)), y), {}

    @classmethod
    def fit(cls, images: Tensor, labels: Tensor, file: Path, *, epochs: int = 2) -> DigitJudge:
        """The judge of `file` if there is one, or a new one, which is written there."""
        from safetensors.torch import load_file, save_file

        with seeded(0, "judge"):
            judge = cls(images.shape[1], images.shape[2], int(labels.max()) + 1)
        if file.is_file():
            judge.load_state_dict(load_file(str(file)))
            return judge.eval()
        judge.images, judge.labels = images, labels
        player = Player("judge", judge, judge.loss, torch.optim.Adam(judge.parameters(), 2e-3))
        fit(
            player,
            torch.arange(len(images)),
            max_train_steps=epochs * len(images) // 128,
            batch_size=128,
            lr_scheduler="cosine",
            progress=False,
        )
        del judge.images, judge.labels
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(judge.state_dict(), str(file))
        return judge.eval()

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        parts = zip(images.split(500), labels.split(500), strict=True)
        right = [self.head(self.body(x.float() / 255)).argmax(1) == y for x, y in parts]
        return torch.cat(right).float().mean().item()

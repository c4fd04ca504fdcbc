"""Data augmentation with blur, noise and colour, in batched tensor operations.

Every draw of an image is a function of the step and of its row in the batch. The cost
is about a tenth of the small network's.
"""

from __future__ import annotations

__all__ = ["augment_images"]

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from latentctl.random import generator
from latentctl.training import Step


def augment_images(x: Tensor, step: Step) -> Tensor:
    """A random view of each image: place, colour, sharpness and noise.

    Mirrored (half), shifted, scaled and turned a little (half), recoloured; then one of untouched
    (three tenths), Gaussian blur (four tenths) or lowered resolution (three tenths); then pixel
    noise (half).

    Arguments:
        x: Images `(B, C, H, W)` in [0, 1].
        step: The step, whose rows are the images.

    Returns:
        Images of the same shape in [0, 1].

    References:
        | Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
          (Hendrycks and Dietterich, 2019)
        | https://arxiv.org/abs/1903.12261
    """
    numbers = itertools.count()

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * step.uniform(1, 1, 1, purpose=f"view {next(numbers)}")

    x = torch.where(uniform(0, 1) < 0.5, x.flip(-1), x)

    angle, scale = uniform(-0.1, 0.1), uniform(0.92, 1.08)
    row = torch.cat([scale * angle.cos(), scale * angle.sin(), uniform(-0.1, 0.1)], -1)
    other = torch.cat([-scale * angle.sin(), scale * angle.cos(), uniform(-0.1, 0.1)], -1)
    grid = F.affine_grid(torch.cat([row, other], 2)[:, 0], list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = torch.where(uniform(0, 1) < 0.5, moved, x)

    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.8, 1.2)
    level = x.mean((1, 2, 3), keepdim=True)
    x = level + (x - level) * uniform(0.8, 1.2) + uniform(-0.08, 0.08)

    kind = uniform(0, 1)
    x = torch.where(kind < 0.4, _blur(x, uniform(0.4, 1.8)), x)
    draw = generator(step.seed, step.index, purpose="resolution")  # one for the whole batch
    size = int(x.shape[-1] * (0.3 + 0.5 * float(torch.rand((), generator=draw))))
    small = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    x = torch.where(kind > 0.7, F.interpolate(small, size=x.shape[-2:], mode="bicubic"), x)

    x = x + step.normal(*x.shape[1:], purpose="pixels") * uniform(0, 0.04) * (uniform(0, 1) < 0.5)
    return x.clamp(0, 1)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one `sigma (B, 1, 1, 1)` in pixels for each image."""
    b, c, h, w = x.shape
    offsets = torch.arange(-4, 5, device=x.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma) ** 2, dim=-1).expand(b, c, 1, 9)
    kernel = kernel.reshape(b * c, 1, 1, 9)
    flat = F.pad(x.reshape(1, b * c, h, w), (4, 4, 4, 4), mode="replicate")
    flat = F.conv2d(flat, kernel, groups=b * c)
    return F.conv2d(flat, kernel.transpose(2, 3), groups=b * c).reshape(b, c, h, w)

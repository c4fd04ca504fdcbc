"""What several processes have to agree about: the weights at the start, the means of a step."""

from __future__ import annotations

__all__ = ["mean_over_processes", "same_everywhere"]

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def same_everywhere(accelerator: Accelerator, module: nn.Module) -> None:
    """Copy the weights and buffers of the main process to all others."""
    from accelerate.utils import broadcast

    if accelerator.num_processes > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(broadcast(tensor.clone()))


def mean_over_processes(accelerator: Accelerator, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means of several tensors over all processes, in one exchange.

    One flat buffer costs one round trip instead of one a tensor, and hands every process the very
    same bits, so that all of them decide alike.
    """
    if accelerator.num_processes == 1 or not tensors:
        return list(tensors)
    flat = accelerator.reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), "mean")
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

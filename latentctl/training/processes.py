"""Training on several processes: equal weights at the start, and means over them."""

from __future__ import annotations

__all__ = ["check_launch", "mean_over_processes", "same_everywhere"]

import functools
import logging
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator


logger = logging.getLogger(__name__)


def check_launch(accelerator: Accelerator) -> None:
    """Raises an `InputError` for precisions and kinds of launch that are not supported.

    It is logged, once, where `accelerate launch` was given several processes and started one.
    """
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise InputError(
            f"mixed_precision {accelerator.mixed_precision!r} is not supported: the gradients of "
            'small networks underflow in it. Use "bf16", or "no".'
        )
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise InputError(f"Cannot train under {kind}: launch with plain processes, --multi_gpu.")
    if accelerator.num_processes == 1 and _asked_for_several(os.environ.keys()):
        _say_once(
            "This is one process, although accelerate launch was given several: without "
            "--multi_gpu it starts them under mpirun only. Use accelerate launch --multi_gpu "
            "--num_processes N, on a CPU with ACCELERATE_USE_CPU=true in the environment."
        )


def _asked_for_several(variables: Collection[str]) -> bool:
    # the launcher sets an address for several processes, which it leaves to mpirun to start
    return {"MASTER_ADDR", "ACCELERATE_USE_CPU"} <= set(variables) and "RANK" not in variables


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


@torch.no_grad()
def same_everywhere(accelerator: Accelerator, module: nn.Module) -> None:
    """Copy the weights and buffers of the main process to all others."""
    from accelerate.utils import broadcast

    if accelerator.num_processes > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(broadcast(tensor.clone()))


def mean_over_processes(accelerator: Accelerator, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means of several tensors over all processes, by one reduction of a flat buffer.

    Every process gets the same bits, so that all of them decide alike.
    """
    if accelerator.num_processes == 1 or not tensors:
        return list(tensors)
    flat = accelerator.reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]), "mean")
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

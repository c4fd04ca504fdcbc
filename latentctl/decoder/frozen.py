"""A frozen copy of a model's module tree that shares the model's tensors."""

from __future__ import annotations

__all__ = ["floating_dtype", "frozen_view"]

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AdapterError


def floating_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of the first floating weight or buffer, float32 if there is none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def frozen_view(model: nn.Module) -> nn.Module:
    """A copy of a module tree that shares its tensors, in evaluation mode, without gradients.

    Raises:
        AdapterError: If the model cannot be copied.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> view = frozen_view(model)
        >>> model.training, view.training
        (True, False)
        >>> view[0].weight.data_ptr() == model[0].weight.data_ptr()
        True
        >>> model[0].weight.requires_grad, view[0].weight.requires_grad
        (True, False)
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise AdapterError(
            f"{type(model).__name__} cannot be viewed: its lazy layers have no shapes yet. Run it "
            f"once on a batch, and load its weights, before it is wrapped."
        )
    if any(tensor.is_meta for tensor in tensors):
        raise AdapterError(
            f"{type(model).__name__} cannot be viewed: it has no weights on the device 'meta'. "
            f"Load them first, without init_empty_weights or low_cpu_mem_usage."
        )
    shared: dict[int, Any] = {}
    try:
        for module in model.modules():  # weight norm has a tensor that is neither
            plain = [value for value in vars(module).values() if isinstance(value, Tensor)]
            shared.update({id(value): value.detach() for value in plain})
        for parameter in model.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in model.buffers():
            shared[id(buffer)] = buffer.detach()
        with torch.no_grad():  # the tensors of a TorchScript module are copied
            view = copy.deepcopy(model, shared)
    except Exception as error:
        raise AdapterError(
            f"{type(model).__name__} cannot be viewed without changing it "
            f"({type(error).__name__}: {error}). Remove parametrizations and hooks with state, or "
            f"pass a plain copy of the model."
        ) from error
    return view.eval()

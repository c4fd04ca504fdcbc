"""Conditions of a pipeline as the arguments of its network: prompts, classes, tensors."""

from __future__ import annotations

__all__ = ["Condition", "arguments", "nothing"]

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from latentctl.errors import AdapterError

Condition: TypeAlias = "str | int | Mapping[str, Any] | None"


def arguments(
    pipe: Any, network: Any, condition: Condition, pixels: tuple[int, int]
) -> dict[str, Any]:
    """The arguments of the network, tensors with one row.

    Arguments:
        pipe: The pipeline, which encodes a prompt.
        network: Its network.
        condition: A prompt, the number of a class, the arguments themselves, or None for none.
        pixels: Height and width of the samples, an input of the network of SDXL.

    Raises:
        AdapterError: If the pipeline encodes no prompts.
    """
    if condition is None:
        return {}
    if isinstance(condition, Mapping):
        return dict(condition)
    if isinstance(condition, int):
        return {"class_labels": torch.tensor([condition], device=_device(network))}
    return _prompt(pipe, network, condition, pixels)


def nothing(network: Any) -> Condition:
    """The condition that stands for none: the last class, or the empty prompt."""
    classes = network.config.get("num_embeds_ada_norm")
    return int(classes) if classes is not None else ""


@torch.no_grad()
def _prompt(pipe: Any, network: Any, text: str, pixels: tuple[int, int]) -> dict[str, Any]:
    if not hasattr(pipe, "encode_prompt"):
        raise AdapterError(
            f"{type(pipe).__name__} encodes no prompts. Pass the arguments of its network: "
            f'condition={{"encoder_hidden_states": (1, T, D)}}, or the number of a class.'
        )
    wanted = {
        "prompt": text,
        "prompt_2": None,
        "prompt_3": None,
        "device": _device(network),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
    }
    known = inspect.signature(pipe.encode_prompt).parameters
    found = pipe.encode_prompt(**{key: value for key, value in wanted.items() if key in known})
    found = found if isinstance(found, tuple) else (found,)
    if not text and getattr(pipe.config, "force_zeros_for_empty_prompt", False):  # as SDXL has it
        found = tuple(None if part is None else torch.zeros_like(part) for part in found)
    embedding, *others = found
    result: dict[str, Any] = {"encoder_hidden_states": embedding}
    # SD: negative; SDXL, SD3: negative, pooled, negative pooled; Flux: pooled, places of words
    pooled = others[1] if len(others) == 3 else others[0] if len(others) == 2 else None
    if pooled is None:
        return result
    takes = inspect.signature(network.forward).parameters
    if "pooled_projections" in takes:
        return result | {"pooled_projections": pooled}
    size: Tensor = torch.tensor([[*pixels, 0, 0, *pixels]]).to(pooled)
    return result | {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": size}}


def _device(network: Any) -> torch.device:
    found: torch.device = next(iter(network.parameters())).device
    return found

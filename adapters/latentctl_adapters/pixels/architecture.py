"""Which architectures of timm a saved network may name, and with which options."""

from __future__ import annotations

__all__ = ["OPTIONS", "check_architecture"]

from collections.abc import Mapping
from typing import Any

from latentctl.errors import InputError

# a saved network is untrusted input: of timm's options, those that state sizes
OPTIONS = (
    *("channels", "layers", "base_width", "cardinality", "stem_width", "stem_type", "avg_down"),
    *("act_layer", "global_pool", "img_size", "patch_size", "embed_dim", "depth", "num_heads"),
    *("depths", "dims", "mlp_ratio", "drop_rate", "drop_path_rate"),
)


def check_architecture(timm: Any, model_name: Any, options: Mapping[str, Any]) -> None:
    """Raises unless timm builds the network from its own code, without reading any file."""
    if not isinstance(model_name, str) or not timm.is_model(model_name) or ":" in model_name:
        raise InputError(
            f"{model_name!r} is no architecture of timm (timm.list_models()). For other networks "
            f"use TimmNetwork, or your own network."
        )
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        numbers = all(isinstance(item, int | float) for item in values)
        word = isinstance(value, str) and value.isidentifier()
        if name not in OPTIONS or not (numbers or word):
            raise InputError(
                f"The option {name}={value!r} is not one of {', '.join(OPTIONS)} with numbers or "
                f"a name. For other networks use TimmNetwork, or your own network."
            )

"""The posterior of an encoder, and coding through a flow over the latents."""

from __future__ import annotations

__all__ = ["Posterior", "decode_through", "encode_through"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .frozen import floating_dtype


@dataclass(frozen=True)
class Posterior:
    """Output of an encoder: `mean (B, *latent_shape)`, and `std` or None if deterministic."""

    mean: Tensor
    std: Tensor | None = None

    def sample(self, eps: Tensor) -> Tensor:
        """`mean + std * eps`, or the mean where the encoder is deterministic."""
        return self.mean if self.std is None else self.mean + self.std * eps


def encode_through(pair: Any, x: Tensor, encode: Callable[[Any, Tensor], Posterior]) -> Posterior:
    """The base noise of the mean of `encode`; `pair` holds the `model` and the `flow`."""
    z = encode(pair["model"], x).mean
    return Posterior(pair["flow"].to_base(z.to(floating_dtype(pair["flow"]))))


def decode_through(pair: Any, e: Tensor, decode: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """The samples of base noise; `pair` holds the `model` and the `flow`."""
    z = pair["flow"].from_base(e.to(floating_dtype(pair["flow"])))
    return decode(pair["model"], z.to(floating_dtype(pair["model"])))

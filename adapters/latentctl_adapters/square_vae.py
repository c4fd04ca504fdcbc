"""What VAEs of square images share: the posterior, its KL divergence, the frozen decoder."""

from __future__ import annotations

__all__ = ["kl_divergence", "normal_of", "square_decoder"]

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from latentctl.decoder import Decoder

from .wrapping.outputs import decode_view, encode_view
from .wrapping.pretrained import Pretrained

STD_FLOOR = 1e-4  # keeps the KL finite where softplus underflows


def normal_of(parameters: Tensor) -> Normal:
    """The posterior of an encoder's output `(B, 2 * latent_size)`: means, and stds by softplus."""
    mean, raw = parameters.chunk(2, dim=1)
    return Normal(mean, F.softplus(raw) + STD_FLOOR, validate_args=False)


def kl_divergence(q: Normal) -> Tensor:
    """Mean KL divergence of posteriors over `(B, latent_size)` from N(0, I), in nats."""
    per_dimension = 0.5 * (q.mean**2 + q.stddev**2 - 1) - q.stddev.log()
    mean: Tensor = per_dimension.sum(1).mean()
    return mean


def square_decoder(model: Pretrained, **options: Any) -> Decoder:
    """The frozen decoder of a model whose `config` has `resolution`, `channels`, `latent_size`.

    Arguments:
        model: The model, of images in [0, 1].
        options: As in `latentctl.wrap`.
    """
    if options.keys() - {"prior", "value_range"}:
        from . import torch_module

        return torch_module.wrap(model, **options)
    side, channels = int(model.config["resolution"]), int(model.config["channels"])
    return Decoder(
        model,
        decode_view,
        encode_view,
        latent_shape=(int(model.config["latent_size"]),),
        sample_shape=(channels, side, side),
        value_range=options.get("value_range", (0.0, 1.0)),
        prior=options.get("prior"),
    )

"""Conversion of the outputs of third-party encoders and decoders."""

from __future__ import annotations

__all__ = ["SECONDS", "decode_view", "encode_view", "posterior_of", "sample_of"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentctl.decoder import Posterior
from latentctl.errors import AdapterError

MEANS = ("mean", "mu", "z_mean", "z_mu", "loc", "embedding", "latents", "latent", "z")
STDS = ("std", "stddev", "scale", "sigma")
LOG_VARIANCES = (
    *("logvar", "log_var", "log_variance", "log_covariance"),
    *("z_logvar", "z_log_var", "log_sigma2"),
)
LOG_STDS = ("log_std", "logstd", "log_sigma", "logsigma", "log_scale", "z_log_std")
SECONDS = {"log-variance": 0.5, "log-std": 1.0}  # factor in the exponent of the std
SAMPLES = (
    *("sample", "reconstruction", "recon_x", "x_recon", "recon", "x_rec", "x_hat"),
    *("reconstructed", "samples", "images", "image", "logits", "output", "x"),
)


def posterior_of(out: Any, *, second: str | None = None) -> Posterior:
    """The posterior in an encoder's output.

    Arguments:
        out: A tensor (a point), a `Posterior`, a `torch.distributions` object, something with
            `latent_dist`, a mapping or object with the usual names (mean, mu, std, logvar, ...),
            or two tensors.
        second: What the second of two tensors is, one of `SECONDS`; None if it is not known.

    Raises:
        AdapterError: If the output is none of these, or two tensors are ambiguous.

    Example:
        >>> posterior_of({"mu": torch.zeros(1, 2), "logvar": torch.tensor([[0.0, -2.0]])}).std
        tensor([[1.0000, 0.3679]])
    """
    if isinstance(out, Posterior):
        return out
    if isinstance(out, Tensor):
        return Posterior(out)
    if isinstance(out, Distribution):
        return Posterior(out.mean, out.stddev)
    if (inner := _field(out, ("latent_dist",))) is not None:
        return posterior_of(inner)
    mean = _field(out, MEANS)
    if isinstance(mean, Tensor):
        std = _field(out, STDS)
        if isinstance(std, Tensor):
            return Posterior(mean, std)
        for kind, names in (("log-variance", LOG_VARIANCES), ("log-std", LOG_STDS)):
            if isinstance(logarithm := _field(out, names), Tensor):
                return _pair(mean, logarithm, kind)
        return Posterior(mean)
    if isinstance(out, (tuple, list)):
        if len(out) == 1:
            return posterior_of(out[0], second=second)
        if len(out) == 2 and all(isinstance(part, Tensor) for part in out):
            return _pair(out[0], out[1], second)
    raise AdapterError(
        f"The encoder returned {_words(out)}, which is neither a latent nor a posterior. Pass "
        "encode=, a callable that returns a tensor or a torch.distributions.Normal, or give its "
        "parts their names: encode=lambda x: dict(zip(('z', 'mean', 'logvar'), model.encode(x)))."
    )


def decode_view(view: Any, z: Tensor) -> Tensor:
    """What the method `decode` of a view returns; a function that can be pickled."""
    x: Tensor = view.decode(z)
    return x


def encode_view(view: Any, x: Tensor) -> Posterior:
    """The posterior by the method `encode` of a view; a function that can be pickled."""
    return posterior_of(view.encode(x))


def _pair(mean: Tensor, second: Tensor, kind: str | None) -> Posterior:
    if second.shape == mean.shape and kind is not None:
        return Posterior(mean, torch.exp(SECONDS[kind] * second))
    raise AdapterError(
        f"The encoder returned two tensors, of shapes {tuple(mean.shape)} and "
        f"{tuple(second.shape)}, and the second is not known to be a log-variance: neither the "
        "model's forward nor the names in its code say what they are. State it: "
        "encode=lambda x: dict(zip(('mean', 'logvar'), model.encode(x))), or 'log_std' or 'std' "
        "instead of 'logvar'. Of a draw and its mean, or of two levels of latents, return the one "
        "that is decoded: encode=lambda x: model.encode(x)[1]."
    )


def sample_of(out: Any) -> Tensor:
    """The samples in a decoder's output.

    Arguments:
        out: A tensor, a `torch.distributions` object (its mean), a mapping or object with the
            usual names (sample, reconstruction, ...), or a tuple, of which the first is taken.

    Raises:
        AdapterError: If the output is none of these.

    Example:
        >>> sample_of({"reconstruction": torch.ones(1)})
        tensor([1.])
    """
    if isinstance(out, Tensor):
        return out
    if isinstance(out, Distribution):
        return out.mean
    inner = _field(out, SAMPLES)
    if isinstance(inner, Tensor):
        return inner
    if isinstance(out, (tuple, list)) and len(out) > 0:
        return sample_of(out[0])
    raise AdapterError(
        f"The decoder returned {_words(out)}, which holds no samples. Pass decode=, a callable "
        "that returns a tensor (B, *sample_shape), such as decode=lambda z: model.decode(z).name."
    )


def _field(out: Any, names: tuple[str, ...]) -> Any:
    """The first of the named entries or attributes that exists and is not a method."""
    for name in names:
        value = out.get(name) if isinstance(out, Mapping) else getattr(out, name, None)
        if value is not None and not callable(value):
            return value
    return None


def _words(out: Any) -> str:
    kind = type(out).__name__
    if isinstance(out, Mapping):
        return f"a {kind} with {', '.join(map(str, out)) or 'no entry'}"
    if isinstance(out, (tuple, list)):
        parts = (str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in out)
        return f"a {kind} of {len(out)} ({', '.join(parts)})"
    fields = ", ".join(getattr(out, "__dict__", {}))
    return f"a {kind}" + (f" with {fields}" if fields else "")

r"""Any module, pair of callables or single callable as a decoder.

Shapes that are not given are found by a trial run on a frozen view: candidate latents or samples
are passed through :math:`x = g(f(x))` until one comes back with its shape. One log line reports
what was found, and the options that override it.
"""

from __future__ import annotations

__all__ = ["accepts", "load", "wrap"]

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from torch import Tensor, nn

from latentctl.decoder import Decoder, Gaussian, Posterior, Prior
from latentctl.decoder.frozen import frozen_view
from latentctl.errors import AdapterError

from .wrapping.attempts import PARTS
from .wrapping.callables import CallablePair
from .wrapping.outputs import posterior_of
from .wrapping.trial import Trial, decoded

ENCODERS = ("encode", "encoder", "enc")
DECODERS = ("decode", "decoder", "dec", "generator")

logger = logging.getLogger(__name__)


def accepts(model: object) -> bool:
    """Whether `model` is a module, a callable, or a pair of callables."""
    if isinstance(model, tuple):
        return len(model) == 2 and all(callable(part) for part in model)
    return callable(model) and not isinstance(model, type)


def load(**options: Any) -> NoReturn:
    """Raises an `AdapterError`: an arbitrary module has no name to load it by."""
    raise AdapterError(
        "The adapter 'torch-module' takes models that are already in memory, it cannot load one "
        f"by name (asked: {options}). Build and load the model yourself, then call "
        "latentctl.wrap(model)."
    )


def wrap(
    model: Any,
    *,
    latent_shape: Sequence[int] | None = None,
    encode: str | Callable[[Any], Any] | None = None,
    decode: str | Callable[[Tensor], Any] | None = None,
    prior: Prior | None = None,
    value_range: tuple[float, float] | None = None,
) -> Decoder:
    """A frozen decoder of any module, with arguments as in `latentctl.wrap`.

    Raises:
        AdapterError: If there is nothing to decode with, or the trial run fails.
    """
    name = _name(model if decode is None or isinstance(decode, str) else decode, model)
    if isinstance(model, tuple):
        encode, decode = encode or model[0], decode or model[1]
    elif not isinstance(model, nn.Module):
        decode = decode or model
    root, encode_name, decode_name = _by_name(model, encode, decode)
    trial = Trial(frozen_view(root), encode_name, decode_name, name)
    latent, sample = trial.shapes(latent_shape)
    if decode is None and decode_name == "forward" and math.prod(latent) == math.prod(sample):
        raise AdapterError(
            f"{name}.forward gives as many numbers as it takes ({latent} -> {sample}), like a "
            f"whole autoencoder. {PARTS} If it is a flow, whose latents have the size of its "
            f'samples, pass decode="forward".'
        )
    density = prior if prior is not None else Gaussian(latent)
    found_range, differentiable = trial.samples(density)
    values = found_range if value_range is None else value_range
    decoder = Decoder(
        root,
        partial(_decode, name=decode_name),
        None if encode_name is None else partial(_encode, name=encode_name, second=trial.second),
        latent_shape=latent,
        sample_shape=sample,
        value_range=values,
        prior=density,
        differentiable=differentiable,
        name=name,
    )
    given = {"latent_shape": latent_shape, "value_range": value_range, "prior": prior}
    _log(decoder, trial, [option for option, value in given.items() if value is None])
    return decoder


def _decode(view: nn.Module, z: Tensor, name: str) -> Tensor:
    return decoded(view, name, z)


def _encode(view: nn.Module, x: Tensor, name: str, second: str | None) -> Posterior:
    return posterior_of(getattr(view, name)(x.clone()), second=second)


def _by_name(model: Any, encode: Any, decode: Any) -> tuple[nn.Module, str | None, str]:
    """The module that has both as methods or submodules, and their names."""
    if isinstance(model, nn.Module):
        encode = encode or next((n for n in ENCODERS if callable(getattr(model, n, None))), None)
        decode = decode or next((n for n in DECODERS if callable(getattr(model, n, None))), None)
        forward = inspect.getattr_static(type(model), "forward", None)
        if decode is None and encode is None and forward is not nn.Module.forward:
            decode = "forward"
    for name in (encode, decode):
        if isinstance(name, str) and not callable(getattr(model, name, None)):
            raise AdapterError(
                f"A {type(model).__name__} has no method {name!r}. Name one that it has, or pass "
                f"a callable."
            )
    if decode is None:
        raise AdapterError(
            f"A {type(model).__name__} has none of {', '.join(DECODERS)}. Say what decodes: "
            f'latentctl.wrap(model, decode="name of a method") or decode=a callable z -> x.'
        )
    # methods of one module are used by name, which wraps the module itself
    owners = [getattr(part, "__self__", None) for part in (encode, decode) if part is not None]
    if owners and all(isinstance(o, nn.Module) and o is owners[0] for o in owners):
        model = owners[0]
        encode, decode = getattr(encode, "__name__", None), decode.__name__
    if isinstance(model, nn.Module) and isinstance(decode, str) and isinstance(encode, str | None):
        return model, encode, decode
    parts = [getattr(model, part) if isinstance(part, str) else part for part in (encode, decode)]
    pair = CallablePair(*parts)
    return pair, None if encode is None else "encode", "decode"


def _name(part: Any, model: Any) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    part = part[1] if isinstance(part, tuple) else part
    owner = getattr(part, "__self__", None)
    if owner is not None:
        return type(owner).__name__
    return str(getattr(part, "__name__", type(part).__name__))


def _range(decoder: Decoder) -> str:
    low, high = decoder.picture_range
    if decoder.value_range is not None:
        return f"values in [{low:g}, {high:g}]"
    pictures = len(decoder.sample_shape) == 3 and decoder.can_encode
    return "values unbounded" + f" (pictures are read in [{low:g}, {high:g}])" * pictures


def _log(decoder: Decoder, trial: Trial, missing: list[str]) -> None:
    prior = "N(0, I)" if "prior" in missing else type(decoder.prior).__name__
    facts = [
        f"latent {decoder.latent_shape}",
        f"sample {decoder.sample_shape}",
        _range(decoder),
        f"encoder {trial.encoder_kind}" if decoder.can_encode else "no encoder",
        f"prior {prior}",
        f"{str(decoder.dtype).removeprefix('torch.')} on {decoder.device}",
    ]
    if not decoder.differentiable:
        facts.append("no gradient to z")
    if not decoder.model.state_dict():
        facts.append("no weights were found, so the fingerprint covers only the shapes")
    options = ", ".join(f"{option}=..." for option in missing)
    found = f"; found by a trial run, pass {options} to override" if missing else ""
    logger.warning("%s: %s%s", decoder.name, ", ".join(facts), found)

"""Adapters: how foreign models become decoders.

An adapter is a module, named by an entry point of the group `latentctl.adapters`, with

- `accepts(model) -> bool`: whether `wrap` can take this object;
- `wrap(model, **options) -> Decoder`;
- `load(**options) -> Decoder`: build the model by name or path, then wrap it.

Any distribution can provide adapters. One that cannot be imported is skipped with a warning.
"""

from __future__ import annotations

__all__ = ["available", "load", "wrap"]

import inspect
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

from torch import Tensor, nn

from ..display import Display, Show
from ..errors import AdapterError, UnknownNameError
from .decoder import Decoder
from .prior import Prior

GROUP = "latentctl.adapters"
GENERAL = "torch-module"  # accepts any module, so it is tried last

logger = logging.getLogger(__name__)


class Adapter(Protocol):
    """The three functions of an adapter module."""

    def accepts(self, model: object) -> bool: ...
    def wrap(self, model: Any, **options: Any) -> Decoder: ...
    def load(self, **options: Any) -> Decoder: ...


def available() -> dict[str, str]:
    """Names of all adapters with the distribution of each; imports none of them.

    Example:
        >>> available()["conv-vae"]
        'latentctl'
    """
    return {name: _distribution(point) for name, point in sorted(_points().items())}


def load(name: str, **options: Any) -> Decoder:
    """The decoder that adapter `name` builds from `options`.

    Arguments:
        name: One of `available()`.
        options: Arguments of the adapter's `load`, such as `pretrained_model_name_or_path`.

    Raises:
        UnknownNameError: If there is no such adapter.
        AdapterError: If the adapter cannot be imported.
    """
    points = _points()
    if name not in points:
        raise UnknownNameError("adapter", name, points)
    return _import(points[name]).load(**options)


def wrap(
    model: object,
    *,
    latent_shape: Sequence[int] | None = None,
    encode: str | Callable[[Any], Any] | None = None,
    decode: str | Callable[[Tensor], Any] | None = None,
    prior: Prior | None = None,
    value_range: tuple[float, float] | None = None,
    show: Show = None,
    **options: Any,
) -> Decoder:
    """A frozen decoder of the user's model, which is not changed.

    Wrappers such as `torch.compile` and `DataParallel` are removed.

    Arguments:
        model: Any `nn.Module` with an encoder and a decoder, a pair of callables
            `(encode, decode)`, a single callable `decode`, or an object that an adapter accepts.
        latent_shape: Shape of one latent. Found by a trial run if not given.
        encode: Name of the method, or a callable from `x` to a mean, a `torch.distributions`
            object or a `Posterior`. Found by its usual names if not given.
        decode: Name of the method, or a callable `z -> x`.
        prior: Density of the latents; N(0, I) if not given.
        value_range: Lowest and highest value of a sample, `(-inf, inf)` for no bounds. Found by a
            trial run if not given.
        show: How samples are shown in pictures of results, decided by their shape if not given:
            "picture", "curve", "roll" (whole numbers over time) or "table"; the shape `(C, h, w)`
            of flattened pictures; or a function from samples to pictures `(B, 3, h, w)` in [0, 1].
        options: Further arguments of the adapter that accepts the model, such as `steps` of a
            diffusion pipeline.

    Raises:
        AdapterError: If no adapter accepts the model, its adapter has no such option, or the trial
            run fails.

    Example:
        >>> import torch
        >>> decoder = wrap(torch.nn.Linear(2, 3), decode="forward")
        >>> decoder.latent_shape, decoder.sample_shape
        ((2,), (3,))
    """
    model = tuple(map(_bare, model)) if type(model) is tuple else _bare(model)
    shared = {
        "latent_shape": latent_shape,
        "encode": _bare(encode),
        "decode": _bare(decode),
        "prior": prior,
        "value_range": value_range,
    }
    given = options | {key: value for key, value in shared.items() if value is not None}
    for name, point in sorted(_points().items(), key=lambda item: item[0] == GENERAL):
        try:
            adapter = _import(point)
        except AdapterError as error:
            logger.warning("Adapter %r is skipped. %s", name, error)
            continue
        if adapter.accepts(model):
            _check_options(name, adapter, model, given)
            decoder = adapter.wrap(model, **given)
            if show is not None:
                decoder.display = Display(show, decoder.value_range)
            return decoder
    raise AdapterError(
        f"No adapter accepts a {type(model).__name__}. Pass an nn.Module, a pair of callables "
        f"(encode, decode), or install an adapter; there are {', '.join(sorted(_points()))}."
    )


def _check_options(name: str, adapter: Adapter, model: object, given: dict[str, Any]) -> None:
    known = inspect.signature(adapter.wrap).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option in given:
        if option not in known:
            raise AdapterError(
                f"A {type(model).__name__} is wrapped by the adapter {name}, which has no option "
                f"{option!r}. It has {', '.join(list(known)[1:])}."
            )


def _bare(model: Any) -> Any:
    """The model inside `torch.compile` and the wrappers for several processes."""
    if isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        return _bare(model.module)
    for name in ("_orig_mod", "_torchdynamo_orig_callable"):  # of a module, of a function
        if hasattr(model, name):
            return _bare(getattr(model, name))
    return model


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown distribution"


def _import(point: EntryPoint) -> Adapter:
    try:
        return cast(Adapter, point.load())
    except Exception as error:
        raise AdapterError(
            f"Adapter {point.name!r} of {_distribution(point)} ({point.value}) cannot be "
            f"imported: {type(error).__name__}: {error}. Repair or remove that distribution."
        ) from error

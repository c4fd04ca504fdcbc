r"""Autoencoders of diffusers as frozen decoders, with the latents that a diffusion model sees.

An image model of diffusers is trained on latents that were shifted and scaled by constants of the
autoencoder's configuration,

.. math:: z = (h - \mathrm{shift}) \cdot \mathrm{scale}, \quad h \sim \mathcal{N}(\mu(x),
    \sigma(x)^2), \quad x = \mathrm{clamp}(g(z / \mathrm{scale} + \mathrm{shift}))

and so are the latents here, which are thus those of pipelines. Scale and shift are
`scaling_factor` and `shift_factor`, or, for each channel, `scaling_factor / latents_std` and
`latents_mean` where the configuration has those; 1 and 0 where it has neither. The posterior is the
model's own, shifted and scaled likewise: mean and std for an AutoencoderKL, a point for
AutoencoderTiny, AutoencoderDC and VQModel.

Pixels are in [-1, 1], as everywhere in diffusers (AutoencoderTiny converts from [0, 1]), and are
clamped to it as in pipelines; a clamped pixel has no gradient.

These latents are not N(0, I): a sample of N(0, I) decodes to coloured noise. Fit a flow on encoded
images and use `decoder.through(flow)`, in whose latents N(0, I) holds.

A `VQModel` quantises as it decodes: its samples are a step function of `z`, whose true gradient is
0 almost everywhere. The gradient at `z` is the straight-through estimate, that of the decoder at
the nearest codes. So `differentiable` is False.

References:
    | High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2021)
    | https://arxiv.org/abs/2112.10752
    | SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis
      (Podell et al., 2023)
    | https://arxiv.org/abs/2307.01952
"""

from __future__ import annotations

__all__ = ["accepts", "load", "wrap"]

import inspect
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from latentctl.decoder import Decoder, Posterior, Prior
from latentctl.errors import AdapterError, CheckpointError

from .wrapping.outputs import posterior_of, sample_of

Constant: TypeAlias = float | Tensor
PACKAGES = ("diffusers.models.autoencoders.", "diffusers.models.vq_model")
# the first draws noise as it decodes, the second normalises its latents itself: torch_module
# handles both
OTHERS = {"ConsistencyDecoderVAE", "AutoencoderRAE"}
DEFAULT_RESOLUTION = 512  # of the images that AutoencoderTiny and AutoencoderDC were published for
SWITCHES = ("tile_", "use_", "spatial_")  # attributes that slicing and tiling are made of

logger = logging.getLogger(__name__)


def accepts(model: object) -> bool:
    """Whether `model` is an autoencoder of diffusers, or of a class derived from one."""
    return _is_autoencoder(type(model))


def load(
    *,
    pretrained_model_name_or_path: str | Path,
    subfolder: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    torch_dtype: torch.dtype | None = None,
    cache_dir: str | Path | None = None,
    resolution: int | Sequence[int] | None = None,
    slicing: bool = False,
    tiling: bool = False,
) -> Decoder:
    """The decoder of a saved autoencoder of diffusers, of whatever class its configuration names.

    Arguments:
        pretrained_model_name_or_path: A folder, or the id of a model on the hub.
        subfolder: Folder within it: `vae` for a whole pipeline.
        revision: Branch, tag or commit on the hub.
        variant: Which of several files of weights, such as `fp16`.
        torch_dtype: Dtype of the weights, float32 by default. Mind that some models whose
            configuration has `force_upcast` overflow in float16; bfloat16 does not.
        cache_dir: Where downloads are kept.
        resolution: Pixels of the images, as in `wrap`.
        slicing: Run one sample at a time, for less memory.
        tiling: Cut images that are larger than a tile into tiles, for less memory.

    Raises:
        CheckpointError: If it is missing, is no safetensors file, or leaves a weight unset.
        AdapterError: If it is not an autoencoder of images.
    """
    import diffusers

    name = str(pretrained_model_name_or_path)
    where: dict[str, Any] = {"subfolder": subfolder, "revision": revision, "cache_dir": cache_dir}
    try:
        config = diffusers.AutoencoderKL.load_config(name, **where)
    except (OSError, ValueError) as error:  # the hub's own errors, a bad name, no network
        raise CheckpointError(
            f"{_place(name, subfolder)} has no configuration of diffusers ({_first_line(error)}). "
            f"Check the name, the revision and the network; a whole pipeline keeps its "
            f'autoencoder in a folder: subfolder="vae".'
        ) from error
    kind = str(config.get("_class_name"))
    cls = getattr(diffusers, kind, None)
    if not (isinstance(cls, type) and _is_autoencoder(cls)):
        raise AdapterError(
            f"{_place(name, subfolder)} holds a {kind}, which this version of diffusers "
            f"({diffusers.__version__}) does not have among its autoencoders of images. Point to "
            f"an autoencoder (subfolder=...), or upgrade diffusers."
        )
    try:
        model, info = cls.from_pretrained(  # type: ignore[attr-defined]
            name,
            variant=variant,
            torch_dtype=torch_dtype,
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"The weights of {_place(name, subfolder)} were not loaded: {_first_line(error)} They "
            f"must be safetensors that fit the configuration; save or download them again."
        ) from error
    unset = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if unset:
        raise CheckpointError(
            f"{_place(name, subfolder)} leaves {len(unset)} weights of its {kind} unset, such as "
            f"{', '.join(unset[:3])}. Save or download it again."
        )
    for wanted, switch in ((slicing, "enable_slicing"), (tiling, "enable_tiling")):
        try:
            if wanted:
                getattr(model, switch)()
        except (AttributeError, NotImplementedError) as error:
            raise AdapterError(f"A {kind} has no {switch}(); load it without.") from error
    return wrap(model, resolution=resolution)


def wrap(
    model: Any,
    *,
    resolution: int | Sequence[int] | None = None,
    latent_shape: Sequence[int] | None = None,
    prior: Prior | None = None,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> Decoder:
    """The frozen decoder of an autoencoder of diffusers.

    Slicing and tiling keep their state, and can be changed later on `decoder.model`. Dtype and
    device are the model's.

    Arguments:
        model: The autoencoder; it is viewed, not changed.
        resolution: Height and width of the images in pixels, one number or two; the
            configuration's `sample_size` by default, and 512 if there is none.
        latent_shape: Shape of one latent, `(C, h, w)`, instead of the resolution.
        prior: Density of the latents; by default N(0, I), which does not fit them.
        value_range: Pixels are clamped to it, [-1, 1] by default.
        options: `encode` and `decode`, as in `latentctl.wrap`.

    Raises:
        AdapterError: If images of that resolution do not come back from the model as such.
    """
    if options:
        from . import torch_module

        options.update(latent_shape=latent_shape, prior=prior, value_range=value_range)
        return torch_module.wrap(model, **options)
    latent, sample = _shapes(model, latent_shape, resolution)
    low, high = value_range or (-1.0, 1.0)
    shift, scale = _constants(model.config)
    return Decoder(
        model,
        partial(_decode, shift=shift, scale=scale, limits=(low, high)),
        partial(_encode, shift=shift, scale=scale),
        latent_shape=latent,
        sample_shape=sample,
        value_range=(low, high),
        prior=prior,
        differentiable=not hasattr(model, "quantize"),
    )


def _decode(
    view: Any, z: Tensor, shift: Constant, scale: Constant, limits: tuple[float, float]
) -> Tensor:
    return sample_of(view.decode(z / _like(scale, z) + _like(shift, z))).clamp(*limits)


def _encode(view: Any, x: Tensor, shift: Constant, scale: Constant) -> Posterior:
    posterior = posterior_of(view.encode(x))
    mean, std = posterior.mean.float(), posterior.std
    factor = _like(scale, mean)
    mean = (mean - _like(shift, mean)) * factor
    return Posterior(mean, None if std is None else (std.float() * factor).abs())


def _is_autoencoder(cls: type) -> bool:
    return any(
        base.__module__.startswith(PACKAGES)
        and base.__name__ not in OTHERS
        and callable(getattr(base, "encode", None))
        and callable(getattr(base, "decode", None))
        for base in cls.__mro__
    )


def _shapes(
    model: Any, latent_shape: Sequence[int] | None, resolution: int | Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a latent and a sample, found on a copy on the meta device."""
    config, name = model.config, type(model).__name__
    if any(isinstance(module, nn.Conv3d) for module in model.modules()):
        raise AdapterError(
            f"{name} is no autoencoder of images: it has convolutions over time. Define the coding "
            f"of one clip: latentctl.wrap(model, latent_shape=..., encode=..., decode=...) with "
            f"callables."
        )
    size = resolution or config.get("sample_size")
    if size is None and latent_shape is None:
        size = DEFAULT_RESOLUTION
        logger.warning(
            "%s: its configuration names no resolution, images of %d x %d pixels are assumed; "
            "pass resolution=... to latentctl.load, or latent_shape=... to latentctl.wrap.",
            *(name, size, size),
        )
    try:
        twin = _twin(model)
        if latent_shape is not None:
            asked: tuple[int, ...] = tuple(latent_shape)
            sample = _shape(sample_of(twin.decode(_nothing(asked))))
        else:
            sides = (size, size) if isinstance(size, int) else tuple(size)
            asked = sample = (int(config.get("in_channels", 3)), *sides)
        latent = _shape(posterior_of(twin.encode(_nothing(sample))).mean)
        back = _shape(sample_of(twin.decode(_nothing(latent))))
    except Exception as error:
        raise AdapterError(
            f"{name} does not take {latent_shape or size} ({type(error).__name__}: "
            f"{_first_line(error)}). Pass a resolution (to latentctl.load) or a latent_shape that "
            f"it takes, or wrap it by encode= and decode=."
        ) from error
    if back != sample or asked not in (latent, sample):
        raise AdapterError(
            f"{name} encodes samples {sample} into {latent} and decodes these into {back}. Use a "
            f"resolution that is a multiple of its downsampling factor and, if tiling is on, tiles "
            f"whose overlap is a whole number of latents."
        )
    return latent, sample


@torch.no_grad()
def _twin(model: Any) -> Any:
    cls = type(model)
    known = inspect.signature(cls.__init__).parameters
    with torch.device("meta"):
        twin = cls(**{key: value for key, value in model.config.items() if key in known})
    for key, value in vars(model).items():
        if key.startswith(SWITCHES):
            setattr(twin, key, value)
    return twin.eval().requires_grad_(False)


def _nothing(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(1, *shape, device="meta")


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[1:])


def _constants(config: Mapping[str, Any]) -> tuple[Constant, Constant]:
    """Shift and scale: numbers, or tensors `(C, 1, 1)`."""
    scale = config.get("scaling_factor") or 1.0
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return float(config.get("shift_factor") or 0.0), float(scale)
    shift, spread = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
    return shift, scale / spread


def _like(value: Constant, z: Tensor) -> float | Tensor:
    return value.to(z) if isinstance(value, Tensor) else value


def _place(name: str, subfolder: str | None) -> str:
    return name if subfolder is None else f"{name}/{subfolder}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

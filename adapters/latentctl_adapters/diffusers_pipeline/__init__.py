r"""Diffusion and flow-matching pipelines of diffusers as frozen decoders of their starting noise.

With a deterministic scheduler the samples of a pipeline are a function of the noise that it starts
from, :math:`x = g(z)` with :math:`z \sim \mathcal{N}(0, I)` exactly. The scheduler, the number of
steps and the conditions (prompt, class, guidance) are part of the decoder, and of its fingerprint.

    decoder = latentctl.wrap(pipe, steps=4)
    decoder = latentctl.load("diffusers-pipeline", pretrained_model_name_or_path=..., steps=4)
    decoder.encode(x)              # the noise of real samples, by the inverse of the same steps
    decoder.render(z, steps=20)    # the same noise by more steps of the same model

A scheduler that clips its predictions has no gradient where it clips and no inverse, so clipping is
switched off, which is logged. One that draws noise at every step is refused, except
`DDPMScheduler`, in whose place DDIM is taken.

No attribute is linear in the starting noise: a critic of latents has to be a network, or one on
images through the decoder (`latentctl.PixelCritic`).

References:
    | Denoising Diffusion Implicit Models (Song et al., 2020)
    | https://arxiv.org/abs/2010.02502
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

__all__ = ["PipelineDecoder", "accepts", "load", "wrap"]

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentctl.decoder import Decoder, Posterior, Prior, frozen_view
from latentctl.errors import AdapterError, CheckpointError, InputError

from .. import diffusers_vae
from .conditions import Condition, arguments, nothing
from .networks import Denoiser, noise_shape
from .sampler import Sampler
from .schedule import Schedule

PARTS = ("unet", "transformer")  # names of the network in pipelines
FAILED = 1e-3  # mean square of a round trip, for samples in [0, 1]

logger = logging.getLogger(__name__)


class PipelineDecoder(Decoder):
    """The decoder of a pipeline's starting noise; made by `latentctl.wrap(pipe, steps=4)`."""

    latents_are_noise = True
    pipeline: str
    """Name of the pipeline's class."""

    def with_steps(self, steps: int) -> PipelineDecoder:
        """A decoder of the same noise by the same weights in another number of steps.

        It shares the weights. Its fingerprint differs, since its samples do.
        """
        sampler: Any = self.model
        other = sampler.with_schedule(sampler.schedule.build(steps))
        return _decoder(other, self.latent_shape, self.prior, self.pipeline)

    @torch.no_grad()
    def render(self, z: Tensor, steps: int, *, batch_size: int | None = None) -> Tensor:
        """Samples `(B, *sample_shape)` of noise `z (B, *latent_shape)` by `steps` steps."""
        return self.with_steps(steps).decode(z, batch_size=batch_size)


def accepts(model: object) -> bool:
    """Whether `model` has a scheduler and a network, as the pipelines of diffusers have."""
    return hasattr(model, "scheduler") and _network(model) is not None


def load(
    *,
    pretrained_model_name_or_path: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    torch_dtype: torch.dtype | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> PipelineDecoder:
    """The decoder of a saved pipeline, of the class that its `model_index.json` names.

    Arguments:
        pretrained_model_name_or_path: A folder, or the id of a pipeline on the hub.
        revision: Branch, tag or commit on the hub.
        variant: Which of several files of weights, such as `fp16`.
        torch_dtype: Dtype of the weights, float32 by default.
        cache_dir: Where downloads are kept.
        options: Arguments of `wrap`, such as `steps`.

    Raises:
        CheckpointError: If it is missing, or its weights are no safetensors files.
        AdapterError: As `wrap`.
    """
    import diffusers

    place = str(pretrained_model_name_or_path)
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            place,
            revision=revision,
            variant=variant,
            torch_dtype=torch_dtype,
            cache_dir=cache_dir,
            use_safetensors=True,
        )
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise CheckpointError(
            f"{place} was not loaded as a pipeline of diffusers ({str(error).strip()[:300]}). "
            f"Check the name, the revision and the network; weights must be safetensors."
        ) from error
    return wrap(pipe, **options)


def wrap(
    model: Any,
    *,
    steps: int = 4,
    condition: Condition = None,
    guidance: float = 1.0,
    unconditional: Condition = None,
    scheduler: Any = None,
    resolution: int | Sequence[int] | None = None,
    vae: Any = None,
    checkpointing: bool = True,
    latent_shape: Sequence[int] | None = None,
    prior: Prior | None = None,
    value_range: tuple[float, float] | None = None,
) -> PipelineDecoder:
    """The frozen decoder of the starting noise of a pipeline.

    Arguments:
        model: A pipeline of diffusers: anything with a `scheduler` and a `unet` or `transformer`.
        steps: Steps of the scheduler.
        condition: What is generated, the same for every sample: a prompt, the number of a class, or
            the arguments of the network as tensors with one row, such as
            `{"encoder_hidden_states": (1, T, D)}`.
        guidance: Scale of classifier-free guidance; 1 for none.
        unconditional: The other condition of guidance; the empty prompt, or the class that stands
            for none, if not given.
        scheduler: In place of the pipeline's own.
        resolution: Height and width of the samples; those of the configuration if not given.
        vae: The autoencoder whose latents are generated, in place of the pipeline's `vae`: one of
            diffusers, or a `Decoder` of grids.
        checkpointing: Compute the network's activations again for gradients, one step at a time, so
            that the graph keeps latents alone.
        latent_shape: Shape `(C, h, w)` of the noise, instead of the resolution.
        prior: Density of the noise, N(0, I) by default.
        value_range: Lowest and highest value of a sample, [-1, 1] by default.

    Raises:
        AdapterError: If the scheduler draws noise or is not linear in what the network returns, or
            the network does not run with this condition and resolution.
        InputError: If `steps` is less than 1.

    Example:
        >>> from types import SimpleNamespace
        >>> from diffusers import DDIMScheduler, UNet2DModel
        >>> unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4,
        ...     layers_per_block=1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        ...     up_block_types=("UpBlock2D",), add_attention=False)
        >>> pipe = SimpleNamespace(unet=unet, scheduler=DDIMScheduler(clip_sample=False))
        >>> decoder = wrap(pipe, steps=3)
        >>> decoder.decode(decoder.prior.sample(2)).shape
        torch.Size([2, 1, 8, 8])
    """
    if steps < 1:
        raise InputError(f"A pipeline takes at least 1 step, {steps} were asked for.")
    network, name = _network(model), type(model).__name__
    if network is None:
        raise AdapterError(f"A {name} has no {' or '.join(PARTS)}: wrap a pipeline of diffusers.")
    vae = getattr(model, "vae", None) if vae is None else vae
    factor = _factor(vae)
    shape = tuple(latent_shape or noise_shape(network, factor, resolution))
    base = vae if vae is None or isinstance(vae, Decoder) else _base(vae, shape)
    pixels = (factor * shape[-2], factor * shape[-1])
    chosen = arguments(model, network, condition, pixels)
    other = None
    if guidance != 1:
        unconditional = nothing(network) if unconditional is None else unconditional
        other = arguments(model, network, unconditional, pixels)
    schedule = Schedule.of(scheduler or model.scheduler, steps, math.prod(shape[-2:]) // 4)
    own = (-1.0, 1.0) if base is None else base.value_range
    limits = value_range or own
    denoiser = Denoiser(network, chosen, other, guidance)
    sampler = Sampler(denoiser, schedule, base, limits, checkpointing=checkpointing)
    return _decoder(sampler, shape, prior, name)


@torch.no_grad()
def _decoder(
    sampler: Sampler, shape: tuple[int, ...], prior: Prior | None, name: str
) -> PipelineDecoder:
    try:
        x = frozen_view(sampler)(torch.zeros(1, *shape).to(sampler.place))
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise AdapterError(
            f"{name} does not run on noise {shape} ({type(error).__name__}: {error}). Check "
            f"condition=, which holds all that its network needs beside noise and time, and "
            f"resolution=."
        ) from error
    decoder = PipelineDecoder(
        sampler,
        _decode,
        _encode if sampler.can_invert else None,
        latent_shape=shape,
        sample_shape=tuple(x.shape[1:]),
        value_range=sampler.limits,
        prior=prior,
        name=f"{name}, {sampler.schedule.steps} steps",
    )
    decoder.pipeline = name
    return decoder


def _decode(view: Any, z: Tensor) -> Tensor:
    out: Tensor = view(z)
    return out


def _encode(view: Any, x: Tensor) -> Posterior:
    """The noise of samples, with a warning where it is not decoded to them again.

    What is compared is what the autoencoder alone makes of them: it may lose more than the steps.
    """
    z = view.invert(x)
    error = (view(z) - view.reconstruct(x)).flatten(1).square().mean(1)
    low, high = view.limits or (0.0, 1.0)
    failed = error > FAILED * (high - low) ** 2
    if bool(failed.any()):
        logger.warning(
            "The noise of %d of %d samples was not found: decoded again, they differ by up to %.2g "
            "(mean square). The steps are too long to be inverted there. Take more steps=, or "
            "search: latentctl.with_inversion(decoder).",
            *(int(failed.sum()), len(x), float(error.max())),
        )
    return Posterior(z)


def _network(model: Any) -> Any:
    found = (getattr(model, name, None) for name in PARTS)
    return next((part for part in found if isinstance(part, nn.Module)), None)


def _base(vae: Any, shape: tuple[int, ...]) -> Decoder:
    return diffusers_vae.wrap(vae, latent_shape=shape)


def _factor(vae: Any) -> int:
    """Pixels of a side for each cell of a latent."""
    if vae is None:
        return 1
    if isinstance(vae, Decoder):
        return vae.sample_shape[-1] // vae.latent_shape[-1]
    names = ("block_out_channels", "encoder_block_out_channels")
    levels = next((vae.config[name] for name in names if vae.config.get(name)), None)
    if levels is None:
        raise AdapterError(
            f"The downsampling factor of {type(vae).__name__} is not in its configuration. Wrap it "
            f"and pass the decoder: vae=latentctl.wrap(pipe.vae, latent_shape=...)."
        )
    return 1 << (len(levels) - 1)

r"""The frozen decoder :math:`x = g(z)`.

A `Decoder` works on a *frozen view* of the user's model: the module tree is copied, its tensors
are shared. The view is always in evaluation mode and its weights take no gradient. The user's own
object keeps its mode, its hooks and its `requires_grad` flags, and no memory is spent. Gradients
flow through the view to `z` only.

The fingerprint is a hash over the names, shapes and bytes of all weights and buffers. It is saved
with whatever is trained for one decoder, and compared when that is loaded for another.
"""

from __future__ import annotations

__all__ = ["Decoder", "Posterior"]

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..display import Described, Display, Show
from ..errors import AdapterError, InputError, ShapeError, check_rows
from ..progress import track
from ..storage.weights import fingerprint
from .checks import check_decoded, check_encoded, check_finite, check_samples
from .frozen import floating_dtype, frozen_view
from .posterior import Posterior, decode_through, encode_through
from .prior import Flow, Gaussian, Prior, describe_prior
from .samples import read_samples

CHECKED = 32  # samples on which the inverse of a flow is verified


class Decoder(Described, nn.Module):
    r"""A frozen generator.

    Made by `latentctl.wrap` and `latentctl.load`; built directly by adapters.

    Arguments:
        model: The user's model, which is not changed.
        decode: `decode(model, z) -> x`, with `z (B, *latent_shape)` and `x (B, *sample_shape)`.
        encode: `encode(model, x) -> Posterior`, or None for a generator without an encoder.
        latent_shape: Shape of one latent.
        sample_shape: Shape of one sample.
        value_range: Lowest and highest value of a sample; None, or infinities, for no bounds.
        prior: Density of the latents, N(0, I) by default.
        differentiable: Whether gradients reach `z`.
        name: Name of the decoder in messages and packs.
        show: How samples are shown: `latentctl.display.Show`.

    Attributes:
        composed_of: `(decoder, flow)` of a decoder made by `through`, else None.
        display: Draws samples as pictures; may be replaced by another `latentctl.display.Display`.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> decoder = Decoder(model, lambda m, z: m(z), latent_shape=(2,), sample_shape=(3,),
        ...                   value_range=None)
        >>> decoder.decode(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
        >>> decoder.train().training, any(p.requires_grad for p in decoder.parameters())
        (False, False)
    """

    prior: Prior
    composed_of: tuple[Decoder, Flow] | None = None
    latents_are_noise = False
    """Whether every latent that it can use is like a sample of N(0, I), as the starting noise of a
    diffusion model."""

    def __init__(
        self,
        model: nn.Module,
        decode: Callable[[Any, Tensor], Tensor],
        encode: Callable[[Any, Tensor], Posterior] | None = None,
        *,
        latent_shape: Sequence[int],
        sample_shape: Sequence[int],
        value_range: tuple[float, float] | None = (0.0, 1.0),
        prior: Prior | None = None,
        differentiable: bool = True,
        name: str = "",
        show: Show = None,
    ) -> None:
        super().__init__()
        self.model = frozen_view(model)
        self.latent_shape = tuple(latent_shape)
        self.sample_shape = tuple(sample_shape)
        bounded = value_range is not None and all(map(math.isfinite, value_range))
        self.value_range = value_range if bounded else None
        self.differentiable = differentiable
        self.display = Display(show, self.value_range)
        self.name = name or type(model).__name__
        self.prior = prior if prior is not None else Gaussian(self.latent_shape)
        self.decode_fn = decode
        self.encode_fn = encode
        super().train(False)

    @property
    def can_encode(self) -> bool:
        """Whether there is an encoder, so that real inputs can be edited."""
        return self.encode_fn is not None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        return next((t.device for t in tensors), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the weights."""
        return floating_dtype(self.model)

    @property
    def picture_range(self) -> tuple[float, float]:
        """Values of black and white in pictures: `value_range`, [0, 1] where it has no bounds."""
        return self.value_range or (0.0, 1.0)

    def train(self, mode: bool = True) -> Decoder:
        """Has no effect: a decoder is always in evaluation mode."""
        return self

    def decode(self, z: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Samples `(B, *sample_shape)` of latents `z (B, *latent_shape)`, in `value_range`.

        Arguments:
            z: Latents.
            batch_size: Latents that are decoded together; all of them by default.

        Raises:
            ShapeError: If `z` or the samples have another shape.
            NonFiniteError: If a sample is not finite. Not checked where the samples have a
                gradient: a search that waits for the device in each step is slow.
        """
        subject = f"{self.name} decodes latents"
        check_rows(z, self.latent_shape, subject, "Use latents of this decoder.")
        parts = []
        for part in track(_chunks(z, batch_size), "Decode", "batch"):
            x = self.decode_fn(self.model, part.to(self.device, self.dtype))
            check_decoded(x, len(part), self.sample_shape, self.name)
            parts.append(x)
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not x.is_floating_point():
            return x
        x = x.float()
        if not x.requires_grad:
            check_finite([x], f"{self.name} decoded latents", self._advice)
        return x

    forward = decode

    @torch.no_grad()
    def encode(self, x: Any, *, batch_size: int | None = None) -> Posterior:
        """The posterior of samples `x (B, *sample_shape)`.

        Arguments:
            x: Samples: a tensor, or pictures, paths, arrays and lists of these, see `read_samples`.
            batch_size: Samples that are encoded together; all of them by default.

        Raises:
            AdapterError: If the decoder has no encoder.
            ShapeError: If `x`, the means or the standard deviations have another shape.
            InputError: If `x` cannot be read, holds a NaN or leaves `value_range`.
            NonFiniteError: If a mean or a standard deviation is not finite.
        """
        if self.encode_fn is None:
            raise AdapterError(
                f"{self.name} was wrapped without an encoder, so real inputs cannot be encoded. "
                f"Pass one: latentctl.wrap(model, encode=...), or search for their latents: "
                f"latentctl.with_inversion(decoder)."
            )
        x = read_samples(x, self)
        self.check_sample(x)
        if x.is_floating_point():
            x = x.to(self.dtype)
        means, stds = [], []
        for part in track(_chunks(x, batch_size), "Encode", "batch"):
            found = self.encode_fn(self.model, part.to(self.device))
            mean, std = found.mean.float(), None if found.std is None else found.std.float()
            check_encoded(mean, std, len(part), self.latent_shape, self.name)
            means.append(mean)
            stds += [] if std is None else [std]
        joined = [part[0] if len(part) == 1 else torch.cat(part) for part in (means, stds) if part]
        check_finite(joined, f"{self.name} encoded samples", self._advice)
        return Posterior(*joined)

    @property
    def _advice(self) -> str:
        if self.dtype == torch.float16:
            return "float16 overflows above 65504: load the model in bfloat16 or float32."
        return "Leave these rows out, or see what the model does with them."

    def through(self, flow: Flow) -> Decoder:
        r"""The same samples, with the flow's base noise as the latent.

        .. math:: x = g(f^{-1}(e)), \quad e \sim \mathcal{N}(0, I)

        In this latent space the data follow N(0, I), as in a VAE. Encoding gives the noise of the
        posterior's mean; its std is left out, because the flow is not linear.

        Arguments:
            flow: A flow over this decoder's latents. A copy of it is frozen like the model.

        Raises:
            ShapeError: If the flow is over latents of another shape.
            NonFiniteError: If the inverse of the flow is not accurate on 32 samples.

        Example:
            >>> from latentctl import LatentFlow
            >>> model = nn.Linear(2, 3)
            >>> decoder = Decoder(model, lambda m, z: m(z), latent_shape=(2,), sample_shape=(3,),
            ...                   value_range=None)
            >>> decoder.through(LatentFlow((2,), width=8)).decode(torch.zeros(1, 2)).shape
            torch.Size([1, 3])
        """
        if tuple(flow.latent_shape) != self.latent_shape:
            raise ShapeError(
                f"{self.name} decodes latents {self.latent_shape}, the flow is over "
                f"{tuple(flow.latent_shape)}. Fit it on latents of this decoder."
            )
        own: Any = copy.deepcopy(flow)  # .to() would move the caller's
        own.to(self.device).check_invertible(own.sample(CHECKED))
        encode = self.encode_fn
        composed = self.derived(
            nn.ModuleDict({"model": self.model, "flow": own}),
            functools.partial(decode_through, decode=self.decode_fn),
            None if encode is None else functools.partial(encode_through, encode=encode),
            name=f"{self.name} through a {flow.kind} flow",
        )
        view: Any = composed.model
        composed.composed_of = self, view["flow"]
        return composed

    def derived(
        self,
        model: nn.Module,
        decode: Callable[[Any, Tensor], Tensor],
        encode: Callable[[Any, Tensor], Posterior] | None,
        *,
        name: str,
        prior: Prior | None = None,
    ) -> Decoder:
        """A decoder of the same shapes and range with another model, functions, name and prior."""
        return Decoder(
            model,
            decode,
            encode,
            latent_shape=self.latent_shape,
            sample_shape=self.sample_shape,
            value_range=self.value_range,
            prior=prior,
            differentiable=self.differentiable,
            name=name,
            show=self.display.show,
        )

    def check_sample(self, x: Tensor) -> None:
        """Raises unless `x` is `(B, *sample_shape)`, finite, and in `value_range`."""
        check_samples(x, self.sample_shape, self.value_range, self.name)

    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes and bytes of all weights and buffers."""
        return fingerprint(self.model, f"{self.latent_shape}{self.sample_shape}")

    def facts(self) -> dict[str, Any]:
        """Its shapes, range, prior and weights."""
        weights = sum(p.numel() for p in self.model.parameters())
        values = self.value_range
        return {
            "model": self.name,
            "latent": self.latent_shape,
            "sample": self.sample_shape,
            "values": "unbounded" if values is None else f"in [{values[0]:g}, {values[1]:g}]",
            "encoder": "yes" if self.can_encode else "none",
            "prior": describe_prior(self.prior),
            "gradient to the latent": None if self.differentiable else "none",
            "weights": f"{weights:,}, {str(self.dtype).removeprefix('torch.')} on {self.device}",
        }


def _chunks(rows: Tensor, batch_size: int | None) -> tuple[Tensor, ...]:
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}.")
    return (rows,) if batch_size is None else rows.split(batch_size)

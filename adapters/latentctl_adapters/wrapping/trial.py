"""A trial run that finds shapes, the range of values, and whether gradients reach the latent."""

from __future__ import annotations

__all__ = ["Trial", "decoded"]

import inspect
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from latentctl.decoder import Posterior, Prior
from latentctl.errors import AdapterError
from latentctl.random import noise

from .attempts import CODES, CONSTANT, PARTS, SKIPS, TOKENS, WHOLE, Attempts
from .outputs import posterior_of, sample_of
from .pairs import pair_of, second_of

SIDES = (64, 32, 28, 128, 256, 96, 48, 16, 224, 512)
LENGTHS = (1024, 256, 128, 64, 4096, 16384, 512, 2048, 8192, 100, 1000, 16000)
EDGES = (32, 16, 64, 8)
BATCH = 4
FAR = 30.0  # scale of latents at which unbounded outputs leave [-1, 1]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

Shape = tuple[int, ...]


class Trial:
    """Runs a frozen view on random input, and records what was tried.

    Arguments:
        view: A frozen view.
        encode: Name of its encoder, or None.
        decode: Name of its decoder.
        name: Name of the model in messages.
    """

    def __init__(self, view: nn.Module, encode: str | None, decode: str, name: str) -> None:
        self.view, self.encode_name, self.decode_name, self.name = view, encode, decode, name
        tensors = [*view.parameters(), *view.buffers()]
        self.device = next((t.device for t in tensors), torch.device("cpu"))
        self.dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        self.encoder_kind = ""
        self.second: str | None = None
        self.attempts = Attempts(name, f"{encode or 'no encoder'} and {decode}")

    def decode(self, z: Tensor) -> Tensor:
        """The samples of `z`."""
        try:
            x = decoded(self.view, self.decode_name, z.to(self.device, self.dtype))
        except Exception as error:
            if re.search(WHOLE, str(error)):
                raise AdapterError(f"{CODES} ({error})") from error
            raise
        self.attempts.passed += 1
        if x.ndim == 0 or len(x) != len(z):
            raise AdapterError(f"{len(z)} latents were decoded into {tuple(x.shape)}")
        return x

    def decode_parts(self, z: Tensor, sample: Shape) -> Tensor:
        """The samples of 16 latents, in batches of 1, 3, 5 and 7."""
        parts = []
        for part in z.split((1, 3, 5, 7)):
            try:
                x = self.decode(part)
                if tuple(x.shape[1:]) != sample:
                    raise AdapterError(f"samples {tuple(x.shape)}, where others are {sample}")
            except Exception as error:
                raise AdapterError(
                    f"{len(z)} latents are decoded, and {len(part)} are not ({error}): a squeeze "
                    f"or a fixed batch size, or a module in training mode that latentctl cannot see"
                ) from error
            parts.append(x)
        return torch.cat(parts)

    def encode(self, x: Tensor) -> Posterior:
        """The posterior of `x`."""
        x = x.to(self.device, self.dtype)
        out, again = self._encoded(x), self._encoded(x)
        self.attempts.passed += 1
        if (pair := pair_of(out)) is not None and self.second is None:
            self.second = second_of(self.view, x, pair, self.decode)
        posterior = posterior_of(out, second=self.second)
        if not posterior.mean.is_floating_point():
            raise AdapterError(CODES)
        if not torch.equal(posterior.mean, posterior_of(again, second=self.second).mean):
            raise AdapterError(
                f"{self.name} encodes the same sample twice to different latents: it draws from "
                f"its posterior, or drops out. Pass encode= that returns the mean or the "
                f"distribution, such as encode=lambda x: model.posterior(x).mean"
            )
        alone = tuple(posterior_of(self._encoded(x[:1]), second=self.second).mean.shape)
        if alone != (1, *posterior.mean.shape[1:]):
            raise AdapterError(
                f"{self.name} encodes one sample into {alone} and {len(x)} into "
                f"{tuple(posterior.mean.shape)}: a squeeze removes the axis of the batch"
            )
        self.encoder_kind = "without std" if posterior.std is None else "with std"
        return posterior

    def _encoded(self, x: Tensor) -> Any:
        try:
            return getattr(self.view, self.encode_name or "")(x.clone())
        except Exception as error:
            if re.search(WHOLE, str(error)):
                raise AdapterError(f"{TOKENS} ({error})") from error
            raise

    @torch.no_grad()
    def shapes(self, latent_shape: Sequence[int] | None) -> tuple[Shape, Shape]:
        """Shapes of one latent and one sample.

        Raises:
            AdapterError: If every candidate fails; leads with the one that came furthest.
        """
        self._check_arguments()
        latents = [tuple(latent_shape)] if latent_shape is not None else list(self._latents())
        for shape in latents:
            self.attempts.begin()
            try:
                x = self._tried(shape)
                if self.encode_name is not None:
                    self._check_encoder(tuple(x.shape[1:]), shape)
                return shape, tuple(x.shape[1:])
            except Exception as error:
                self.attempts.failed(f"latent {shape}", error)
        if latent_shape is None and self.encode_name is not None:
            for shape in self._samples():
                self.attempts.begin()
                try:
                    return self._round(shape), shape
                except Exception as error:
                    self.attempts.failed(f"sample {shape}", error)
        raise self.attempts.error(latent_shape, self._guessed()) from self.attempts.furthest[3]

    def samples(self, prior: Prior) -> tuple[tuple[float, float] | None, bool]:
        """Range of decoded prior samples, None if unbounded, and whether gradients reach `z`.

        Raises:
            AdapterError: If the decoder draws random numbers, or uses weights outside the view.
        """
        z = prior.sample(4 * BATCH, seed=0).to(self.device, self.dtype)
        try:
            with torch.enable_grad():
                x = self.decode(z)
                differentiable = self.decode(z.detach().requires_grad_()).requires_grad
            with torch.no_grad():
                parts = self.decode_parts(z, tuple(x.shape[1:]))
                far = self.decode(FAR * z)
        except Exception as error:
            raise AdapterError(
                f"{self.name} cannot decode samples of its prior: {error}. Pass latent_shape= "
                f"and a prior= over latents of that shape."
            ) from error
        if x.requires_grad:
            raise AdapterError(
                f"{self.name} decodes with weights that take a gradient and that latentctl cannot "
                f"see, so it cannot freeze them. Pass the module itself: latentctl.wrap(model, "
                f'decode="name of its method"); layers in a list belong into an nn.ModuleList.'
            )
        floats = x.dtype.is_floating_point
        atol = torch.finfo(x.dtype).eps ** 0.5 * x.abs().max().item() if floats else 0
        if not torch.allclose(x, parts, rtol=0, atol=atol, equal_nan=True):
            raise AdapterError(
                f"{self.name} decodes the same latents twice to different samples: it draws "
                f"random numbers, mixes the samples of a batch (BatchNorm without running "
                f"statistics), calls F.dropout without training=self.training, or holds a module "
                f"in training mode where latentctl cannot see it. Pass decode= with its noise "
                f"held fixed, or the module itself."
            )
        return _bounds(torch.cat([x, far])), differentiable

    def _check_arguments(self) -> None:
        part = getattr(self.view, self.decode_name)
        try:
            call = inspect.signature(part.forward if isinstance(part, nn.Module) else part)
        except (TypeError, ValueError):  # it is not written in Python
            return
        try:
            call.bind(None)
        except TypeError as error:
            raise AdapterError(
                f"{self.name} cannot decode by the latent: {error}. {CONSTANT}"
            ) from error

    def _tried(self, shape: Shape) -> Tensor:
        z = noise(0, BATCH, shape, seed=0, purpose="trial")
        try:
            return self.decode(z)
        except Exception as error:
            try:
                self.decode(z[:1])
            except Exception:
                raise error from None
            raise AdapterError(
                f"one latent is decoded, and {BATCH} are not ({error}): what is held fixed has a "
                f"batch size of its own. Make it follow the latents: "
                f"decode=lambda z: model(z, torch.full((len(z),), label))"
            ) from error

    def _check_encoder(self, sample: Shape, latent: Shape) -> None:
        mean = self.encode(noise(0, BATCH, sample, seed=0, purpose="trial", uniform=True)).mean
        if tuple(mean.shape[1:]) != latent:
            raise AdapterError(
                f"latents {latent} are decoded into {sample}, which is encoded into "
                f"{tuple(mean.shape[1:])}"
            )

    def _round(self, sample: Shape) -> Shape:
        x = noise(0, BATCH, sample, seed=0, purpose="trial", uniform=True)
        mean = self.encode(x).mean
        back = tuple(self.decode(mean).shape[1:])
        if len(mean) != BATCH or back != sample:
            raise AdapterError(f"{sample} came back as {back}")
        return tuple(mean.shape[1:])

    def _latents(self) -> Iterator[Shape]:
        """Input sizes of the decoder's linear layers, and the 1x1 input of a DCGAN."""
        part = getattr(self.view, self.decode_name)
        layers = _layers(part if isinstance(part, nn.Module) else self.view)
        linear = [m.in_features for m in layers if isinstance(m, nn.Linear)]
        yield from ((size,) for size in dict.fromkeys(linear))
        if self.encode_name is None:  # with an encoder, its output decides
            for first in [m for m in layers if isinstance(m, TRANSPOSED)][:1]:
                yield (first.in_channels, *[1] * len(first.kernel_size))

    def _samples(self) -> Iterator[Shape]:
        """Inputs of the first layer of the encoder, at the usual sizes."""
        part = getattr(self.view, self.encode_name or "")
        if not isinstance(part, nn.Module):
            part = getattr(self.view, "encoder", self.view)
        for layer in _layers(part)[:1]:
            if isinstance(layer, nn.Linear):
                yield (layer.in_features,)
                for channels in (1, 3):
                    side = math.isqrt(layer.in_features // channels)
                    if channels * side * side == layer.in_features:
                        yield (channels, side, side)
            elif isinstance(layer, nn.Conv1d):
                yield from ((layer.in_channels, length) for length in LENGTHS)
            elif isinstance(layer, nn.Conv2d):
                yield from ((layer.in_channels, side, side) for side in SIDES)
            elif isinstance(layer, nn.Conv3d):
                yield from ((layer.in_channels, edge, edge, edge) for edge in EDGES)

    def _guessed(self) -> str:
        if self.decode_name == "forward" and self.encode_name is None:
            return f"Its forward was taken for a decoder, z -> x. {PARTS} {SKIPS}\n"
        return ""


def decoded(view: nn.Module, name: str, z: Tensor) -> Tensor:
    """Samples of latents by the method `name` of a view, which may modify its input."""
    recurrent = z.is_cuda and any(isinstance(m, nn.RNNBase) for m in view.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        # cudnn's recurrent layers give no gradient in evaluation mode
        return sample_of(getattr(view, name)(z.clone()))


def _layers(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, LAYERS)]


def _bounds(x: Tensor) -> tuple[float, float] | None:
    if not x.is_floating_point():
        return None
    low, high = x.min().item(), x.max().item()
    if low >= 0 and high <= 1:
        return (0.0, 1.0)
    return (-1.0, 1.0) if low >= -1 and high <= 1 else None

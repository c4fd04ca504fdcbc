"""The network of a pipeline with its conditions: how each family of diffusers is called."""

from __future__ import annotations

__all__ = ["Denoiser", "noise_shape"]

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from latentctl.errors import AdapterError

SHARED = ("txt_ids", "img_ids")  # arguments without an axis of samples
PATCH = 2  # cells of a side that a token of Flux covers


class Denoiser(nn.Module):
    """A network of diffusers with fixed conditions and classifier-free guidance.

    Arguments:
        network: A `UNet2DModel`, `UNet2DConditionModel`, or a transformer that is called with
            `hidden_states` and `timestep`, such as those of DiT, SD3 and Flux.
        condition: Its further arguments, tensors with one row, or mappings of such.
        other: Those of the other branch of guidance, None without guidance.
        guidance: Scale of guidance, `m = m_other + guidance (m_condition - m_other)`.
    """

    def __init__(
        self,
        network: nn.Module,
        condition: Mapping[str, Any],
        other: Mapping[str, Any] | None = None,
        guidance: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.guidance = network, guidance
        self.names: list[list[tuple[str, ...]]] = []
        branches = [condition] if other is None else [condition, other]
        for number, branch in enumerate(branches):  # as buffers they move, and are hashed
            flat = dict(_flat(branch))
            self.names.append(list(flat))
            for path, value in flat.items():
                self.register_buffer(_buffer(number, path), value)
        if other is not None:
            self.register_buffer("guidance_scale", torch.tensor(guidance))

    @property
    def is_flux(self) -> bool:
        """Whether the network reads tokens of 2 x 2 cells with their places."""
        return "img_ids" in inspect.signature(self.network.forward).parameters

    def forward(self, u: Tensor, t: float) -> Tensor:
        """The output `(B, C, h, w)` for noisy latents `u (B, C, h, w)` at the time `t`."""
        found = [self._branch(number, u, t) for number in range(len(self.names))]
        if len(found) == 1:
            return found[0]
        return found[1] + self.guidance * (found[0] - found[1])

    def _branch(self, number: int, u: Tensor, t: float) -> Tensor:
        time = torch.full((len(u),), t, device=u.device, dtype=torch.float32)
        options = self._arguments(number, len(u))
        if self.is_flux:
            return self._flux(u, time / 1000, options)
        out: Tensor = self.network(u, timestep=time, return_dict=False, **options)[0]
        return out[:, : u.shape[1]]  # the rest are variances

    def _flux(self, u: Tensor, time: Tensor, options: dict[str, Any]) -> Tensor:
        rows, columns = (side // PATCH for side in u.shape[-2:])
        tokens = rearrange(u, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)
        places = torch.zeros(rows, columns, 3).to(u)
        places[..., 1] += torch.arange(rows).to(u)[:, None]
        places[..., 2] += torch.arange(columns).to(u)[None, :]
        options.setdefault("img_ids", places.flatten(0, 1))
        if "txt_ids" not in options:
            words = options["encoder_hidden_states"].shape[1]
            options["txt_ids"] = torch.zeros(words, 3).to(u)
        network: Any = self.network
        if getattr(network.config, "guidance_embeds", False):
            options.setdefault("guidance", torch.full_like(time, self.guidance))
        out = network(tokens, timestep=time, return_dict=False, **options)[0]
        sides = {"h": rows, "w": columns, "p": PATCH, "q": PATCH}
        grid: Tensor = rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", **sides)
        return grid

    def _arguments(self, number: int, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in self.names[number]:
            value: Tensor = getattr(self, _buffer(number, path))
            if path[-1] not in SHARED:
                value = repeat(value, "1 ... -> b ...", b=count)
            place = found
            for key in path[:-1]:
                place = place.setdefault(key, {})
            place[path[-1]] = value
        return found


def noise_shape(
    network: Any, factor: int, resolution: int | Sequence[int] | None
) -> tuple[int, ...]:
    """Shape of the noise for samples of `resolution` pixels.

    Arguments:
        network: The network.
        factor: Pixels of a side for each of its cells.
        resolution: Height and width in pixels; by default those of its configuration.

    Raises:
        AdapterError: If no resolution is given or configured, or it is no multiple of the cells.
    """
    config = network.config
    channels = int(config.in_channels)
    if "img_ids" in inspect.signature(network.forward).parameters:
        channels //= PATCH * PATCH
    if resolution is None:
        side = config.get("sample_size")
        if side is None:
            raise AdapterError(
                f"The configuration of {type(network).__name__} names no resolution: pass "
                f"resolution=, the height and width in pixels."
            )
        sides = (side, side) if isinstance(side, int) else tuple(side)
    else:
        pixels = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        if any(side % factor for side in pixels):
            raise AdapterError(f"A resolution of {pixels} is no multiple of {factor}.")
        sides = tuple(side // factor for side in pixels)
    return (channels, *sides)


def _flat(
    branch: Mapping[str, Any], path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], Tensor]]:
    """The tensors of nested mappings, each with its path."""
    found = []
    for key, value in branch.items():
        if isinstance(value, Mapping):
            found += _flat(value, (*path, key))
        elif isinstance(value, Tensor) and (key in SHARED or value.shape[:1] == (1,)):
            found.append(((*path, key), value.detach()))
        else:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise AdapterError(
                f"The condition {key!r} is the same for all samples, a tensor with one row "
                f"(1, ...). It is {shape}."
            )
    return found


def _buffer(number: int, path: tuple[str, ...]) -> str:
    return f"condition_{number}_" + "__".join(path)

r"""A timm network over pixels, for pseudo-labels, as an evaluator, and as a critic of latents.

For outputs :math:`l_o` of one softmax, an attribute that is a group :math:`G` of classes has the
log-odds

.. math:: \mathrm{logit}\, P(G \mid x) = \log \sum_{o \in G} e^{l_o}
    - \log \sum_{o \notin G} e^{l_o}

and for outputs of separate sigmoids, :math:`P(G) = 1 - \prod_{o \in G} (1 - P(o))`. Both are
differentiable in the image, resizing included.

`label` takes any other scorer as well, such as a zero-shot one with scores in [0, 1].

References:
    | PyTorch Image Models (Wightman, 2019)
    | https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

__all__ = ["Labelled", "TimmNetwork", "label"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentctl.critics.log_odds import log_odds
from latentctl.errors import AdapterError, InputError, ShapeError

from .labels import Labelled, label

Names = Sequence[str] | Mapping[str, int | Iterable[int]]


class TimmNetwork(nn.Module):
    """Log-odds `(B, K)` of named attributes in images, by a timm network.

    The network is pretrained or fine-tuned elsewhere, and keeps its mode and `requires_grad`
    (`latentctl.PixelCritic` takes a frozen view). Whole images are resized to the resolution that
    the network was trained on, without a central crop.

    Arguments:
        network: A network that timm made, or the name of one (`timm.list_models`,
            `"hf-hub:owner/name"`).
        names: The attributes: a name for each output in order, or a mapping of names to one or
            several outputs each.
        outputs: Whether outputs are mutually exclusive classes ("softmax"), as of networks trained
            on ImageNet, or independent ("sigmoid").
        resolution: Height and width in pixels of the network's input; its own by default.
        options: Of `timm.create_model`, where a name is given; `pretrained=True` by default.

    Raises:
        AdapterError: If timm is missing or has no such network, or the network does not run.
        InputError: If the names do not fit the outputs.

    Example:
        >>> import timm
        >>> net = timm.create_model("test_resnet", pretrained=False, num_classes=5)
        >>> pets = TimmNetwork(net, {"Dog": [0, 1], "Cat": 2})
        >>> pets(torch.rand(4, 3, 64, 64)).shape, pets.resolution
        (torch.Size([4, 2]), (160, 160))
        >>> label(pets, torch.rand(4, 3, 64, 64)).shape  # probabilities
        torch.Size([4, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module | str,
        names: Names,
        *,
        outputs: Literal["softmax", "sigmoid"] = "softmax",
        resolution: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise AdapterError(
                "TimmNetwork needs timm, which is not installed: pip install 'latentctl[timm]'."
            ) from error
        if outputs not in ("softmax", "sigmoid"):
            raise InputError(f'outputs are "softmax" or "sigmoid", not {outputs!r}.')
        if isinstance(network, str):
            self.net: nn.Module = _made(timm, network, options)
        elif options:
            raise InputError(f"{', '.join(options)}: options are for networks given by name.")
        else:
            self.net = network
        self.outputs = outputs
        config = timm.data.resolve_data_config(model=self.net)
        self.channels = _channels(self.net)
        side = config["input_size"][-2:]
        self.resolution = (resolution, resolution) if resolution else (side[0], side[1])
        self.interpolation = "bicubic" if config["interpolation"] == "bicubic" else "bilinear"
        for key in ("mean", "std"):
            value = torch.tensor(config[key], dtype=torch.float32)
            if len(value) != self.channels:  # the network has other channels than its config
                value = value.mean().expand(self.channels).clone()
            self.register_buffer(key, value.view(1, -1, 1, 1), persistent=False)
        self.to(next((p.device for p in self.net.parameters()), torch.device("cpu")))
        self.groups = _groups(names, self._count(), outputs)
        self.names = tuple(self.groups)

    @torch.no_grad()
    def _count(self) -> int:
        """Outputs of the network, found by a trial run in evaluation mode."""
        modes = {module: module.training for module in self.net.modules()}
        x = torch.zeros(1, self.channels, *self.resolution, device=self.mean.device)
        kind = type(self.net).__name__
        try:
            out = self.net.eval()(x)
        except Exception as error:  # an architecture may raise any error at another size
            raise AdapterError(
                f"The {kind} does not take images {tuple(x.shape[1:])}: {type(error).__name__}: "
                f"{error}. Pass resolution=, the height and width that it was trained on."
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        if not isinstance(out, Tensor) or out.ndim != 2:
            raise AdapterError(
                f"The {kind} returns no logits (B, outputs). Make it with a classifier: "
                f"num_classes=... and a pooling."
            )
        return out.shape[1]

    def prepare(self, x: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] resized and normalised; grey ones get all channels."""
        if x.ndim != 4 or x.shape[1] not in (1, self.channels):
            raise ShapeError(
                f"The {type(self.net).__name__} takes images (B, {self.channels}, H, W) in "
                f"[0, 1], found {tuple(x.shape)}."
            )
        x = x.expand(-1, self.channels, -1, -1)
        if x.shape[2:] != self.resolution:
            x = F.interpolate(x, self.resolution, mode=self.interpolation, antialias=True)
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Log-odds `(B, K)` of images `x (B, C, H, W)` in [0, 1]."""
        out: Tensor = self.net(self.prepare(x)).float()
        return torch.stack([self._odds(out, group) for group in self.groups.values()], 1)

    def _odds(self, out: Tensor, group: list[int]) -> Tensor:
        if self.outputs == "softmax":
            rest = [o for o in range(out.shape[1]) if o not in group]
            return out[:, group].logsumexp(1) - out[:, rest].logsumexp(1)
        if len(group) == 1:
            return out[:, group[0]]
        return -log_odds(F.logsigmoid(-out[:, group]).sum(1))

    def probability(self, x: Tensor) -> Tensor:
        """Probabilities `(B, K)` of images `x (B, C, H, W)` in [0, 1]."""
        odds: Tensor = self(x)
        return odds.sigmoid()

    def features(self, x: Tensor) -> Tensor:
        """Pooled features `(B, F)` that the last layer reads, for `latentctl.evaluation`."""
        net: Any = self.net
        features: Tensor = net.forward_head(net.forward_features(self.prepare(x)), pre_logits=True)
        return features


def _made(timm: Any, model_name: str, options: dict[str, Any]) -> nn.Module:
    try:
        made: nn.Module = timm.create_model(model_name, **{"pretrained": True, **options})
    except Exception as error:  # an unknown name, a refused download, a wrong option
        raise AdapterError(
            f"timm cannot create {model_name!r}: {type(error).__name__}: {error}. See "
            f"timm.list_models(pretrained=True), or pass a network that you loaded."
        ) from error
    return made.eval()


def _channels(network: nn.Module) -> int:
    """Channels of the images, by the first convolution."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _groups(names: Names, count: int, outputs: str) -> dict[str, list[int]]:
    if not isinstance(names, Mapping):
        if isinstance(names, str) or len(names) != count:
            raise InputError(
                f"The network has {count} outputs. Give as many names, or a mapping of names to "
                f"outputs, such as {{'Dog': range(151, 269)}}."
            )
        names = {name: number for number, name in enumerate(names)}
    groups = {
        name: sorted({one} if isinstance(one, int) else set(one)) for name, one in names.items()
    }
    if not groups:
        raise InputError("There is no name. Give at least one, with its outputs.")
    for name, group in groups.items():
        if not group or group[0] < 0 or group[-1] >= count:
            raise InputError(
                f"{name!r} names outputs {group}, and the network has 0 to {count - 1}."
            )
        if outputs == "softmax" and len(group) == count:
            raise InputError(
                f"{name!r} names all {count} outputs of a softmax, so it is always true. "
                f'Leave some out; or pass outputs="sigmoid".'
            )
    return groups

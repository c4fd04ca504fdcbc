r"""Networks on samples as critics of latents: through the frozen decoder.

.. math:: \mathrm{logit}\, P(a_k \mid z) = \frac{s_k}{M} \sum_{m=1}^{M} h_{mk}(g(z)) + b_k

with the decoder :math:`g` and networks :math:`h_m` on samples. The scale :math:`s_k` and the bias
:math:`b_k` are 1 and 0 until `calibrate` fits them on labelled data (`critics.calibration`). Such
critics are exact and slow: every evaluation decodes. They are distilled into a fast one
(`latentctl.distill`), refine its edits (`controllers.Refined`), and score results independently
(`condition(..., evaluator=...)`). An evaluator should share no network with the critics that edits
ascend, since edits are adversarial to those.
"""

from __future__ import annotations

__all__ = ["PixelCritic"]

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..decoder import Decoder
from ..decoder.frozen import frozen_view
from ..errors import InputError, ShapeError, UnknownNameError
from ..latents.names import attribute_names
from ..progress import track
from .base import Critic
from .calibration import platt_scaling

Network: TypeAlias = Callable[[Tensor], Tensor]
BATCH = 128  # samples decoded or classified at once


class PixelCritic(Critic):
    """Log-odds `(B, K)` of named attributes of what latents decode to.

    Arguments:
        decoder: The frozen decoder.
        networks: One or more, each `x (B, *sample_shape)` in [0, 1] to log-odds `(B, K)`. They
            are viewed, frozen and in evaluation mode; the caller's own stay as they are.
        names: The attributes; those of the first network (`network.names`) if not given. Of a
            network with names of its own these outputs are taken, in this order.
        probabilities: Whether the networks return probabilities in [0, 1] instead of log-odds.

    Raises:
        InputError: If there is no network, or no names for its outputs.
        UnknownNameError: If a network with names lacks one of the attributes.
        ShapeError: If a network does not return `(B, K)`.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(nn.Linear(4, 12), decode="forward", value_range=(0, 1))
        >>> bright = lambda x: 10 * (x.mean(1, keepdim=True) - 0.5)
        >>> critic = PixelCritic(decoder, bright, names=["Bright"])
        >>> critic(torch.zeros(3, 4)).shape, critic["Bright"](torch.zeros(3, 4)).shape
        (torch.Size([3, 1]), torch.Size([3, 1]))
    """

    scale: Tensor
    bias: Tensor
    threshold: float | None
    """Probability from which it is right often enough about edits
    (`conditional.threshold.choose_threshold`); None if none was chosen."""

    def __init__(
        self,
        decoder: Decoder,
        *networks: Network,
        names: Sequence[str] | None = None,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        if not networks:
            raise InputError("A PixelCritic needs a network on samples: PixelCritic(decoder, net).")
        found = names if names is not None else getattr(networks[0], "names", None)
        if not found:
            raise InputError(
                f"The outputs of the {type(networks[0]).__name__} have no names. Pass names=[...], "
                f"one for each of them."
            )
        self.names, self.latent_shape = attribute_names(found), decoder.latent_shape
        self.columns = [_columns(network, self.names) for network in networks]
        self.decoder, self.probabilities, self.threshold = decoder, probabilities, None
        self.networks: list[Any] = [
            frozen_view(n) if isinstance(n, nn.Module) else n for n in networks
        ]
        self.views = nn.ModuleList(n for n in self.networks if isinstance(n, nn.Module))
        self.register_buffer("scale", torch.ones(len(self.names)))
        self.register_buffer("bias", torch.zeros(len(self.names)))
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))
        self.to(decoder.device)
        super().train(False)

    def train(self, mode: bool = True) -> PixelCritic:
        """Does nothing: the networks are always in evaluation mode."""
        return self

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, K)` of `z (B, *latent_shape)`."""
        return self.of_samples(self.decoder.decode(z))

    def of_samples(self, x: Tensor) -> Tensor:
        """Log-odds `(B, K)` of samples `x (B, *sample_shape)` in the decoder's range."""
        if self.decoder.value_range is not None:
            low, high = self.decoder.value_range
            x = ((x - low) / (high - low)).clamp(0, 1)
        pairs = zip(self.networks, self.columns, strict=True)
        logits = sum(self._one(network, x, *columns) for network, columns in pairs)
        return self.scale * logits / len(self.networks) + self.bias

    def _one(self, network: Network, x: Tensor, own: Sequence[str], columns: list[int]) -> Tensor:
        output = network(x)
        if output.shape != (len(x), len(own)):
            raise ShapeError(
                f"The {type(network).__name__} should return ({len(x)}, {len(own)}) for "
                f"{', '.join(own)}, it returned {tuple(output.shape)}."
            )
        output = output[:, columns] if own != self.names else output
        return torch.logit(output, eps=1e-6) if self.probabilities else output

    def score(self, z: Tensor, *, batch_size: int | None = BATCH) -> Tensor:
        return super().score(z, batch_size=batch_size)

    @torch.no_grad()
    def score_samples(self, x: Tensor, *, batch_size: int = BATCH) -> Tensor:
        """Log-odds `(N, K)` of many samples without gradients, on the device of `x`."""
        parts = track(x.split(batch_size), "Score", "batch")
        return torch.cat([self.of_samples(part.to(self.device)) for part in parts]).to(x.device)

    def calibrate(self, x: Tensor, labels: Tensor) -> PixelCritic:
        """Fits scale and bias of each attribute on held-out samples.

        Arguments:
            x: Output of the decoder, `(N, *sample_shape)`: reconstructions, rather than originals.
            labels: `(N, K)` in [0, 1]; NaN = unknown.

        Raises:
            ShapeError: If the labels do not fit.
        """
        if labels.shape != (len(x), len(self.names)):
            raise ShapeError(
                f"{len(x)} samples and {len(self.names)} attributes need labels "
                f"({len(x)}, {len(self.names)}), these are {tuple(labels.shape)}."
            )
        self.scale.fill_(1), self.bias.zero_()
        scale, bias = platt_scaling(self.score_samples(x), labels)
        self.scale.copy_(scale), self.bias.copy_(bias)
        return self


def _columns(network: Network, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[int]]:
    """The names of a network's outputs, and the columns of those that are wanted."""
    own = getattr(network, "names", None)
    own = names if own is None else tuple(own)
    for name in names:
        if name not in own:
            raise UnknownNameError(f"output of the {type(network).__name__}", name, own)
    return own, [own.index(name) for name in names]

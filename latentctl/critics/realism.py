r"""The realism critic: a discriminator of encodings of data from samples of the prior.

A latent with high realism is where the decoder was trained. The conditional critic discriminates
pairs :math:`(z, y)`.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["RealismCritic", "gradient_penalty"]

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latents.names import attribute_names
from ..nn.trunk import ScoreNet, encode_targets
from ..storage import register_to_config
from .base import Critic


class RealismCritic(Critic, kind="realism"):
    r"""Log-odds that `z` is the encoding of data, and, if conditional, of data with attributes `y`.

    .. math::
        L_D = \mathbb{E}_{q(z \mid x)}[-\log D(z, y)] + \mathbb{E}_{p(z)}[-\log(1 - D(z, y))]
            + \mathbb{E}_{G(p(z), y)}[-\log(1 - D(z, y))]

    For a conditional critic, real encodings with *other* attributes are negatives too. A penalty on
    the gradient between real and fake latents is added (see `gradient_penalty`).

    Arguments:
        latent_shape: Shape of one latent.
        context_names: The attributes of a conditional critic, none for an unconditional one.
        width: Units of each layer.
        depth: Number of layers.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int],
        context_names: Sequence[str] = (),
        *,
        width: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.context_names = attribute_names(context_names)
        context = 2 * len(self.context_names)
        self.net = ScoreNet(latent_shape, 1, context=context, width=width, depth=depth)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Log-odds `(B, 1)` of `z (B, *latent_shape)` under targets `y (B, K)`, NaN = free."""
        context = None
        if self.context_names:
            free = torch.full((len(z), len(self.context_names)), torch.nan, device=z.device)
            context = encode_targets(free if y is None else y.expand(len(z), -1))
        logits: Tensor = self.net(z, context)
        return logits

    def with_context(self, y: Tensor | None) -> Critic:
        """The unconditional critic for fixed targets `y (B, K)` or `(1, K)`."""
        return _WithContext(self, y)

    def loss(
        self,
        real: Tensor,
        fake: Tensor,
        alpha: Tensor,
        y: Tensor | None = None,
        other_y: Tensor | None = None,
        *,
        penalty: float = 10.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the critic, and what to log.

        Arguments:
            real: Encodings of data, `(B, *latent_shape)`.
            fake: Samples of the prior or of the actor, `(B, *latent_shape)`.
            alpha: Uniform numbers in [0, 1], `(B, *latent_shape)`, for the gradient penalty.
            y: The attributes of `real` and the targets of `fake`, `(B, K)`, NaN = free.
            other_y: Attributes of other data, `(B, K)`; rows that agree with `y` do not count.
            penalty: Weight of the gradient penalty.
        """
        count = len(real)
        if y is None:
            scores = self(torch.cat([real, fake]))
        else:
            other = y if other_y is None else torch.where(torch.isnan(y), y, other_y)
            scores = self(torch.cat([real, fake, real]), torch.cat([y, y, other]))
        on_real, on_fake = scores[:count], scores[count : 2 * count]
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if y is not None and other_y is not None:
            differs = ((y - other_y).abs() > 0.5).any(1, keepdim=True)
            loss = loss + (F.softplus(scores[2 * count :]) * differs).mean()
        slope = gradient_penalty(self.with_context(y), real, fake, alpha)
        logs = {"real": on_real.mean(), "fake": on_fake.mean(), "gradient_penalty": slope}
        return loss + penalty * slope, logs


class _WithContext(Critic):
    def __init__(self, critic: RealismCritic, y: Tensor | None) -> None:
        super().__init__()
        self.critic, self.y = critic, y

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.critic(z, self.y)
        return out


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    r"""Mean squared excess of the critic's gradient over one, between real and fake latents.

    .. math:: \mathbb{E}[(\| \nabla_z D(z) \| - 1)^2], \quad z = r + \alpha \odot (f - r)

    The penalty is on the log-odds of a `critic` with fixed targets. The latents `real` and `fake`
    and the uniform numbers `alpha` in [0, 1], one for each dimension, are `(B, *latent_shape)`.
    """
    between = torch.lerp(real, fake, alpha).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    excess: Tensor = (norm - 1).square().mean()
    return excess

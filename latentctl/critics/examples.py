r"""An attribute from a few examples, or from pairs before and after.

The difference of the means of ten examples in 256 dimensions is mostly noise, which an edit would
follow. Two sources without labels of the new attribute reduce it: the features :math:`\phi(z)` of
a critic of *other* attributes, the last hidden layer of its network, and the covariance of
encodings. The first step is the regularised linear discriminant of the features,

.. math::
    s(z) = w^T (\phi(z) - \tfrac{1}{2} (\bar \phi_{+} + \bar \phi_{-})), \quad
    w = (S + \tfrac{\rho}{n} \bar v I)^{-1} (\bar \phi_{+} - \bar \phi_{-})

with the covariance :math:`S` of all encodings, of mean variance :math:`\bar v`, and the number of
examples :math:`n`: the fewer they are, the nearer it is to the plain difference of means. In the
second step the discriminant predicts soft labels of all encodings, and the critic is linear in the
latents, along their covariance with those labels. A linear critic is smoother than any network,
which preserves identity in edits,

.. math::
    \mathrm{logit}\, P(a \mid z) = \alpha \, u^T z + \beta, \quad
    u = \mathrm{Cov}(z, \mathrm{sigmoid}(\gamma s(z)))

where :math:`\alpha` and :math:`\beta` set the standard deviation of the log-odds over encodings to
that of a critic of all labels, so that ascent moves as far. Without another critic the features are
the latents, and :math:`u = w`.

References:
    | Regularized Discriminant Analysis (Friedman, 1989)
    | https://doi.org/10.1080/01621459.1989.10478752
    | Self-training with Noisy Student improves ImageNet classification (Xie et al., 2019)
    | https://arxiv.org/abs/1911.04252
"""

from __future__ import annotations

__all__ = ["ExampleCritic"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, ShapeError, check_kind, check_rows
from ..latents import Latents
from ..nn.precision import full_precision
from ..random import permutation
from ..storage import register_to_config
from .base import Critic
from .network import NetworkCritic

PSEUDO_SPREAD = 4.0  # standard deviation of the log-odds of pseudo-labels over encodings
MOST_FEATURES = 4096  # up to here the covariance is a matrix
MOST_ROWS = 16_384  # encodings that are used
FEWER_ROWS = 1024  # the same, where the covariance is no matrix
PART = 1024  # latents at once


class ExampleCritic(Critic, kind="examples"):
    """Log-odds `(B, 1)` of one attribute, fitted to few examples and linear in the latent.

    Arguments:
        latent_shape: Shape of one latent.
        name: The attribute.

    Example:
        >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> tall = z[:, 0] > 0
        >>> critic = ExampleCritic.fit("Tall", z[tall][:15], z[~tall][:15], latents=Latents(z))
        >>> critic(z).shape, bool(((critic(z)[:, 0] > 0) == tall).float().mean() > 0.8)
        (torch.Size([200, 1]), True)
    """

    weight: Tensor
    bias: Tensor

    @register_to_config
    def __init__(self, latent_shape: Sequence[int], name: str) -> None:
        super().__init__()
        self.latent_shape, self.names = tuple(latent_shape), (name,)
        self.register_buffer("weight", torch.zeros(self.latent_shape))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, 1)` of `z (B, *latent_shape)`."""
        advice = "It was made for another decoder."
        check_rows(z, self.latent_shape, "This critic takes latents", advice)
        with full_precision(z):
            return (z.flatten(1) @ self.weight.flatten() + self.bias)[:, None]

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        name: str,
        with_it: Tensor,
        without: Tensor,
        *,
        latents: Latents | None = None,
        known: NetworkCritic | None = None,
        ridge: float = 1000.0,
        spread: float = 2.0,
    ) -> ExampleCritic:
        r"""A critic that discriminates `with_it` from `without`, in closed form.

        Arguments:
            name: The attribute.
            with_it: Latents of examples, `(n, *latent_shape)`.
            without: Latents of counterexamples, `(m, *latent_shape)`; best as many.
            latents: Encodings, the more the better; their labels are not used. Without them the
                critic is the plain difference of means.
            known: A critic of other attributes, the more the better, such as an `AttributeCritic`.
                It needs `latents`. The new critic does not refer to it.
            ridge: Regularisation :math:`\rho`, divided by the number of examples; infinity gives
                the difference of means.
            spread: Standard deviation of the log-odds over encodings.

        Raises:
            InputError: If there is no example of one kind, or both kinds are the same.
            ShapeError: If the shapes differ.
        """
        _check(name, with_it, without, latents, known)
        critic = cls(with_it.shape[1:], name).to(with_it.device)
        examples = torch.cat([with_it, without])
        features = _features(known)
        high, low = (features(part).mean(0) for part in (with_it, without))
        weight = high - low
        if not bool(weight.any()):
            raise InputError(f"The examples with and without {name!r} are the same on average.")
        z = examples
        if latents is not None:
            order = permutation(len(latents), seed=0, epoch=0, purpose="encodings")
            rows = order[: MOST_ROWS if len(weight) <= MOST_FEATURES else FEWER_ROWS]
            z = latents[rows].mean.to(examples)
            critic.posterior_std.copy_(latents.posterior_std())
        around = features(z)
        if latents is not None and math.isfinite(ridge):
            weight = _discriminant(around - around.mean(0), weight, ridge / len(examples))
        score = (around - (high + low) / 2) @ weight
        size = score.std().clamp_min(1e-12)
        flat = z.flatten(1)
        if known is not None:
            pseudo_labels = torch.sigmoid(PSEUDO_SPREAD * score / size)
            weight = (flat - flat.mean(0)).T @ (pseudo_labels - pseudo_labels.mean())
        along = flat @ weight
        weight = weight * (spread / along.std().clamp_min(1e-12))
        critic.weight.copy_(weight.view(critic.latent_shape))
        critic.bias.copy_(spread * score.mean() / size - (flat @ weight).mean())
        return critic.eval()

    @classmethod
    def from_pairs(cls, name: str, before: Tensor, after: Tensor, **options: Any) -> ExampleCritic:
        """A critic of what was added between `before` and `after`, in closed form.

        The mean difference of pairs is the difference of means. What both of a pair have in common,
        such as the identity, cancels, so pairs determine it better than as many examples.

        Arguments:
            name: The attribute.
            before: Latents without it, `(n, *latent_shape)`.
            after: The same with it, row by row.
            options: `latents`, `known`, `ridge` and `spread` of `fit`.

        Raises:
            InputError: If there is no pair, or nothing differs.
            ShapeError: If the shapes differ.
        """
        if len(before) != len(after) and len(before) and len(after):
            raise ShapeError(
                f"Each of the {len(before)} latents before needs one after, there are {len(after)}."
            )
        return cls.fit(name, after, before, **options)


def _features(known: NetworkCritic | None) -> Callable[[Tensor], Tensor]:
    """The features `(B, F)` in which a discriminant is linear; means over the cells of a grid."""

    def hidden(z: Tensor) -> Tensor:
        if known is None:
            return z.flatten(1)
        trunk = known.net.trunk
        found = torch.cat([trunk(part.to(trunk.shift)) for part in z.split(PART)]).to(z)
        return found.flatten(2).mean(2) if trunk.spatial else found

    return hidden


def _discriminant(centred: Tensor, difference: Tensor, ridge: float) -> Tensor:
    r""":math:`(S + \mathrm{ridge}\, \bar v I)^{-1} d` for the covariance of `centred (N, F)`."""
    count, size = centred.shape
    pull = ridge * centred.square().mean().clamp_min(1e-12)
    if size <= MOST_FEATURES:
        system = centred.T @ centred / count
        system.diagonal().add_(pull)
        found: Tensor = torch.linalg.solve(system, difference)
        return found
    # (X'X / N + p I)^-1 d = (d - X' (p N I + X X')^-1 X d) / p needs a matrix of the rows only
    system = centred @ centred.T
    system.diagonal().add_(pull * count)
    inside = centred.T @ torch.linalg.solve(system, centred @ difference)
    found = (difference - inside) / pull
    return found


def _check(
    name: str,
    with_it: Tensor,
    without: Tensor,
    latents: Latents | None,
    known: NetworkCritic | None,
) -> None:
    for part in (with_it, without):
        check_kind(part, Tensor, "Examples", "Encode them: decoder.encode(x).mean.")
    shape = tuple(with_it.shape[1:])
    for what, part in (("with it", with_it), ("without it", without)):
        if part.ndim < 2 or tuple(part.shape[1:]) != shape:
            raise ShapeError(
                f"Examples of {name!r} are latents (n, *latent_shape) of one shape; those with it "
                f"are {tuple(with_it.shape)}, those without {tuple(without.shape)}."
            )
        if not len(part):
            raise InputError(
                f"There is no example {what} of {name!r}. A critic needs both classes: bring "
                f"latents of both; any latents without it will do."
            )
        if not bool(torch.isfinite(part).all()):
            raise InputError(f"An example {what} of {name!r} is not finite.")
    for kind, given in (("latents", latents), ("known critic", known)):
        if given is not None and given.latent_shape != shape:
            raise ShapeError(
                f"The examples of {name!r} are latents {shape}, the {kind} are of "
                f"{given.latent_shape}. They belong to another decoder."
            )
    if known is not None and latents is None:
        raise InputError(
            f"A known critic ({', '.join(known.names[:3])}) helps to fit {name!r} only on "
            f"encodings: pass latents=..., which need no labels."
        )

r"""An attribute from a few examples, or from pairs before and after.

Ten examples tell hardly anything in 256 dimensions: the difference of their means is mostly noise,
and noise is what an edit would follow. Two things that need no labels of the new attribute help.
A critic that knows *other* attributes has learned features :math:`\phi(z)`, the last hidden layer
of its network, in which new ones are simple; and encodings without labels tell how such features
vary. The critic is the regularised linear discriminant of those features,

.. math::
    s(z) = a \, w^T (\phi(z) - c), \quad
    w = (S + \tfrac{\rho}{n} \bar v I)^{-1} (\bar \phi_{+} - \bar \phi_{-}), \quad
    c = \tfrac{1}{2} (\bar \phi_{+} + \bar \phi_{-})

with the covariance :math:`S` of all encodings, of mean variance :math:`\bar v`, and the number of
examples :math:`n`: the fewer they are, the nearer it is to the plain difference of means. The scale
:math:`a` gives the log-odds the spread over encodings that a critic of all labels has, so that
ascent moves as far on either.

References:
    | Regularized Discriminant Analysis (Friedman, 1989)
    | https://doi.org/10.1080/01621459.1989.10478752
    | A Baseline for Few-Shot Image Classification (Dhillon et al., 2019)
    | https://arxiv.org/abs/1909.02729
"""

from __future__ import annotations

__all__ = ["ExampleCritic"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, ShapeError
from ..latents import Latents
from ..nets import Trunk
from ..random import permutation
from .named import NamedCritics
from .scorer import NamedScorer

RIDGE = 1000.0  # in mean variances, divided by the number of examples
SPREAD = 2.5  # standard deviation of the log-odds over encodings
MOST_FEATURES = 4096  # up to here the covariance is a matrix
MOST_ROWS = 16_384  # encodings that the covariance is of
FEWER_ROWS = 1024  # the same, where it is not a matrix
PART = 1024  # latents at once


class ExampleCritic(NamedCritics):
    r"""Log-odds `(B, 1)` of one attribute that few examples tell.

    Arguments:
        latent_shape: Shape of one latent.
        name: The attribute.
        width: Units of each layer of the features.
        depth: Layers of the features; 0 for the latents themselves.

    Example:
        >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> tall = z[:, 0] > 0
        >>> critic = ExampleCritic.fit("Tall", z[tall][:15], z[~tall][:15], latents=Latents(z))
        >>> critic(z).shape, bool(((critic["Tall"](z) > 0) == tall).float().mean() > 0.8)
        (torch.Size([200, 1]), True)
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, latent_shape: Sequence[int], name: str, *, width: int = 512, depth: int = 0
    ) -> None:
        super().__init__()
        self.latent_shape, self.names = tuple(latent_shape), (name,)
        self.config = {
            "latent_shape": list(latent_shape),
            "name": name,
            "width": width,
            "depth": depth,
        }
        self.trunk = Trunk(latent_shape, width=width, depth=depth).requires_grad_(False)
        with torch.no_grad():
            count = self.features(torch.zeros(1, *self.latent_shape)).shape[1]
        self.register_buffer("weight", torch.zeros(count))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("posterior_std", torch.ones(self.latent_shape))

    def features(self, z: Tensor) -> Tensor:
        """What it is linear in, `(B, F)`; the features of a grid are means over its cells."""
        if not self.config["depth"]:
            return (z - self.trunk.shift).flatten(1)
        found: Tensor = self.trunk(z)
        return found.flatten(2).mean(2) if self.trunk.spatial else found

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds `(B, 1)` of `z (B, *latent_shape)`."""
        return (self.features(z) @ self.weight + self.bias)[:, None]

    @classmethod
    def fit(
        cls,
        name: str,
        with_it: Tensor,
        without: Tensor,
        *,
        latents: Latents | None = None,
        known: NamedScorer | None = None,
        ridge: float = RIDGE,
        spread: float = SPREAD,
    ) -> ExampleCritic:
        r"""A critic of what distinguishes `with_it` from `without`, in closed form.

        Arguments:
            name: The attribute.
            with_it: Latents of examples, `(n, *latent_shape)`.
            without: Latents of counterexamples, `(m, *latent_shape)`; best as many.
            latents: Encodings, the more the better; their labels are not looked at. Without them
                nothing is known of how features vary but what the examples show.
            known: A critic of other attributes, such as an `AttributeCritic`, whose last hidden
                layer gives the features. Without it they are the latents.
            ridge: :math:`\rho`, how far few examples are to be trusted; infinity gives the
                difference of means.
            spread: Standard deviation of the log-odds over encodings.

        Raises:
            InputError: If there is no example of one kind, or both kinds are the same.
            ShapeError: If the shapes differ.
        """
        _check(name, with_it, without, latents, known)
        return cls._learn(name, with_it, without, latents, known, ridge, spread)

    @classmethod
    def from_pairs(
        cls,
        name: str,
        before: Tensor,
        after: Tensor,
        *,
        latents: Latents | None = None,
        known: NamedScorer | None = None,
        ridge: float = RIDGE,
        spread: float = SPREAD,
    ) -> ExampleCritic:
        """A critic of what was added between `before` and `after`, in closed form.

        The mean difference of pairs is the difference of means, but what both of a pair have in
        common, such as who it is, drops out of it: pairs say more than as many examples.

        Arguments:
            name: The attribute.
            before: Latents without it, `(n, *latent_shape)`.
            after: The same with it, row by row.
            latents: As in `fit`.
            known: As in `fit`.
            ridge: As in `fit`.
            spread: As in `fit`.

        Raises:
            InputError: If there is no pair, or nothing differs.
            ShapeError: If the shapes differ.
        """
        _check(name, after, before, latents, known)
        if len(before) != len(after):
            raise ShapeError(
                f"Each of the {len(before)} latents before needs one after, there are {len(after)}."
            )
        return cls._learn(name, after, before, latents, known, ridge, spread)

    @classmethod
    @torch.no_grad()
    def _learn(
        cls,
        name: str,
        with_it: Tensor,
        without: Tensor,
        latents: Latents | None,
        known: NamedScorer | None,
        ridge: float,
        spread: float,
    ) -> ExampleCritic:
        shape, examples = with_it.shape[1:], torch.cat([with_it, without])
        sizes: dict[str, Any] = {}
        if known is not None:
            sizes = {k: known.config[k] for k in ("width", "depth")}
        critic = cls(shape, name, **sizes).to(examples.device)
        if known is not None:
            # in order, for layers that drop units while training are left out here
            pairs = zip(
                critic.trunk.state_dict(), known.net.trunk.state_dict().values(), strict=True
            )
            critic.trunk.load_state_dict(dict(pairs))
        others = examples
        if latents is not None:
            order = permutation(len(latents), seed=0, epoch=0, purpose="covariance")
            rows = order[: MOST_ROWS if len(critic.weight) <= MOST_FEATURES else FEWER_ROWS]
            others = latents[rows].mean.to(examples)
            critic.posterior_std.copy_(latents.posterior_std())
        if known is None:
            critic.trunk.shift.copy_(others.mean(0))
        high, low = (critic._features_of(part).mean(0) for part in (with_it, without))
        around = critic._features_of(others)
        difference = high - low
        if not bool(difference.any()):
            raise InputError(f"The examples with and without {name!r} are the same on average.")
        weight = difference
        if latents is not None and math.isfinite(ridge):
            centred = around - around.mean(0)
            pull = ridge / len(examples) * centred.square().mean()
            weight = _solved(centred, pull, difference)
        size = (around @ weight).std().clamp_min(1e-12)
        critic.weight.copy_(weight * (spread / size))
        critic.bias.copy_(-(critic.weight @ (high + low)) / 2)
        return critic.eval()

    def _features_of(self, z: Tensor) -> Tensor:
        return torch.cat([self.features(part) for part in z.split(PART)])


def _solved(centred: Tensor, pull: Tensor, difference: Tensor) -> Tensor:
    r""":math:`(S + p I)^{-1} d` for the covariance of rows `centred (N, F)`, up to a factor."""
    count, size = centred.shape
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
    known: NamedScorer | None,
) -> None:
    shape = tuple(with_it.shape[1:])
    for what, part in (("with it", with_it), ("without it", without)):
        if part.ndim < 2 or tuple(part.shape[1:]) != shape:
            raise ShapeError(
                f"Examples of {name!r} are latents (n, *latent_shape) of one shape; those with it "
                f"are {tuple(with_it.shape)}, those without {tuple(without.shape)}."
            )
        if not len(part):
            raise InputError(
                f"There is no example {what} of {name!r}. One class says nothing of what tells it "
                f"apart: bring latents of both, ordinary ones without it will do."
            )
        if not bool(torch.isfinite(part).all()):
            raise InputError(f"An example {what} of {name!r} is not finite.")
    for kind, given in (("latents", latents), ("known critic", known)):
        if given is not None and given.latent_shape != shape:
            raise ShapeError(
                f"The examples of {name!r} are latents {shape}, the {kind} are of "
                f"{given.latent_shape}. They belong to another decoder."
            )

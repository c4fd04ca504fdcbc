r"""cGML's one-to-many prediction: an encoder, a generator and an updater, without an adversary.

For a pair :math:`(x, y)` descent through the generator finds the latent of this answer, and the
three networks are trained on where it ends,

.. math::
    h = H(x), \qquad z_0 = 0, \qquad
    z_{p+1} = \text{descent step on } |G(h, z_p + \sigma \epsilon_p) - y|_1
        \quad (p = 0 ... M - 1), \\
    \min_{H, G} \; |G(h, z_M + \sigma \epsilon) - y|_1, \qquad
    \min_Z \; \|Z(h, t, (1 - t)\, \zeta + t\, z_M) - z_M\|^2, \quad
    \zeta \sim \mathcal{N}(0, I), \; t \sim \mathcal{U}(0, 1)

Answers are never averaged: each has its own region of the latent space, and the noise of standard
deviation :math:`\sigma` keeps the regions apart. A descent may end between two of them: a pair
takes over the end of another pair of its batch where that one fits :math:`y` clearly better.

At inference the updater walks there from a start :math:`\zeta`, without :math:`y`, in `N` strides
and `R` rounds in which it settles,

.. math::
    z \leftarrow z + \frac{Z(h, p / N, z) - z}{N - p}, \qquad
    z \leftarrow Z(h, \tau, (1 - \tau)\, \zeta + \tau z).

Other starts lead to other answers. :math:`Z` is the mean end of all straight lines through a point,
so that the walk is flow matching: the share of the starts that lead to an answer is its share of
the pairs. The rounds move a walk that ended between two answers to the nearer one.

In the paper the descent begins at the start of the walk, and :math:`Z` learns each step of its path
without :math:`t`. There the paths of different answers lead through the same latents, where
:math:`Z` follows the majority, and frequent answers displace rare ones.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Gradient Origin Networks (Bond-Taylor & Willcocks, 2021)
    | https://arxiv.org/abs/2007.02798
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

__all__ = ["OneToMany"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...decoder.descent import append_dims, descend
from ...errors import InputError, NonFiniteError
from ...nn import Trunk
from ...nn.grids import layer
from ...random import noise
from ...training import Step, train

TIMES = 4  # points of each line in a step of training
SETTLE_AT = 0.75  # time of the last rounds
CLEARLY = 0.7  # cost of another end relative to the own one, below which it is taken over
DESCENT = {"steps": 10, "learning_rate": 0.8, "adam": True, "momentum": 0.5, "anneal": 1.0}


class OneToMany(nn.Module):
    """Several answers to one input, each as often as among the pairs.

    Arguments:
        encoder: `H`, from inputs `(B, ...)` to features `(B, K)`, or to a tuple of these and of
            more that the generator takes (the skips of a U-Net).
        generator: `G(h, z)`, from the encoder's output and latents to outputs `(B, ...)`.
        features: Number of features `K`.
        latent_shape: Shape of one latent; a few dimensions are enough.
        width: Units of each layer of the updater.
        depth: Number of its layers.
        steps: Strides of a walk, `N`.
        rounds: Rounds at its end, `R`.
        margin: Standard deviation of the noise on latents, about a half of the distance at which
            answers are kept apart.
        others: How many other pairs of its batch a pair compares its end with; 0 for none. Each
            process compares its own.
        squared: Whether the descent is on the squared error instead of the absolute one.
        descent: Arguments of `latentctl.decoder.descent.descend`: `learning_rate`, `steps`,
            `momentum`, `adam`, `anneal`.

    Raises:
        InputError: If `steps` of the walk or of the `descent` is below 1.

    Example:
        >>> generator = lambda h, z: torch.cat([h[:, :1] * z, h[:, 1:3] * z], dim=1)
        >>> model = OneToMany(nn.Linear(1, 4), generator, 4, (1,), width=8)
        >>> model.predict(torch.zeros(2, 1), count=6).shape  # six answers to each
        torch.Size([2, 6, 3])
    """

    def __init__(
        self,
        encoder: Any,
        generator: Any,
        features: int,
        latent_shape: Sequence[int] = (4,),
        *,
        width: int = 128,
        depth: int = 3,
        steps: int = 10,
        rounds: int = 15,
        margin: float = 0.5,
        others: int = 4,
        squared: bool = False,
        descent: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator
        self.latent_shape, self.steps, self.rounds = tuple(latent_shape), steps, rounds
        self.margin, self.others, self.squared = margin, others, squared
        self.descent: dict[str, Any] = {**DESCENT, **(descent or {})}
        if min(steps, self.descent["steps"]) < 1:
            raise InputError(
                f"A walk and a descent need 1 step or more, they have {steps} and "
                f"{self.descent['steps']}."
            )
        trunk = Trunk(latent_shape, features + 1, width=width, depth=depth, smooth=True)
        self.trunk, self.head = trunk, layer(trunk.axes, width, latent_shape[0], kernel=1)

    def ending(self, h: Any, t: Tensor, z: Tensor) -> Tensor:
        """`Z`: the mean end `(B, *latent_shape)` of lines through `z` at times `t (B,)`."""
        seen = torch.cat([_features(h), 2 * t[:, None] - 1], dim=1)
        end: Tensor = self.head(self.trunk(z, seen))
        return end

    @torch.no_grad()
    def walk(self, h: Any, start: Tensor) -> Tensor:
        """All latents of walks from `start (B, *latent_shape)`, `(N + R + 1, B, *latent_shape)`."""
        path = [start]
        for step in range(self.steps):
            z = path[-1]
            t = torch.full((len(z),), step / self.steps, device=z.device)
            path.append(z + (self.ending(h, t, z) - z) / (self.steps - step))
        t = torch.full((len(start),), SETTLE_AT, device=start.device)
        for _ in range(self.rounds):
            path.append(self.ending(h, t, torch.lerp(start, path[-1], SETTLE_AT)))
        return torch.stack(path)

    @torch.no_grad()
    def predict(self, x: Tensor, count: int = 1, *, seed: int = 0) -> Tensor:
        """Answers `(B, count, ...)` to inputs `(B, ...)`, each from its own start by `seed`.

        They are on the device of `x`.
        """
        z, h = self.find(x, count, seed=seed)
        answers: Tensor = self.generator(h, z).unflatten(0, (len(x), count)).to(x.device)
        return answers

    @torch.no_grad()
    def find(self, x: Tensor, count: int = 1, *, seed: int = 0) -> tuple[Tensor, Any]:
        """The latents of the answers, `(B * count, *latent_shape)`, and `h` of each."""
        home = self.trunk.shift.device
        rows = torch.arange(len(x), device=home).repeat_interleave(count)
        h = _rows(self.encoder(x.to(home)), rows)
        start = noise(0, len(rows), self.latent_shape, seed=seed, purpose="starts").to(home)
        return self.walk(h, start)[-1], h

    def loss(self, x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of all three networks on `step.count` pairs, summed: they share no gradient.

        Raises:
            NonFiniteError: If no descent of this step is finite. If some are, the other pairs are
                left out, and counted in the log as `dropped`.
        """
        h = self.encoder(x)
        fixed = _rows(h, slice(None), detach=True)
        end = self._descent_ends(fixed, y, step)
        finite = torch.isfinite(end).flatten(1).all(1)
        for part in (y, _features(fixed)):
            finite &= torch.isfinite(part).flatten(1).all(1)
        rows = finite.nonzero().flatten()
        if not len(rows):
            raise NonFiniteError(
                "No descent of this step is finite. Check that x and y are, and take a smaller "
                "learning_rate of the descent."
            )
        own, target = _rows(h, rows), y[rows]
        blurred = end + self.margin * step.normal(*self.latent_shape, purpose="margin of G")
        error = _error(self.generator(own, blurred[rows]), target).mean()
        walk = self._walk_loss(fixed, end, rows, step)
        dropped = torch.tensor(float(len(x) - len(rows)))
        logs = {"updater": walk, "error": error, "dropped": dropped}
        return walk + error, logs

    def _walk_loss(self, h: Any, end: Tensor, rows: Tensor, step: Step) -> Tensor:
        """The loss of the updater on `rows`, at several points of lines to their ends."""
        start = step.normal(TIMES, *self.latent_shape, purpose="starts")[rows].flatten(0, 1)
        t = step.uniform(TIMES, purpose="times")[rows].flatten()
        lines = rows.repeat_interleave(TIMES)
        goal = end[lines]
        between = torch.lerp(start, goal, append_dims(t, goal))
        return (self.ending(_rows(h, lines), t, between) - goal).square().mean()

    def _descent_ends(self, h: Any, y: Tensor, step: Step) -> Tensor:
        """Where the descent of each pair ends, `(B, *latent_shape)`."""
        steps = self.descent["steps"]
        blur = self.margin * step.normal(steps, *self.latent_shape, purpose="margin")
        blurs = iter(blur.unbind(1))

        def cost(z: Tensor) -> Tensor:
            return self._cost(self.generator(h, z + next(blurs)), y)

        origin = torch.zeros(len(y), *self.latent_shape, device=y.device)
        return self._exchange(h, y, descend(cost, origin, **self.descent)[-1], step)

    @torch.no_grad()
    def _exchange(self, h: Any, y: Tensor, end: Tensor, step: Step) -> Tensor:
        """Each pair takes over the end of one of the next pairs where it costs clearly less."""
        tried = torch.stack([end.roll(-k, 0) for k in range(self.others + 1)], dim=1)
        blur = self.margin * step.normal(*self.latent_shape, purpose="margin of the exchange")
        rows = torch.arange(len(y), device=y.device).repeat_interleave(self.others + 1)
        drawn = self.generator(_rows(h, rows), (tried + blur[:, None]).flatten(0, 1))
        costs = self._cost(drawn, y[rows]).view(len(y), -1).nan_to_num(nan=torch.inf)
        least, best = costs.min(1)
        best = torch.where(least < CLEARLY * costs[:, 0], best, 0)
        return tried[torch.arange(len(y), device=y.device), best]

    def _cost(self, drawn: Tensor, y: Tensor) -> Tensor:
        return (drawn - y).flatten(1).square().mean(1) if self.squared else _error(drawn, y)

    def fit(self, data: Any, **options: Any) -> OneToMany:
        """Trains the three networks together on pairs `(x, y)`.

        Arguments:
            data: Gives `(x, y)` batches for `(B,)` integer tensors, as a `TensorDataset` does.
            options: Arguments of `latentctl.training.train`. By default there are 3,000 steps of
                128 pairs, with a whole descent in each; the learning rate of 3e-3 falls to zero,
                and the weights end as their average with a decay of 0.99.
        """

        def batch_loss(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = batch
            return self.loss(x, y, step)

        settings: dict[str, Any] = {
            "max_train_steps": 3000,
            "batch_size": 128,
            "learning_rate": 3e-3,
            "ema": 0.99,
        }
        settings |= {"lr_scheduler": "linear", "max_grad_norm": 5.0, **options}
        train(self, batch_loss, data, name="cgml", **settings)
        return self


def _features(h: Any) -> Tensor:
    features: Tensor = h[0] if isinstance(h, tuple) else h
    return features


def _rows(h: Any, rows: Any, *, detach: bool = False) -> Any:
    if isinstance(h, tuple):
        return tuple(_rows(part, rows, detach=detach) for part in h)
    return h[rows].detach() if detach else h[rows]


def _error(drawn: Tensor, y: Tensor) -> Tensor:
    return (drawn - y).flatten(1).abs().mean(1)

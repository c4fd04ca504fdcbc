r"""cGML's one-to-many prediction: an encoder, a generator and an updater, without an adversary.

For a pair :math:`(x, y)` the latent of this answer is found among `S` fixed starts :math:`s_k`, and
the three networks are trained on it,

.. math::
    h = H(x), \qquad
    P(k) \propto \exp\big(-D \, c_k / b\big) \, p_k(h)^{1 - b / b_0}, \quad
    c_k = |G(h, s_k) - y|_1, \qquad z = s_k, \; k \sim P, \\
    \min_{H, G} \; |G(h, z + \sigma \epsilon) - y|_1, \qquad
    \min_Z \; -\log p_k(h, t, (1 - t)\, \zeta + t\, z), \quad
    \zeta \sim \mathcal{N}(0, I), \; t \sim \mathcal{U}(0, 1)

Answers are never averaged: each has its own starts, and the noise of standard deviation
:math:`\sigma` makes the generator constant around each. The draw is the E-step of stochastic EM for
a mixture of Laplace distributions of `D` dimensions. Their scale `b` is the mean cost of what was
drawn. It begins wide, :math:`b_0`, where all starts are alike, and narrows as the generator learns,
so that starts separate step by step, as in deterministic annealing. The share
:math:`p_k(h) = p_k(h, 0, \zeta)` is the updater's. It decides between starts that answer equally
well, and does not count at first, where frequent answers would displace rare ones.

With a `descent` the latent moves on from the start by gradient descent on
:math:`|G(h, z + \sigma \epsilon) - y|_1`, as in the paper, for answers that vary continuously. The
updater then also learns the mean way from :math:`s_k` to the end.

At inference the updater walks there from :math:`\zeta`, without :math:`y`, in `N` strides and `R`
rounds in which it settles, with the mean end :math:`Z = \sum_k p_k s_k` of all straight lines
through a point,

.. math::
    z \leftarrow z + \frac{Z(h, p / N, z) - z}{N - p}, \qquad
    z \leftarrow Z(h, \tau, (1 - \tau)\, \zeta + \tau z).

The walk is flow matching: the share of the :math:`\zeta` that lead to an answer is its share of the
pairs. The rounds move a walk that ended between two answers to the nearer one.

In the paper each pair descends from one random start. Two answers may then share the region of a
start, where the generator gives their average, and no descent separates them.

References:
    | Conditional Generative Modeling via Learning the Latent Space (Ramasinghe et al., 2021)
    | https://arxiv.org/abs/2010.03132
    | Gradient Origin Networks (Bond-Taylor & Willcocks, 2021)
    | https://arxiv.org/abs/2007.02798
    | Flow Matching for Generative Modeling (Lipman et al., 2022)
    | https://arxiv.org/abs/2210.02747
    | Variational Flow Matching (Eijkelboom et al., 2024), on the mean end of categories
    | https://arxiv.org/abs/2406.04843
    | Deterministic Annealing for Clustering and Related Problems (Rose, 1998)
    | https://doi.org/10.1109/5.726788
"""

from __future__ import annotations

__all__ = ["OneToMany"]

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...decoder.descent import append_dims, descend
from ...errors import InputError, NonFiniteError
from ...nn import Trunk
from ...nn.grids import layer
from ...random import noise
from ...training import Step, train
from .starts import draw_start, finite_mean, starts_apart

TIMES = 4  # points of each line in a step of training
SETTLE_AT = 0.75  # time of the last rounds
KEPT = 0.9  # decay of the scale's average
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
        margin: Standard deviation of the noise on latents. Starts are 4 apart.
        starts: Number of starts `S`, a few times that of the answers to an input.
        squared: Whether starts and descents are compared by squared instead of absolute errors.
        descent: None for none: an input then has at most as many answers as there are starts.
            Otherwise arguments of `latentctl.decoder.descent.descend` that differ from `DESCENT`.

    Raises:
        InputError: If `starts`, or `steps` of the walk or of the `descent`, is below 1.

    Example:
        >>> generator = lambda h, z: torch.cat([h[:, :1] * z, h[:, 1:3] * z], dim=1)
        >>> model = OneToMany(nn.Linear(1, 4), generator, 4, (1,), width=8)
        >>> model.predict(torch.zeros(2, 1), count=6).shape  # six answers to each
        torch.Size([2, 6, 3])
    """

    starts: Tensor
    scale: Tensor

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
        starts: int = 16,
        squared: bool = False,
        descent: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator
        self.latent_shape, self.steps, self.rounds = tuple(latent_shape), steps, rounds
        self.margin, self.squared = margin, squared
        self.descent = None if descent is None else {**DESCENT, **descent}
        if min(steps, starts, 1 if self.descent is None else self.descent["steps"]) < 1:
            raise InputError(
                f"A walk, a descent and the starts need 1 or more, found {steps} steps of the "
                f"walk, {starts} starts and the descent {self.descent}."
            )
        trunk = Trunk(latent_shape, features + 1, width=width, depth=depth, smooth=True)
        self.trunk, self.head = trunk, nn.Linear(width, starts)
        self.way = None if descent is None else layer(trunk.axes, width, latent_shape[0], kernel=1)
        for part in filter(None, (self.head, self.way)):
            nn.init.zeros_(part.get_parameter("weight"))
            nn.init.zeros_(part.get_parameter("bias"))
        self.register_buffer("starts", starts_apart(starts, latent_shape))
        self.register_buffer("scale", torch.zeros(2))  # `b`, and `b_0`; 0 before the first step

    def ending(self, h: Any, t: Tensor, z: Tensor) -> Tensor:
        """`Z`: the mean end `(B, *latent_shape)` of lines through `z` at times `t (B,)`."""
        log_share, way = self._ending(h, t, z)
        return torch.einsum("bk,k...->b...", log_share.exp(), self.starts) + way

    def _ending(self, h: Any, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The log-shares `(B, S)` of the starts, and the way from a start to the end."""
        seen = torch.cat([_features(h), 2 * t[:, None] - 1], dim=1)
        features = self.trunk(z, seen)
        pooled = features.flatten(2).mean(2) if self.trunk.spatial else features
        log_share = self.head(pooled).log_softmax(1)
        return log_share, z.new_zeros(()) if self.way is None else self.way(features)

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
        chosen = self._drawn_starts(fixed, y, step)
        end = self._ends(fixed, y, chosen, step)
        finite = torch.isfinite(end).flatten(1).all(1)
        for part in (y, _features(fixed)):
            finite &= torch.isfinite(part).flatten(1).all(1)
        rows = finite.nonzero().flatten()
        if not len(rows):
            raise NonFiniteError(
                "No end of this step is finite. Check that x and y are, and take a smaller "
                "learning_rate of the descent, if there is one."
            )
        own, target = _rows(h, rows), y[rows]
        blurred = end + self.margin * step.normal(*self.latent_shape, purpose="margin of G")
        error = _error(self.generator(own, blurred[rows]), target).mean()
        walk = self._walk_loss(fixed, chosen, end, rows, step)
        dropped = torch.tensor(float(len(x) - len(rows)))
        logs = {"updater": walk, "error": error, "dropped": dropped}
        return walk + error, logs

    def _walk_loss(self, h: Any, chosen: Tensor, end: Tensor, rows: Tensor, step: Step) -> Tensor:
        """The loss of the updater on `rows`, at several points of lines to their ends."""
        start = step.normal(TIMES, *self.latent_shape, purpose="starts")[rows].flatten(0, 1)
        t = step.uniform(TIMES, purpose="times")[rows].flatten()
        lines = rows.repeat_interleave(TIMES)
        goal, chosen = end[lines], chosen[lines]
        between = torch.lerp(start, goal, append_dims(t, goal))
        log_share, way = self._ending(_rows(h, lines), t, between)
        loss = F.nll_loss(log_share, chosen)
        return loss if self.way is None else loss + F.mse_loss(way, goal - self.starts[chosen])

    @torch.no_grad()
    def _drawn_starts(self, h: Any, y: Tensor, step: Step) -> Tensor:
        """The number of the start of each pair, drawn by how well it answers, `(B,)`."""
        count, starts = len(y), len(self.starts)
        rows = torch.arange(count, device=y.device).repeat_interleave(starts)
        tried = self.starts.expand(count, *self.starts.shape).flatten(0, 1)
        drawn = self.generator(_rows(h, rows), tried)
        costs = self._cost(drawn, y[rows]).view(count, starts).nan_to_num(nan=torch.inf)
        if not bool(self.scale[1]):
            self.scale.fill_(finite_mean(costs))
        t, nowhere = torch.zeros(count).to(y), step.normal(*self.latent_shape, purpose="share")
        log_share = self._ending(h, t, nowhere)[0]
        uniform = step.uniform(starts, purpose="choice")
        chosen = draw_start(costs, log_share, self.scale, y[0].numel(), uniform)
        if self.training:
            self.scale[0].lerp_(finite_mean(costs.gather(1, chosen[:, None])), 1 - KEPT)
        return chosen

    def _ends(self, h: Any, y: Tensor, chosen: Tensor, step: Step) -> Tensor:
        """The ends of the pairs, `(B, *latent_shape)`: their starts, or those of descents there."""
        start = self.starts[chosen]
        if self.descent is None:
            return start
        size = (self.descent["steps"], *self.latent_shape)
        blurs = iter((self.margin * step.normal(*size, purpose="margin")).unbind(1))

        def cost(z: Tensor) -> Tensor:
            return self._cost(self.generator(h, z + next(blurs)), y)

        return descend(cost, start, **self.descent)[-1]

    def _cost(self, drawn: Tensor, y: Tensor) -> Tensor:
        return (drawn - y).flatten(1).square().mean(1) if self.squared else _error(drawn, y)

    def fit(self, data: Any, **options: Any) -> OneToMany:
        """Trains the three networks together on pairs `(x, y)`.

        Arguments:
            data: Gives `(x, y)` batches for `(B,)` integer tensors, as a `TensorDataset` does.
            options: Arguments of `latentctl.training.train`. By default there are 3,000 steps of
                128 pairs; the learning rate of 1e-2 falls to zero, and the weights end as their
                average with a decay of 0.99.
        """

        def batch_loss(batch: Any, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = batch
            return self.loss(x, y, step)

        settings: dict[str, Any] = {
            "max_train_steps": 3000,
            "batch_size": 128,
            "learning_rate": 1e-2,
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
